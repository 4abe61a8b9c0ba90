import json

import pytest

from diffpo_jax.analysis.summary import final_table, make_summary


def frontier(*points, dial="gamma"):
    """Points (gamma, accuracy, nfe)."""
    return [
        {dial: x, "accuracy": accuracy, "nfe": nfe, "tokens_per_call": 16 / nfe, "forced": 0.25}
        for x, accuracy, nfe in points
    ]


BASE = frontier((0.0, 0.90, 8.0), (0.1, 0.80, 4.0), (1.0, 0.20, 2.0))
TRAINED = frontier((0.0, 0.96, 8.0), (0.1, 0.92, 5.0), (1.0, 0.60, 1.6))
LEARNED = {
    "accuracy": 0.931,
    "nfe": 6.0,
    "tokens_per_call": 16 / 6,
    "forced": 0.0,
    "gamma_p5": 0.02,
    "gamma_p50": 0.08,
    "gamma_p95": 0.3,
}


def gain(value, low, high):
    return {"gain": value, "low": low, "high": high}


GAINS = {
    "grid": [gain(0.06, 0.041, 0.08), gain(0.095, 0.07, 0.12), gain(0.4, 0.37, 0.43)],
    "learned": gain(0.081, 0.06, 0.1),
    "mean": gain(0.126, 0.11, 0.1449),
}


def summary(**changes):
    arguments = {
        "gains": GAINS,
        "base_frontier": BASE,
        "trained_frontier": TRAINED,
        "learned": LEARNED,
        "wall_seconds": {"pretrain": 60, "rl": 300.5},
        "denoiser_calls": {"rollout": 1000},
        "prompts": 2000,
        "seed": 3,
        "method": "diffpo",
        "mode": "joint",
        "commit": "abc",
        "versions": {"jax": "0.10.2"},
    }
    return make_summary(**arguments | changes)


def text(**changes):
    return final_table(summary(**changes))


def sentences(**changes):
    return text(**changes).split("\n\n")[1].splitlines()


def test_the_summary_holds_these_fields_and_no_others():
    assert summary(extra={"accelerator": "cpu"}) == {
        "base": {
            "frontier": BASE,
            # Halfway between 80 % at 4 calls and 90 % at 8.
            "learned_nfe_accuracy": {
                "accuracy": pytest.approx(0.85, abs=1e-12),
                "extrapolated": False,
            },
        },
        "trained": {"frontier": TRAINED, "learned": LEARNED},
        "gains": GAINS,
        "wall_seconds": {"pretrain": 60.0, "rl": 300.5},
        "denoiser_calls": {"rollout": 1000},
        "prompts": 2000,
        "seed": 3,
        "method": "diffpo",
        "mode": "joint",
        "rule": "entropy_bounded",
        "dial": "gamma",
        "commit": "abc",
        "versions": {"jax": "0.10.2"},
        "accelerator": "cpu",
    }


def test_the_summary_survives_json():
    made = summary()
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_mode_model_has_nothing_learned():
    made = summary(mode="model", learned=None)
    assert made["trained"]["learned"] is None
    assert made["base"]["learned_nfe_accuracy"] is None


@pytest.mark.parametrize("nfe, accuracy", [(9.0, 0.9), (1.0, 0.2)])
def test_a_learned_point_outside_the_base_is_flagged(nfe, accuracy):
    made = summary(learned=LEARNED | {"nfe": nfe})
    assert made["base"]["learned_nfe_accuracy"] == {"accuracy": accuracy, "extrapolated": True}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mode": "model"}, "only mode 'model' has none"),
        ({"learned": None}, "only mode 'model' has none"),
        ({"extra": {"seed": 4}}, "replace these fields of the summary: seed"),
        ({"base_frontier": []}, "at least one point"),
        ({"trained_frontier": []}, "at least one point"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        summary(**changes)


def test_a_point_without_a_field_is_refused():
    with pytest.raises(KeyError, match="gamma_p5"):
        summary(learned={"accuracy": 0.9, "nfe": 5.0, "tokens_per_call": 3.0, "forced": 0.0})


def test_the_table_row_by_row():
    *rows, footnote = text().split("\n\n")[0].splitlines()[2:]
    assert footnote == "* outside the calls measured for the base: its nearest point is taken."
    assert [row.split() for row in rows] == [
        ["0", "90.0", "%", "8.00", "96.0", "%", "8.00", "90.0", "%", "+6.0", "[+4.1", "+8.0]"],
        # The base at 5 calls: a quarter of the way from 80 % at 4 to 90 % at 8.
        ["0.1", "80.0", "%", "4.00", "92.0", "%", "5.00", "82.5", "%", "+9.5", "[+7.0", "+12.0]"],
        ["1", "20.0", "%", "2.00", "60.0", "%", "1.60", "20.0", "%*", "+40.0", "[+37.0", "+43.0]"],
        ["learned", "-", "-", "93.1", "%", "6.00", "85.0", "%", "+8.1", "[+6.0", "+10.0]"],
    ]


def test_the_table_fits_a_terminal_and_has_even_columns():
    table = text().split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert len({line.rindex("[") for line in table[2:6]}) == 1


def test_no_star_no_footnote():
    assert "*" not in text(trained_frontier=BASE)


def test_a_threshold_only_the_trained_model_has():
    one = frontier((0.5, 0.9, 4.0))
    told = text(trained_frontier=one, gains=GAINS | {"grid": [gain(0.1, -0.02, 0.2)]})
    row = told.splitlines()[2].split()
    assert row == ["0.5", "-", "-", "90.0", "%", "4.00", "80.0", "%", "+10.0", "[-2.0", "+20.0]"]


def test_a_gain_is_said():
    assert sentences()[0] == (
        "At its learned threshold (median 0.08 nats) the trained model solves 93.1 % in 6.0 calls; "
        "the base solves 85.0 % at 6.0 calls: +8.1 points (95 % interval +6.0 to +10.0)."
    )


def test_a_loss_is_said():
    assert sentences(gains=GAINS | {"learned": gain(-0.15, -0.17, -0.12)})[0].endswith(
        "-15.0 points (95 % interval -17.0 to -12.0); the trained model is worse."
    )


def test_noise_is_not_called_a_gain():
    assert sentences(gains=GAINS | {"learned": gain(0.02, -0.001, 0.04)})[0].endswith(
        "+2.0 points (95 % interval -0.1 to +4.0), too little to tell them apart."
    )
    assert "+0.0 points" in sentences(gains=GAINS | {"learned": gain(-1e-9, -1e-9, 0.0)})[0]


def test_a_base_point_that_was_not_measured_is_said_to_be():
    line = sentences(learned=LEARNED | {"nfe": 9.0})[0]
    assert "in 9.0 calls; the base solves 90.0 % at its nearest measured point: +8.1" in line


def test_the_mean_over_the_shared_calls():
    # From 2 to 8 calls.  Base: (2 * .5 + 4 * .85) / 6 = 73.3 %.  Trained at 2 calls:
    # .6 + .32 * .4 / 3.4 = .6376, so (3 * .7788 + 3 * .94) / 6 = 85.9 %.
    assert sentences()[1] == (
        "On average from 2.0 to 8.0 calls, with thresholds of the grid, the trained model solves "
        "85.9 % and the base 73.3 %: +12.6 points (95 % interval +11.0 to +14.5)."
    )


def test_no_shared_calls():
    apart = frontier((0.0, 0.9, 20.0), (0.1, 0.8, 12.0))
    gains = GAINS | {"grid": GAINS["grid"][:2], "mean": None}
    told = sentences(trained_frontier=apart, gains=gains)
    assert any("no range of calls in common" in s for s in told)


def test_an_under_trained_base_is_said_to_be():
    assert "solves 90.0 % at its best: it is under-trained" in sentences()[-1]
    good = frontier((0.0, 0.95, 8.0), (0.1, 0.8, 4.0))
    assert "under-trained" not in text(base_frontier=good)
    # The denoiser was frozen: nothing of the gain can be further training.
    assert "under-trained" not in text(mode="sampler")


def test_mode_model_is_told_without_a_learned_threshold():
    told = text(mode="model", learned=None)
    assert "learned" not in told
    assert "On average from 2.0 to 8.0 calls" in told


def test_another_rule_is_told_by_its_own_dial():
    points = frontier((2.0, 0.5, 2.0), (16.0, 0.9, 16.0), dial="steps")
    of_rule = {"mode": "model", "learned": None, "rule": "top_k", "dial": "steps"}
    of_rule["gains"] = GAINS | {"grid": GAINS["grid"][:2]}
    told = summary(base_frontier=points, trained_frontier=points, **of_rule)
    assert told["rule"] == "top_k"
    assert [point["steps"] for point in told["base"]["frontier"]] == [2.0, 16.0]
    lines = final_table(told).splitlines()
    assert lines[0].split()[0] == "steps"
    assert "nats" not in lines[1]
    assert [line.split()[0] for line in lines[2:4]] == ["2", "16"]


def test_pass_at_k_is_kept_and_told():
    several = {"pass@1": 0.5, "pass@2": 0.75}
    trained = [point | several for point in TRAINED]
    made = summary(trained_frontier=trained, learned=LEARNED | several)
    assert made["trained"] == {"frontier": trained, "learned": LEARNED | several}
    told = "the trained model has pass@1 50.0 %, pass@2 75.0 %."
    assert final_table(made).endswith(f"At its learned threshold {told}\n")
    fixed = text(trained_frontier=trained, learned=None, mode="model")
    assert fixed.endswith(f"At gamma 0 {told}\n")
