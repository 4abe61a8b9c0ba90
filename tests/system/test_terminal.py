"""Text that cannot act on a terminal, and streams whose reader goes away."""

import io
import os
import pathlib
import subprocess
import sys

import pytest

from diffpo_jax.system import terminal
from diffpo_jax.system.progress import Progress

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é, 数学 and naïve\n\ttab", "plain é, 数学 and naïve\n\ttab"),
        ("\x1b]52;c;ZXZpbA==\x07", r"\x1b]52;c;ZXZpbA==\x07"),  # writes to the clipboard
        ("\x1b]0;title\x1b\\", r"\x1b]0;title\x1b" + "\\"),
        ("\x1b[2J\x1b[1;1H", r"\x1b[2J\x1b[1;1H"),  # clears the screen
        ("\x9b31m", r"\x9b31m"),  # the same introducer in one character
        ("right\rwrong", r"right\rwrong"),  # would write over the line
        ("a\x08b\x7f\x00", r"a\x08b\x7f\x00"),
        ("\u202egnp.exe\u2028", r"\u202egnp.exe\u2028"),  # turns the direction
    ],
)
def test_text_is_shown_and_not_obeyed(text, shown):
    assert terminal.printable(text) == shown


def without_reader():
    """A stream into a pipe, and the end that reads it."""
    reading, writing = os.pipe()
    return io.TextIOWrapper(io.FileIO(writing, "wb"), write_through=True), reading


def test_a_stream_goes_on_without_its_reader(tmp_path):
    plain, reading = without_reader()
    stream = terminal.enduring(plain)
    print("read", file=stream, flush=True)
    assert os.read(reading, 99) == b"read\n"
    os.close(reading)
    for _ in range(3):
        print("not read", file=stream, flush=True)
    with Progress("rl", 2, stream=stream) as progress:
        progress.say("not read either")
        progress.update(2)
    stream.close()
    with pytest.raises(BrokenPipeError):  # as the plain stream would have
        other, reading = without_reader()
        os.close(reading)
        other.write("x" * 9)
    plain.detach().close()


def test_a_stream_that_is_no_file_stays_as_it_is():
    text = io.StringIO()
    assert terminal.enduring(text) is text


def test_other_faults_of_a_stream_are_raised():
    with open("/dev/full", "w") as full:
        stream = terminal.enduring(full)
        with pytest.raises(OSError, match="No space left"):
            print("x", file=stream, flush=True)


COMMAND = """
import pathlib, sys
from diffpo_jax.config import command
def main(argv):
    for i in range(20_000):
        print("a line of output")
        print("a line of the log", file=sys.stderr)
    pathlib.Path(argv[0]).with_name("result").write_text("done")
command.run(main, outlives_readers=True)
"""


@pytest.mark.parametrize("pipe", ["| head -1", "2>&1 | head -1", "2>&1 >/dev/null | head -1"])
def test_a_command_that_writes_files_ends_its_work_without_a_reader(tmp_path, pipe):
    (tmp_path / "own.py").write_text(COMMAND)
    line = f"set -o pipefail; {sys.executable} {tmp_path}/own.py {pipe}"
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert "Error" not in done.stderr
    assert (tmp_path / "result").read_text() == "done"
