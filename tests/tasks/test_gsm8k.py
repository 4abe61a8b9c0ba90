import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffpo_jax import tasks
from diffpo_jax.config import PromptConfig, TaskConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.d1 import gsm8k as d1_gsm8k
from diffpo_jax.tasks.gsm8k import Gsm8k
from diffpo_jax.tasks.task import Example

ROWS = [
    {
        "question": f"What is {i} times 300?",
        "answer": f"{i}*300=<<{i}*300={i * 300}>>\n#### {i * 300:,}",
    }
    for i in range(1, 13)
]


def write(path, rows=ROWS):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def make(tmp_path, kind="tags", rows=ROWS, **settings):
    path = write(tmp_path / "rows.jsonl", rows)
    settings = {"train_file": path, "test_file": path, "validation_examples": 3} | settings
    prompt = PromptConfig(answer=kind, template=settings.pop("template", "{question}"))
    return tasks.make_task(TaskConfig(name="gsm8k", prompt=prompt, **settings), tmp_path)


def problem(gold="18"):
    return Example("id", "?", gold, {"answer": gold, "calculations": 2})


@pytest.mark.parametrize(
    ("kind", "gold", "completion", "correct", "parsed"),
    [
        ("tags", "18", "<answer>18</answer>", True, True),
        ("tags", "18", "so 9 + 9 = 18\n<answer>$18.00</answer>", True, True),
        ("tags", "18", "<answer>x = 18 dollars</answer>", True, True),
        ("tags", "18", "<answer>17</answer>", False, True),
        ("tags", "18", "<answer>17</answer> no, <answer>18</answer>", True, True),
        ("tags", "18", "<answer>18</answer> no, <answer>17</answer>", False, True),
        ("tags", "18", "<answer>17 or 18</answer>", False, False),
        ("tags", "18", "<answer>17<answer>18</answer></answer>", True, True),
        ("tags", "18", "<answer>18", False, False),
        ("tags", "18", "the answer is 18", False, False),
        (
            "tags",
            "18",
            r"\boxed{18}",
            True,
            True,
        ),  # not as configured, but accepted
        ("tags", "18", r"<answer>\boxed{18}</answer>", True, True),
        ("boxed", "18", r"so \boxed{18}", True, True),
        ("boxed", "18", r"\boxed{\text{18 apples}}", True, True),
        ("boxed", "18", r"\boxed{18", False, False),
        ("text", "18", "18", True, True),
        ("text", "18", "9 + 9 is 18.", True, True),
        ("text", "18", "18, not 17", False, False),
        ("text", "18", "eighteen", False, False),
        ("text", "18", "", False, False),
        ("tags", "1,234", "<answer>1234</answer>", True, True),
        ("tags", "1234", "<answer>1,234.0</answer>", True, True),
        ("tags", "-3", "<answer>\u22123</answer>", True, True),
        ("tags", "-3", "<answer>3</answer>", False, True),
        ("tags", "-5", r"<answer>-\$5</answer>", True, True),
        ("tags", "5", r"<answer>-\$5</answer>", False, True),
        ("tags", "-5", "<answer>negative 5</answer>", True, True),
        ("tags", "5", "<answer>negative 5</answer>", False, True),
        ("tags", "5", "<answer>—5</answer>", False, True),
        ("tags", "3", "<answer>3 million</answer>", False, True),
        ("tags", "3000000", "<answer>3 million</answer>", True, True),
        ("tags", "3000", "<answer>3k</answer>", True, True),
        ("tags", "2", r"<answer>\sqrt{2}</answer>", False, False),
        ("tags", "5", r"<answer></answer> \boxed{5}", True, True),
        ("boxed", "5", r"\boxed{5}. Final answer is in \boxed{}.", True, True),
        ("boxed", "5", r"so \boxed 5 apples", True, True),
        ("boxed", "5", r"\boxed{5}<|eot_id|>", True, True),
        ("boxed", "18", "\\boxed{1<|mask|>8}", False, False),
        ("tags", "0.5", r"<answer>\frac{1}{2}</answer>", True, True),
        ("tags", "50", "<answer>50 %</answer>", True, True),
        ("tags", "50", "<answer>0.5</answer>", False, True),
    ],
)
def test_verdicts_of_the_default_protocol(tmp_path, kind, gold, completion, correct, parsed):
    reward = make(tmp_path, kind).reward(problem(gold), completion)
    assert (reward.correct, reward.parsed) == (correct, parsed)
    assert reward.total == reward.parts["correct"] == correct


@pytest.mark.parametrize(
    ("gold", "completion", "correct", "answer"),
    [
        ("18", r"\boxed{18}", True, "18"),
        ("18", r"\boxed{18.0}", True, "18.0"),
        ("18", r"\boxed{...} \boxed{} \boxed{18}", True, "18"),
        ("18", r"\boxed{17} no, \boxed{18}", False, "17"),  # the first box counts
        ("18", r"\boxed{$18}", True, "$18"),
        ("1,234", r"\boxed{1,234}", False, "1,234"),  # d1 reads 1: a comma ends a number
        ("1,234", r"\boxed{1234}", True, "1234"),
        ("18", r"\boxed{\text{18}}", True, r"\text{18"),  # up to the first brace
        ("18", "\\boxed{\n18}", False, None),  # a box is on one line
        ("18", r"\boxed{none} <answer>18</answer>", True, "18"),
        ("18", "<answer>17, or 18</answer>", True, "17, or 18"),  # the last number of a tag
        ("18", "<answer>18</answer> <answer>17</answer>", True, "18"),  # the first tag
        ("18", "18", False, None),
        ("-3", r"\boxed{-3}", False, "-3"),  # d1 finds no number in such a gold answer
        ("-3", r"\boxed{3}", False, "3"),
        ("$18", r"\boxed{18}", True, "18"),
        ("18", "<answer>\n18<|eot_id|>", False, None),  # the tag is not closed
        ("18", r"\boxed{18}<|eot_id|><|endoftext|>", True, "18"),
        ("18", r"\boxed{1/2}", False, "1/2"),
    ],
)
def test_verdicts_of_d1s_evaluation(tmp_path, gold, completion, correct, answer):
    reward = make(tmp_path, protocol="d1").reward(problem(gold), completion)
    assert (reward.correct, reward.answer) == (correct, answer)


GOOD = "<reasoning>\n9 + 9\n</reasoning>\n<answer>\n18\n</answer>\n"


@pytest.mark.parametrize(
    ("completion", "xmlcount", "soft", "strict", "whole", "correctness"),
    [
        (GOOD, 0.5, 0, 0.5, 0.5, 2.0),
        # Without the newline at the end, the whole text is charged and one character given back.
        (GOOD.rstrip("\n"), 0.5 - 0.001 * (len(GOOD) - 1) + 0.001, 0, 0, 0.5, 2.0),
        (GOOD + "12345", 0.5 - 0.001 * 5 - 0.001 * 5, 0, 0, 0.5, 2.0),
        (GOOD + "\n", 0.5 - 0.001 - 0.001, 0, 0.5, 0.5, 2.0),
        (GOOD.replace("9 + 9", "9\n+ 9"), 0.5, 0, 0, 0.5, 2.0),  # two lines of reasoning
        ("<reasoning>9</reasoning> \n <answer>18</answer>", 0, 0.5, 0, 0.5, 2.0),
        ("<reasoning>9</reasoning><answer>1\n8</answer>", 0, 0, 0, 0, 0),
        ("<reasoning>9</reasoning><answer>18", 0, 0, 0, 0.5, 2.0),  # no closing tag is needed
        ("18", 0, 0, 0, 0.5, 2.0),  # nor any tag
        ("<answer>17</answer><answer>18</answer>", 0, 0, 0, 0.5, 2.0),
        ("<answer>18.0</answer>", 0, 0, 0, 0, 0),
        ("<answer>-18</answer>", 0, 0, 0, 0, 0),
        ("", 0, 0, 0, 0, 0),
        ("\n<answer>\n" + "x" * 2000, 0.125 - 0.001 * 2010, 0, 0, 0, 0),  # far below 0
    ],
)
def test_d1s_rewards_by_hand(tmp_path, completion, xmlcount, soft, strict, whole, correctness):
    reward = make(tmp_path, protocol="d1").reward(problem(), completion)
    expected = {
        "xmlcount": xmlcount,
        "soft_format": soft,
        "strict_format": strict,
        "int": whole,
        "correctness": correctness,
    }
    parts = {name: reward.parts[name] for name in expected}
    assert parts == pytest.approx(expected)
    assert reward.total == reward.parts["d1"] == pytest.approx(sum(expected.values()))


def test_d1s_rewards_are_those_of_the_text_without_special_tokens(tmp_path):
    task = make(tmp_path, protocol="d1")
    ends = "<|eot_id|><|endoftext|><|endoftext|>"
    assert task.reward(problem(), GOOD + ends) == task.reward(problem(), GOOD)
    assert task.reward(problem(), GOOD + ends).parts["xmlcount"] == 0.5
    assert task.reads_special_tokens
    assert not make(tmp_path).reads_special_tokens


def test_d1s_rewards_compare_strings(tmp_path):
    task = make(tmp_path, protocol="d1")
    for gold, text, right in [
        ("1,234", "1,234", True),
        ("1,234", "1234", False),
        ("5", "5.0", False),
    ]:
        parts = task.reward(problem(gold), f"<answer>{text}</answer>").parts
        assert parts["correctness"] == 2.0 * right
        assert parts["correct"] == 1.0


TAGS = ["<reasoning>", "</reasoning>", "<answer>", "</answer>", "\n", " ", "18", "x"]
pieces = st.lists(st.sampled_from([*TAGS, "\\boxed{", "}", "{", "."]), max_size=30).map("".join)


@given(pieces)
@example(GOOD)
@example("<reasoning></reasoning></reasoning> <answer></answer>")
@example("<reasoning></reasoning>\n\n<answer>x</answer>")
def test_d1s_formats_are_those_of_its_patterns(text):
    """d1's patterns define the formats; our functions are linear in the text, they are not."""
    soft = re.match(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>", text)
    strict = re.match(r"^<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n$", text)
    rewards = d1_gsm8k.rewards(problem(), text, "tags")
    assert rewards["soft_format"] == 0.5 * bool(soft)
    assert rewards["strict_format"] == 0.5 * bool(strict)
    assert d1_gsm8k._boxes(text) == re.findall(r"\\boxed\{(.*?)\}", text)


@given(st.text() | pieces, st.sampled_from(["text", "tags", "boxed"]))
@example("<reasoning>" + "</reasoning><answer>" * 400, "tags")
@example("\\boxed{" * 1000, "boxed")
@example("</reasoning>" + " " * 8000, "tags")
@example("<answer>" * 1000, "tags")
@example("9" * 8000, "text")
@example("<answer>1" + ",111" * 2000 + "</answer>", "tags")
@example("\\boxed{\ud800}", "boxed")
def test_any_completion_is_graded(tmp_path_factory, text, kind):
    for protocol in ("default", "d1"):
        task = make(tmp_path_factory.getbasetemp(), kind, protocol=protocol)
        (reward,) = task.rewards([problem()], [text])
        assert set(reward.parts) == set(Gsm8k.REWARDS)
        assert reward.total <= task.reward_max


def test_examples_are_made_of_rows(tmp_path):
    task = make(tmp_path, "tags", template="words")
    test = task.examples("test")
    assert [e.meta["answer"] for e in test] == [f"{i * 300:,}" for i in range(1, 13)]
    assert re.fullmatch("gsm8k/test/3-[0-9a-f]{8}", test[3].id)
    assert ROWS[3]["question"] in test[3].prompt
    assert "<answer>" in test[3].prompt
    assert test[3].target == "<answer>1,200</answer>"
    assert task.difficulty(test[3]) == 1.0
    assert all(r.correct for r in task.rewards(test, [e.target for e in test]))
    assert task.overlap() == 12


def test_validation_is_held_out_of_train(tmp_path):
    task = make(tmp_path)
    train, validation = task.examples("train"), task.examples("validation")
    assert (len(train), len(validation)) == (9, 3)
    assert {e.id.split("/")[1] for e in validation} == {"train"}
    ids = {e.id for e in train} | {e.id for e in validation}
    assert ids == {e.id.replace("test", "train") for e in task.examples("test")}
    # A row stays in its split if others are added.
    more = make(
        tmp_path, rows=[*ROWS, {"question": "0?", "answer": "#### 0"}], validation_examples=4
    )
    assert {e.prompt for e in validation} <= {e.prompt for e in more.examples("validation")}
    assert len(make(tmp_path, validation_examples=0).examples("train")) == 12


def test_rows_of_one_question_are_held_out_together(tmp_path):
    for count in range(1, 6):
        task = make(tmp_path, rows=[*ROWS, *ROWS], validation_examples=count)
        train, validation = task.examples("train"), task.examples("validation")
        assert not {e.prompt for e in train} & {e.prompt for e in validation}
        assert len(validation) == 2 * -(-count // 2)  # whole questions, at least as many as asked
        assert len(train) + len(validation) == 24


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward": "best"}, "use one of: correct, formatted, d1, xmlcount"),
        ({"template": "{problem}"}, r"\{problem\} is not a field"),
        ({"validation_examples": 12}, "validation_examples=12 leaves nothing to train on"),
        (
            {"rows": [{"question": "1?", "answer": "1"}], "validation_examples": 0},
            "line 1: .*must end in #### and a number",
        ),
        ({"rows": [*ROWS, {"question": "1?", "answer": "#### one"}]}, "line 13: .*ends in 'one'"),
        ({"rows": [{"problem": "1?"}]}, "line 1 has no column 'question'"),
        ({"rows": []}, "has no row"),
    ],
)
def test_faulty_settings_and_rows_are_refused(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        task = make(tmp_path, **settings)
        task.examples("train")


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="dev"):
        make(tmp_path).examples("dev")


def test_the_configured_reward_is_the_total(tmp_path):
    task = make(tmp_path, reward="d1")
    assert task.reward_max == 4.0
    reward = task.reward(problem(), GOOD)
    assert reward.total == pytest.approx(3.5)
    assert reward.correct  # the protocol is still "default"
    assert make(tmp_path).reward_max == 1.0
    assert make(tmp_path, protocol="d1").reward_max == 4.0
    assert make(tmp_path, protocol="d1", reward="correct").reward_max == 1.0


def test_scores_contain_d1s_accuracy(tmp_path):
    task = make(tmp_path)
    texts = ["<answer>18</answer>", r"\boxed{17}", "18"]
    assert task.scores([problem()] * 3, texts) == {"d1_accuracy": pytest.approx(1 / 3)}
    assert task.scores([], []) == {"d1_accuracy": 0.0}
