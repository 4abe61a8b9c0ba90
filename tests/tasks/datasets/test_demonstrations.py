"""Rows with written answers as examples for pretraining."""

import json

import pytest

from diffpo_jax.config import DemonstrationsConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.datasets import demonstrations

S1K = "<reasoning>{thinking_trajectories[0]}</reasoning>\n<answer>{attempt}</answer>"
ROW = {"question": "1+{1}?", "thinking_trajectories": ["One more.", "x"], "attempt": "2", "n": 3}


def read(tmp_path, *rows, **fields):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return demonstrations.read(DemonstrationsConfig(source=str(path), **fields))


def test_the_templates_of_s1k_are_filled(tmp_path):
    examples = read(
        tmp_path, ROW, ROW | {"attempt": "two"}, prompt="Q: {question}", answer=S1K, chat=True
    )
    assert len(examples) == 2
    assert examples[0].prompt == "Q: 1+{1}?"  # a value is not read as a template
    assert examples[0].target == "<reasoning>One more.</reasoning>\n<answer>2</answer>"
    assert examples[1].target.endswith("<answer>two</answer>")
    assert [e.id for e in examples[1:]] == ["demonstrations/1"]
    assert examples[0].chat and not examples[0].prefill


def test_numbers_are_written_as_they_are(tmp_path):
    rows = [{"question": 7, "n": n} for n in (3, 0.5, 2.0, 0.1 + 0.2, -1e20)]
    examples = read(tmp_path, *rows, answer="{n}")
    assert examples[0].prompt == "7"
    assert [e.target for e in examples] == ["3", "0.5", "2", "0.3", "-1e+20"]


def test_a_column_may_be_named_like_a_list_entry(tmp_path):
    assert read(tmp_path, {"question": "q", "a[0]": "it"}, answer="{a[0]}")[0].target == "it"


@pytest.mark.parametrize(
    ("row", "answer", "message"),
    [
        ({}, "{thought}", r"rows.jsonl: line 1 has no column 'thought'. Its columns: question, "),
        ({}, "{thinking_trajectories[2]}", "column 'thinking_trajectories' has no entry 2"),
        ({}, "{attempt[0]}", "column 'attempt' has no entry 0"),
        ({"n": True}, "{n}", "'n' must be text or a number; it is True"),
        ({}, "{thinking_trajectories}", r"must be text or a number; it is \['One"),
        ({"attempt": "  "}, "{attempt}", "gives an empty answer"),
        ({}, "always the same", "demonstrations.answer must name a column"),
        ({}, "{attempt!r}", r"config.pretrain.demonstrations.answer: \{attempt!r\} is not a field"),
        ({}, "{attempt", "literal brace twice"),
        ({}, "{}", r"\{\} is not a field"),
    ],
)
def test_rows_and_templates_that_do_not_match_are_refused(tmp_path, row, answer, message):
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path, ROW | row, answer=answer)
    assert "\n" not in str(caught.value)


def test_a_missing_source_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config.pretrain.demonstrations.source=.* no such file"):
        demonstrations.read(DemonstrationsConfig(source=str(tmp_path / "none.jsonl")))
