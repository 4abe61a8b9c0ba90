import made_runs
import pytest

from diffpo_jax.analysis import runs as read
from diffpo_jax.analysis.groups import Group
from diffpo_jax.report import curves, running


def test_smoothing_takes_medians_and_is_cut_off_at_the_ends():
    values = [1.0, 2.0, 90.0, 3.0, 4.0]
    assert curves.smoothed(values, 1) == values
    assert curves.smoothed(values, 3) == [1.5, 2.0, 3.0, 4.0, 3.5]


def test_a_mean_is_taken_where_every_seed_has_a_value(tmp_path):
    def run(name, *points):
        rows = [{"stage": "rl", "step": step, "reward": value} for step, value in points]
        return read.read_run(made_runs.run(tmp_path / name, finished=False, made=rows))

    runs = [run("a", (1, 0.1), (2, 0.2), (3, 0.3)), run("b", (1, 0.5), (3, 0.7)), run("c")]
    got = curves.mean_and_range(Group("g", runs), "reward")
    assert got == [(1, [0.1, 0.5]), (3, [0.3, 0.7])]  # the third has logged nothing


def test_the_time_left_is_that_of_the_steps_between_lines(tmp_path):
    # A line every fifth step, of 100 seconds; 80 steps are left.
    rows = [{"stage": "rl", "step": 5 * i, "time/seconds": 100.0} for i in range(1, 25)]
    path = made_runs.run(tmp_path / "a", finished=False, made=rows, rl__steps=200)
    (line, *_) = running.progress(read.read_run(path))
    assert line == "RL: step 120 of 200. At the pace of the last steps 27 min are left."


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.4, "8 s"), (89, "89 s"), (100, "2 min"), (7100, "118 min")]
)
def test_durations(seconds, text):
    assert running.duration(seconds) == text


def test_long_durations_are_in_hours():
    assert running.duration(9000) == "2.5 h"
