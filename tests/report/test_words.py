import made_runs
import pytest

from diffpo_jax.analysis import runs
from diffpo_jax.analysis.groups import Group
from diffpo_jax.report import words


def test_the_time_left_is_estimated_from_the_steps_between_lines(tmp_path):
    # A line every fifth step, of 100 seconds; 80 steps are left.
    rows = [{"stage": "rl", "step": 5 * i, "time/seconds": 100.0} for i in range(1, 25)]
    path = made_runs.run(tmp_path / "a", finished=False, made=rows, rl__steps=200)
    (line, *_) = words.describe_run(runs.read_run(path))
    assert line == "RL: step 120 of 200. At the pace of the last steps, 27 min are left."


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.4, "8 s"), (89, "89 s"), (100, "2 min"), (7100, "118 min"), (9000, "2.5 h")],
)
def test_durations_are_in_seconds_minutes_or_hours(seconds, text):
    assert words.format_duration(seconds) == text


def test_groups_say_which_runs_are_not_finished(tmp_path):
    going = runs.read_run(made_runs.run(tmp_path / "a", 0, finished=False))
    done = runs.read_run(made_runs.run(tmp_path / "b", 1))
    lines = words.describe_groups([Group("x", [going, done]), Group("y", [going])])
    assert lines[0].startswith(
        "x: +5.0 (+3.0 to +7.0) points at the learned threshold or the default price (95 % "
    )
    assert lines[0].endswith("1 of 2 runs are not finished.")
    assert lines[1] == "y: 1 of 1 runs are not finished."
