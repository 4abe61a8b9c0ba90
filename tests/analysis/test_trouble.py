import made_runs
import pytest

from diffpo_jax.analysis import runs, trouble
from diffpo_jax.report import verdict


def run(tmp_path, made, name="a", **fields):
    lines = [{"stage": "rl", "step": i + 1} | row for i, row in enumerate(made)]
    return runs.read_run(made_runs.run(tmp_path / name, finished=False, made=lines, **fields))


def signs(tmp_path, made, **fields):
    return {sign.name: sign for sign in trouble.signs(run(tmp_path, made, **fields))}


def test_tenths_of_the_steps_are_compared(tmp_path):
    # 21 values in tenths of two; the first is left over.
    entropy = [9.0, 1.0, 3.0, *[5.0] * 16, 0.02, 0.04]
    found = signs(tmp_path, [{"entropy": x} for x in entropy])["entropy"]
    assert (found.other, found.end) == (2.0, pytest.approx(0.03))
    assert found.is_trouble  # below 2 % of 2


def test_a_reward_has_fallen_if_noise_does_not_explain_it(tmp_path):
    steady = [0.5, 0.5] * 9
    found = signs(tmp_path, [{"reward": x} for x in (*steady, 0.4, 0.4)])["reward"]
    assert (found.end, found.other, found.is_trouble) == (0.4, 0.5, True)
    # As far below, but its two values have a standard error of 0.1.
    noisy = run(tmp_path, [{"reward": x} for x in (*steady, 0.3, 0.5)], "b")
    assert not trouble.signs(noisy)[0].is_trouble
    near = run(tmp_path, [{"reward": x} for x in (*steady, 0.43, 0.43)], "c")
    assert not trouble.signs(near)[0].is_trouble  # 14 % below


@pytest.mark.parametrize(
    ("name", "value", "is_trouble"),
    [
        ("groups/equal", 0.95, True),
        ("groups/equal", 0.85, False),
        ("parse_failures", 0.25, True),
        ("forced", 0.15, False),
        ("weights/ess", 0.05, True),
        ("weights/ess", 0.5, False),
    ],
)
def test_limits(tmp_path, name, value, is_trouble):
    assert signs(tmp_path, [{name: value}])[name].is_trouble is is_trouble


def test_weights_that_the_loss_does_not_use_are_no_sign(tmp_path):
    assert signs(tmp_path, [{"weights/ess": 0.05}], rl__objective__weights="none") == {}


def test_the_verdict_is_a_sentence(tmp_path):
    good = [{"entropy": 0.5, "groups/equal": 0.25, "eval/accuracy": x} for x in (0.5, 0.75, 0.72)]
    (line,) = verdict.describe([run(tmp_path, good)])
    assert line == (
        "No sign of trouble: 72.0 % of the validation prompts were solved at the end, 75.0 % at "
        "best; tokens stay uncertain enough to explore (entropy 0.5 nats, at first 0.5); 25.0 % "
        "of the groups have equal rewards and teach nothing."
    )
    bad = [*good[:2], {"entropy": 0.009, "groups/equal": 0.25, "guard/sliding": 1.0}]
    first, second = verdict.describe([run(tmp_path, bad, "b")])
    assert first == (
        "Signs of trouble: at step 3 the guard against collapse found that more tokens were "
        "committed at once while accuracy fell; tokens have become nearly certain: their entropy "
        "fell from 0.5 to 0.009 nats, so that little new is explored."
    )
    assert second.startswith("As it should be: 75.0 % of the validation prompts")
    both = [run(tmp_path, good, "c"), run(tmp_path, bad, "d")]
    summary, line = verdict.describe(both)
    assert summary == "No sign of trouble in 1 of 2 runs."
    assert line.startswith("d: at step 3 the guard")
    assert verdict.describe([run(tmp_path, [], "e")]) == []
