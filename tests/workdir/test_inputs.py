"""What inputs.json records, and how differences are said."""

import json

import pytest

from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import inputs
from diffpo_jax.workdir.inputs import Input

FILE = Input("config.task.train_file=/a.jsonl", "training examples", "aa", 24)
TOKENS = Input("config.tokenizer.name=DIR", "tokens", "bb")


def test_what_is_recorded_is_read_again(tmp_path):
    path = tmp_path / "inputs.json"
    assert inputs.read(path) == {}
    inputs.write(path, {"train": FILE, "tokenizer": TOKENS})
    assert inputs.read(path) == {"train": FILE, "tokenizer": TOKENS}
    assert json.loads(path.read_text())["train"]["rows"] == 24


@pytest.mark.parametrize("text", ["{", "[]", '{"train": 1}', '{"train": {"field": "x"}}'])
def test_a_damaged_file_is_one_line(tmp_path, text):
    (tmp_path / "inputs.json").write_text(text)
    with pytest.raises(UserError, match=r"inputs.json cannot be read .* delete it\.$") as error:
        inputs.read(tmp_path / "inputs.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("new", "text"),
    [
        ({}, None),
        (
            {"sha256": "cc", "rows": 40},
            "config.task.train_file=/a.jsonl: 24 training examples when the run began, 40 now",
        ),
        (
            {"sha256": "cc"},
            "config.task.train_file=/a.jsonl: the 24 training examples are not those with which "
            "the run began",
        ),
        # Another file is another choice, which the configuration allows or not.
        ({"sha256": "cc", "field": "config.task.train_file=/b.jsonl"}, None),
    ],
)
def test_differences_by_hand(new, text):
    found = inputs.differences({"train": FILE, "other": TOKENS}, {"train": FILE._replace(**new)})
    assert found == ({} if text is None else {"train": text})


def test_what_is_not_counted_is_said_without_a_number():
    changed = TOKENS._replace(sha256="cc")
    assert inputs.differences({"x": TOKENS}, {"x": changed, "y": FILE}) == {
        "x": "config.tokenizer.name=DIR: the tokens are not those with which the run began"
    }
