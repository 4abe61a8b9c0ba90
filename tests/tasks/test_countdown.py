import json
import pathlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax import tasks
from diffpo_jax.config import CountdownConfig, PromptConfig, TaskConfig, convert
from diffpo_jax.data import prompts, tokenizers
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks import countdown
from diffpo_jax.tasks.d1 import countdown as d1_countdown
from diffpo_jax.tasks.protocol import Verdict
from diffpo_jax.tasks.task import Example, Layout

SMALL = CountdownConfig(train_examples=60, validation_examples=11, test_examples=25)
CLOSED = "<answer>3*(5-2)</answer>"


def example(numbers=(3, 5, 2), target=9):
    return Example("id", "", "", {"numbers": list(numbers), "target": target})


def make(tmp_path=None, kind="text", protocol="default", **settings):
    values = {"countdown": SMALL, "prompt": PromptConfig(answer=kind)} | settings
    config = TaskConfig(name="countdown", protocol=protocol, **values)
    return tasks.make_task(config, tmp_path and tmp_path / "data")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return make(tmp_path_factory.mktemp("task"))


@pytest.mark.parametrize(
    ("completion", "exact", "graded", "d1"),
    [
        ("3*(5-2)", 1.0, 1.0, 1.0),
        (" (5-2) * 3\n", 1.0, 1.0, 1.0),
        ("3×(5−2)", 1.0, 1.0, 0.1),  # d1 does not know these signs
        (r"3 \times (5-2)", 1.0, 1.0, 0.1),
        ("3*(5-2)=9", 1.0, 1.0, 0.1),  # an equation that is true
        ("3*(5-2)=8", 0.0, 0.1, 0.1),  # a false equation
        ("3*(5-2)=9=9", 1.0, 1.0, 0.1),
        ("3*(5-2)=3*3=9", 1.0, 1.0, 0.1),
        ("3*(5-2)=3*4=9", 0.0, 0.1, 0.1),
        ("9=3*(5-2)", 1.0, 1.0, 0.1),
        ("3*3=9", 0.0, 0.1, 0.1),
        ("3*(5-2)=", 0.0, 0.0, 0.1),
        ("$3*(5-2)$", 1.0, 1.0, 0.1),
        (r"\(3*(5-2)\)", 1.0, 1.0, 0.1),
        ("**3*(5-2)**", 1.0, 1.0, 0.1),
        ("`3*(5-2) = 9`", 1.0, 1.0, 0.1),
        (r"\text{3*(5-2)}", 1.0, 1.0, 0.1),
        (r"\boxed{3\cdot(5-2)}.", 1.0, 1.0, 0.1),
        ("$3*3$", 0.0, 0.1, 0.1),
        ("3*(5-2]", 0.0, 0.0, 0.1),
        ("3*(5\u20132)", 1.0, 1.0, 0.1),
        ("3\uff0a\uff085\uff0d2\uff09", 1.0, 1.0, 0.1),
        ("3\u2217(5-2)", 1.0, 1.0, 0.1),
        ("3 x (5-2)", 1.0, 1.0, 0.1),
        (r"3\ast(5-2)", 1.0, 1.0, 0.1),
        ("x=3*(5-2)", 1.0, 1.0, 0.1),
        ("The answer is 3*(5-2)", 1.0, 1.0, 0.1),
        (r"\frac{3*(5-2)}{1}", 0.0, 0.1, 0.1),  # one too many
        ("3+5+2", 0.0, 0.1, 0.1),  # another value
        ("3*3", 0.0, 0.1, 0.1),  # other numbers
        ("3*(5-2)*1", 0.0, 0.1, 0.1),  # one too many
        ("3+3+3", 0.0, 0.1, 0.1),
        ("9", 0.0, 0.1, 0.1),
        ("3*(5-2", 0.0, 0.0, 0.1),
        ("3*(5-2),", 0.0, 0.0, 0.1),
        ("no idea", 0.0, 0.0, 0.1),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_rewards_by_hand(task, completion, exact, graded, d1):
    reward = task.reward(example(), completion)
    assert reward.parts == {"exact": exact, "graded": graded, "d1": d1}
    assert reward.total == exact
    assert reward.correct == (exact == 1.0)
    assert reward.parsed == (graded > 0)


@pytest.mark.parametrize(
    ("completion", "numbers", "target", "exact", "d1"),
    [
        ("8**(3-2)", (8, 3, 2), 8, 0.0, 1.0),  # d1 accepts powers
        ("7//2*3", (7, 2, 3), 9, 0.0, 1.0),
        ("(7-5)*3.", (7, 5, 3), 6, 1.0, 1.0),
        (r"\frac{6}{2}\times3", (6, 2, 3), 9, 1.0, 0.1),
        ("99**99**99", (99, 99, 99), 1, 0.0, 0.1),  # not computed
        ("1/(3-3)", (1, 3, 3), 1, 0.0, 0.1),
        ("1/3*6+4", (1, 3, 6, 4), 6, 1.0, 1.0),
        ("6/(1-3/4)", (6, 1, 3, 4), 24, 1.0, 1.0),
        ("100000*(100001/100000)", (100000, 100001, 100000), 100001, 1.0, 1.0),
        ("1/100001-1/100001+5", (1, 100001, 1, 100001, 5), 5, 1.0, 1.0),
        ("1/200001+5", (1, 200001, 5), 5, 0.0, 1.0),  # not exact, but close enough for d1
        ("-3+5", (3, 5), 2, 1.0, 1.0),
        ("03+5", (3, 5), 8, 1.0, 0.1),  # not a number in Python
    ],
)
def test_where_d1s_reward_differs(task, completion, numbers, target, exact, d1):
    parts = task.reward(example(numbers, target), completion).parts
    assert (parts["exact"], parts["d1"]) == (exact, d1)


@pytest.mark.parametrize(
    ("completion", "tags", "boxed", "trained", "evaluated"),
    [
        (CLOSED, 1.0, 1.0, 1.0, False),  # d1's evaluation reads the whole text without a box
        (r"\boxed{3*(5-2)}", 1.0, 1.0, 0.0, True),
        (r"<answer>\boxed{3*(5-2)}</answer>", 1.0, 1.0, 0.1, True),
        (rf"{CLOSED}<|eot_id|><|endoftext|>", 1.0, 1.0, 1.0, False),
        (rf"{CLOSED} \boxed{{3+5+2}}", 1.0, 0.0, 1.0, False),
        (f"<answer>1</answer> {CLOSED}", 1.0, 1.0, 1.0, False),
        (rf"\boxed{{1 {CLOSED}", 1.0, 1.0, 1.0, True),  # the box is not closed
        (r"\boxed{3 \times (5-2) = 9}", 1.0, 1.0, 0.0, True),
        (r"\boxed{3*(5-2) = 7}", 0.0, 0.0, 0.0, True),  # for d1 only the left side counts
        (r"\boxed{3(5-2)}", 0.0, 0.0, 0.0, False),
        ("So 3*(5-2)=9", 0.0, 0.0, 0.0, True),  # for d1 an equation anywhere, without a box
        ("3*(5-2)", 0.0, 0.0, 0.0, True),
        ("<answer>3*(5-2)", 0.0, 0.0, 0.0, False),
        ("", 0.0, 0.0, 0.0, False),
    ],
)
def test_answers_are_read_in_the_configured_place(completion, tags, boxed, trained, evaluated):
    for kind, expected in (("tags", tags), ("boxed", boxed)):
        assert make(kind=kind).reward(example(), completion).total == expected
    reward = make(kind="tags", protocol="d1").reward(example(), completion)
    assert (reward.total, reward.correct) == (trained, evaluated)
    scores = make(kind="tags").scores([example()], [completion])
    assert scores == {"d1_accuracy": float(evaluated)}


def test_d1_parses_an_answer_if_it_has_a_value():
    task = make(protocol="d1")
    assert task.reward(example(), "1+1").parsed
    assert not task.reward(example(), "1+").parsed
    assert task.scores([], []) == {"d1_accuracy": 0.0}


def test_the_configured_reward_is_the_total():
    assert make(reward="graded").reward(example(), "1").total == 0.1
    assert make(protocol="d1").reward(example(), "x").total == 0.1
    assert make(protocol="d1", reward="exact").reward(example(), "x").total == 0.0
    with pytest.raises(UserError, match="reward='close' is unknown; use one of: exact, graded, d1"):
        make(reward="close")


TEXTS = st.text(max_size=60) | st.text("0123456789+-*/()=. \\", max_size=60)


@given(TEXTS, st.sampled_from(["text", "tags", "boxed"]), st.booleans(), st.booleans())
def test_any_text_is_graded(text, kind, d1, marked):
    task = make(kind=kind, protocol="d1" if d1 else "default")
    completion = rf"<answer>{text}</answer> \boxed{{{text}}}" if marked else text
    reward = task.reward(example(), completion)
    assert 0.0 <= reward.total <= task.reward_max
    assert reward.correct <= (reward.parts["exact"] == 1.0 or d1)
    task.scores([example()], [completion])


@pytest.mark.parametrize(
    "piece", ["<answer>", r"\boxed{", "1", "1+", "(", "1=", "-", "**1", "{", " "]
)
def test_long_texts_are_graded_quickly(piece):
    # Hundreds of thousands of characters would take minutes if the time were not linear.
    for protocol in ("default", "d1"):
        for kind in ("text", "tags"):
            assert not make(kind=kind, protocol=protocol).reward(example(), piece * 50_000).correct


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_generated_examples(task, split):
    examples = task.examples(split)
    assert len(examples) == getattr(SMALL, f"{split}_examples")
    for i, item in enumerate(examples):
        numbers, target = item.meta["numbers"], item.meta["target"]
        assert item.prompt == f"{','.join(map(str, numbers))}={target}"
        assert item.id.startswith(f"countdown/{split}/{i}-")
        assert task.difficulty(item) == 3
        assert task.reward(item, item.target).parts == {"exact": 1.0, "graded": 1.0, "d1": 1.0}
    assert [e.id for e in examples[5:9]] == [examples[i].id for i in range(5, 9)]
    assert json.loads(json.dumps(examples[0].meta)) == examples[0].meta
    with pytest.raises(ValueError, match="'dev'"):
        task.examples("dev")


def test_the_tiny_configuration_fits_every_example(tmp_path):
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
    from configs import countdown as config

    values = convert.from_config_dict(config.get_config())
    tokenizer = tokenizers.make_tokenizer(values.tokenizer)
    sizes = {"prompt_length": values.sampler.prompt_length, "length": values.sampler.length}
    largest = Example("e", "9,9,9=50", "(1+2)*3")
    for item in [largest, *make(tmp_path).examples("train")]:
        batch = prompts.encode_examples([item], tokenizer, indices=[0], **sizes)
        assert batch.target[0, -1] == tokenizers.end_ids(tokenizer)[0]  # room for the end


def test_generated_splits_do_not_overlap(task):
    assert task.overlap() == task.overlap("validation") == 0
    assert task.overlap("train") > 50


def test_prompts_follow_the_template(tmp_path):
    prompt = PromptConfig(template="{numbers} -> {target} ({question}) {{}}", answer="boxed")
    item = make(tmp_path, prompt=prompt).examples("test")[0]
    numbers, target = item.meta["numbers"], item.meta["target"]
    question = f"{','.join(map(str, numbers))}={target}"
    assert item.prompt == f"{', '.join(map(str, numbers))} -> {target} ({question}) {{}}"
    assert item.target.startswith(r"\boxed{")
    words = make(tmp_path, prompt=PromptConfig(template="words", answer="tags")).examples("test")[0]
    assert f"Reach {target} by" in words.prompt and words.prompt.endswith("</answer>.")


def write(tmp_path, *rows, name="instances.jsonl"):
    path = tmp_path / name
    path.write_text(
        "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows)
    )
    return str(path)


def test_files_of_both_forms_replace_splits(tmp_path):
    train = write(
        tmp_path,
        {"nums": [2, 3, 5], "target": 9},
        {"nums": [1, 2, 3, 4], "target": 10},  # left out, as numbers_max is 3
        {"nums": "[7, 1, 1]", "target": "9", "id": 3},
        name="train.jsonl",
    )
    test = write(
        tmp_path, {"input": "30,100,93", "output": "23"}, {"input": "3,5,2", "output": "9"}
    )
    task = make(tmp_path, train_file=train, test_file=test)
    assert [e.prompt for e in task.examples("train")] == ["2,3,5=9", "7,1,1=9"]
    assert [e.prompt for e in task.examples("test")] == ["30,100,93=23", "3,5,2=9"]
    for split in ("train", "test"):
        for item in task.examples(split):
            assert task.reward(item, item.target).correct
    assert task.overlap() == 1  # in any order of the numbers
    assert not (tmp_path / "data").exists()  # nothing has been generated so far
    assert len(task.examples("validation")) == 11


def test_json_csv_and_parquet_are_read(tmp_path):
    rows = [{"nums": [2, 3, 5], "target": 9}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    assert countdown.read_instances(str(path), "field", "test") == [("2,3,5", "9", None)]
    path = tmp_path / "rows.csv"
    path.write_text('nums,target\n"[2, 3, 5]",9\n')
    assert countdown.read_instances(str(path), "field", "test") == [("2,3,5", "9", None)]
    import datasets

    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "rows.parquet"))
    rows = countdown.read_instances(str(tmp_path / "rows.parquet"), "field", "test")
    assert rows == [("2,3,5", "9", None)]


def test_targets_without_a_solution_are_empty(tmp_path):
    path = write(
        tmp_path, {"nums": [1, 1, 1], "target": 50}, {"nums": [1, 2, 3, 4, 5], "target": 15}
    )
    assert [e.target for e in make(test_file=path).examples("test")] == ["", ""]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2 is not JSON"),
        ({"numbers": [1, 2], "target": 3}, "line 2 needs columns 'input' and 'output', or 'nums'"),
        ({"nums": [1, 2], "output": 3}, "Its columns: nums, output"),
        ({"nums": [1, "x"], "target": 3}, r"nums=\[1, 'x'\] must be 2 to 6 whole numbers"),
        ({"nums": [1, -2], "target": 3}, "must be 2 to 6 whole numbers"),
        ({"nums": [1, True], "target": 3}, "must be 2 to 6 whole numbers"),
        ({"nums": [1, 2.5], "target": 3}, "must be 2 to 6 whole numbers"),
        ({"nums": [1], "target": 3}, "must be 2 to 6 whole numbers"),
        ({"nums": [1] * 7, "target": 3}, "must be 2 to 6 whole numbers"),
        ({"nums": 12, "target": 3}, "must be 2 to 6 whole numbers"),
        ({"input": "", "output": "3"}, "must be 2 to 6 whole numbers"),
        ({"input": "1,2", "output": "three"}, "output='three' must be a whole number"),
        ({"input": "1,2", "output": None}, "output=None must be a whole number"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_faulty_rows_are_refused_with_their_line(tmp_path, row, message, split):
    path = write(tmp_path, {"nums": [1, 2, 3], "target": 6}, row)
    with pytest.raises(UserError, match=f"config.task.{split}_file=.*line 2") as error:
        make(tmp_path, **{f"{split}_file": path})
    assert error.match(message)


def test_files_without_an_instance_are_refused(tmp_path):
    with pytest.raises(UserError, match="has no row"):
        make(test_file=write(tmp_path))
    path = write(tmp_path, {"nums": [1, 2, 3, 4], "target": 10})
    with pytest.raises(UserError, match=r"no instance with .*numbers_min\.\.numbers_max=3\.\.3"):
        make(train_file=path)


def test_d1s_evaluation_returns_the_expression_it_read():
    verdict = d1_countdown.evaluate(example((1, 2), 9), r"\boxed{ 1 \div 2 = 3 }")
    assert verdict == Verdict(correct=False, parsed=True, answer="1 / 2")


@pytest.mark.parametrize(
    ("completion", "wrong", "verdict"),
    [
        ("3*(5-2)", [], "This is 9, the target."),
        ("3*(5-2)=9", [], "This is 9, the target."),
        ("3*5-22", [4, 5], "This is -7, and the target is 9."),
        ("3/2", [], "This is 3/2, and the target is 9."),
        ("3+3+3", [2, 4], "This is 9, the target, but it does not use every number once."),
        ("3*(5-", [], "This is no expression. The target is 9."),
        ("3*(5-2)=8", [], "This is no equation that holds. The target is 9."),
    ],
)
def test_an_expression_is_laid_out_with_its_value_and_numbers_that_are_not_given(
    completion, wrong, verdict
):
    for prompt in ("3,5,2=9", "Solve 1,1=2 like this: 3, 5, 2=9."):
        found = countdown.Countdown.lay_out(prompt, completion)
        assert found == Layout(wrong=wrong, verdict=verdict)
    assert countdown.Countdown.lay_out("Reach 9 with 3, 5, 2.", completion) == Layout()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("3,5,2=9", ""),
        ("3,5=8", "has 2 numbers: the model learned on 3 and a target, as 3,5,2=9"),
        ("3,5,2,1=9", "has 4 numbers: the model learned on 3"),
        ("3,5,2", "is no instance: it needs 3 numbers and a target"),
        ("3,5,=9", "is no instance"),
        ("3, 5, 2=9", "is no instance"),
        ("3,5,2=9\n", "is no instance"),
        ("=", "is no instance"),
    ],
)
def test_a_typed_instance_has_numbers_and_a_target(text, fault):
    found = countdown.Countdown.question_fault(text, TaskConfig())
    assert fault in found and bool(fault) == bool(found)
