"""What may be read."""

import contextlib
import os

import pytest

from diffpo_jax.analysis import runs
from diffpo_jax.models import huggingface, published_config
from diffpo_jax.system import reading
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import layout


def test_text(tmp_path):
    (tmp_path / "a").write_text("\u00e9\n", "utf-8")
    assert reading.read_text(tmp_path / "a") == "\u00e9\n"
    with pytest.raises(FileNotFoundError):
        reading.read_text(tmp_path / "b")
    with pytest.raises(IsADirectoryError):
        reading.read_text(tmp_path)


@pytest.mark.parametrize(
    "read",
    [
        lambda root: layout.read_config(layout.Workdir(root)),
        lambda root: published_config.read_json(root / "config.json"),
        lambda root: runs._read_object(root / "config.json"),
    ],
)
def test_pipes_are_refused_at_once(tmp_path, read):
    """Nothing would ever come from a pipe into which nobody writes."""
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match=r"cannot .*no regular file"):
        read(tmp_path)


def test_weights_in_a_pipe_are_none(tmp_path):
    os.mkfifo(tmp_path / huggingface.SINGLE)
    with contextlib.ExitStack() as stack, pytest.raises(UserError, match="no checkpoint"):
        huggingface._open(tmp_path, stack)
