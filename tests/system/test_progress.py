import io

import numpy as np
import pytest

from diffpo_jax.system.progress import LINE_SECONDS, Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


def run(steps, seconds_a_step, stream, clock, **settings):
    with Progress("rl", stream=stream, clock=clock, **settings) as progress:
        for step in range(steps):
            clock.seconds += seconds_a_step
            progress.update(loss=step / 3, nfe=np.float32(5.25))


def test_a_log_gets_a_full_line_at_most_every_ten_seconds():
    stream, clock = io.StringIO(), Clock()
    run(steps=12, seconds_a_step=2.0, stream=stream, clock=clock, total=20)
    assert stream.getvalue().splitlines() == [
        # 5 of 20 steps in 10 s are 2 s per step, so the other 15 take 30 s.
        "rl  25% 5/20 [00:10<00:30,  2.00s/step, loss=1.333, nfe=5.25]",
        "rl  50% 10/20 [00:20<00:20,  2.00s/step, loss=3, nfe=5.25]",
        "rl  60% 12/20 [00:24<00:16,  2.00s/step, loss=3.667, nfe=5.25] done in 00:24",
    ]
    assert "\r" not in stream.getvalue()


def test_steps_before_a_resume_do_not_count_towards_the_rate():
    stream, clock = io.StringIO(), Clock()
    run(steps=10, seconds_a_step=1.0, stream=stream, clock=clock, total=120, initial=50)
    # 10 steps in 10 s and 60 left.
    assert stream.getvalue().splitlines()[0].startswith("rl  50% 60/120 [00:10<01:00,  1.00step/s")


def test_the_rate_leaves_out_the_slowest_updates_which_compile():
    stream, clock = io.StringIO(), Clock()
    with Progress("rl", 10, stream=stream, clock=clock) as progress:
        for seconds in (22.0, 12.0, 2.0, 2.0, 2.0, 2.0, 2.0):
            clock.seconds += seconds
            progress.update()
    assert stream.getvalue().splitlines() == [
        "rl  10% 1/10 [00:22<?, ?step/s]",
        "rl  20% 2/10 [00:34<01:36, 12.00s/step]",  # one slow update is left out, not both
        "rl  70% 7/10 [00:44<00:06,  2.00s/step]",
        "rl  70% 7/10 [00:44<00:06,  2.00s/step] done in 00:44",
    ]


def test_a_bar_leaves_out_the_first_update_too():
    stream, clock = Terminal(), Clock()
    with Progress("rl", 10, stream=stream, clock=clock) as progress:
        for seconds, shown in ((22.0, "?step/s"), (2.0, "2.00s/step")):
            clock.seconds += seconds
            progress.update()
            progress._bar.refresh()  # otherwise at most ten times a second
            assert shown in stream.getvalue().split("\r")[-1]


def test_each_slow_update_is_shown():
    stream, clock = io.StringIO(), Clock()
    run(steps=3, seconds_a_step=LINE_SECONDS, stream=stream, clock=clock, total=3)
    assert len(stream.getvalue().splitlines()) == 3 + 1


def test_numbers_stay_until_replaced_and_text_is_shown_unchanged():
    stream = io.StringIO()
    with Progress("rl", 4, stream=stream, clock=Clock()) as progress:
        progress.update(loss=0.123456, calls=123456)
        progress.update(2, reward=-1.0, phase="rollout")
        progress.update(loss=2.0)
    (line,) = stream.getvalue().splitlines()
    assert "4/4" in line
    assert "loss=2, calls=123456, reward=-1, phase=rollout]" in line


def test_an_error_ends_with_stopped_instead_of_done():
    stream = io.StringIO()
    with pytest.raises(RuntimeError), Progress("rl", 4, stream=stream, clock=Clock()):
        raise RuntimeError
    assert stream.getvalue().endswith("stopped after 00:00\n")


def test_a_stage_without_steps_ends_at_once():
    stream = io.StringIO()
    with Progress("pretrain", 0, stream=stream, clock=Clock()):
        pass
    assert stream.getvalue().startswith("pretrain")
    assert "done in 00:00" in stream.getvalue()


def test_a_terminal_gets_a_bar_and_one_line_at_the_end():
    stream, clock = Terminal(), Clock()
    with Progress("rl", 4, initial=1, stream=stream, clock=clock) as progress:
        assert "\rrl" in stream.getvalue()
        assert "25%" in stream.getvalue() and "1/4" in stream.getvalue()
        clock.seconds = 75.0
        progress.update(3, loss=0.5)
    *_, last = stream.getvalue().split("\r")
    assert stream.getvalue().count("\n") == 1
    assert last == "rl 100% 4/4 [01:15<00:00, 25.00s/step, loss=0.5] done in 01:15\n"


def test_standard_error_is_the_default_stream(capsys):
    with Progress("evaluate", 1, unit="batch") as progress:
        progress.update()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("evaluate 100% 1/1")
    assert "batch" in captured.err


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_say_prints_a_separate_line(kind):
    stream = kind()
    with Progress("rl", total=2, stream=stream, clock=Clock()) as progress:
        progress.update()
        progress.say("warning: something")
    assert "warning: something\n" in stream.getvalue()
