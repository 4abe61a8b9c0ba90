"""What all commands share."""

import sys
import time
import types

import pytest

from diffpo_jax.config import command


class Swallows:
    """Raises where Python can only report and go on, as in a garbage collection."""

    def __init__(self, error):
        self.error = error

    def __del__(self):
        raise self.error


def test_ctrl_c_that_was_swallowed_comes_again(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", command.interrupt_again)
    with pytest.raises(KeyboardInterrupt):
        Swallows(KeyboardInterrupt())
        time.sleep(20)


@pytest.mark.parametrize(("file", "said"), [("/x/orbax/reads.py", False), ("/x/ours.py", True)])
def test_reads_that_fail_with_another_one_are_no_news(file, said, monkeypatch):
    names, reported = {}, []
    exec(compile("async def read(): ...", file, "exec"), names)
    monkeypatch.setattr(sys, "__unraisablehook__", reported.append)
    coroutine = names["read"]()
    left = types.SimpleNamespace(exc_type=OSError, exc_value=OSError("lost"), object=coroutine)
    command.interrupt_again(left)
    coroutine.close()
    assert (reported == [left]) == said


def test_other_errors_there_are_reported(monkeypatch, capsys):
    monkeypatch.setattr(sys, "unraisablehook", command.interrupt_again)
    Swallows(ValueError("lost"))
    assert "ValueError: lost" in capsys.readouterr().err
