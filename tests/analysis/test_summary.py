import json

import pytest
from made_runs import frontier, make_summary

from diffpo_jax.analysis.summary import (
    best_of_base,
    final_table,
    frontier_rows,
    in_use,
    nearest,
)

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


def summary(base=BASE, trained=TRAINED, learned=LEARNED, **fields):
    return make_summary(base, trained, learned, **{"gains": GAINS} | fields)


def text(*arguments, **fields):
    return final_table(summary(*arguments, **fields))


def sentences(*arguments, **fields):
    return text(*arguments, **fields).split("\n\n")[1].splitlines()


def test_models_are_compared_at_equal_calls():
    made = summary()
    assert (made["base"], made["trained"]) == (
        {
            "frontier": BASE,
            # Halfway between 80 % at 4 calls and 90 % at 8.
            "learned_nfe_accuracy": {
                "accuracy": pytest.approx(0.85, abs=1e-12),
                "extrapolated": False,
            },
            "rules": {},
        },
        {"frontier": TRAINED, "learned": LEARNED},
    )
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_only_the_fields_of_a_point_are_kept():
    more = [point | {"unknown": 1.0} for point in BASE]
    assert summary(more, more, LEARNED | {"gamma": 0.1}) == summary(BASE, BASE)


def test_without_a_learned_threshold_there_is_no_learned_point():
    made = summary(learned=None)
    assert made["trained"]["learned"] is None
    assert made["base"]["learned_nfe_accuracy"] is None


@pytest.mark.parametrize("nfe, accuracy", [(9.0, 0.9), (1.0, 0.2)])
def test_a_learned_point_outside_the_base_is_flagged(nfe, accuracy):
    made = summary(learned=LEARNED | {"nfe": nfe})
    assert made["base"]["learned_nfe_accuracy"] == {"accuracy": accuracy, "extrapolated": True}


def test_empty_frontiers_and_incomplete_points_are_refused():
    for frontiers in (([], TRAINED), (BASE, [])):
        with pytest.raises(ValueError, match="at least one point"):
            summary(*frontiers)
    with pytest.raises(KeyError, match="gamma_p5"):
        summary(learned={"accuracy": 0.9, "nfe": 5.0, "tokens_per_call": 3.0, "forced": 0.0})


def test_frontier_rows_are_both_models_and_the_learned_point():
    rows = frontier_rows(summary())
    assert [row["model"] for row in rows] == ["base"] * 3 + ["trained"] * 3 + ["trained-learned"]
    assert rows[-1]["gamma"] == LEARNED["gamma_p50"]
    assert len(frontier_rows(summary(learned=None))) == 6


def test_the_table_has_a_row_for_each_point():
    *rows, footnote = text().split("\n\n")[0].splitlines()[2:]
    assert footnote == "* Outside the calls measured for the base: its nearest point is used."
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


def test_without_an_extrapolated_point_there_is_no_footnote():
    assert "*" not in text(trained=BASE)


def test_a_threshold_that_the_base_lacks_has_dashes():
    one = frontier((0.5, 0.9, 4.0))
    table = text(trained=one, gains=GAINS | {"grid": [gain(0.1, -0.02, 0.2)]})
    row = table.splitlines()[2].split()
    assert row == ["0.5", "-", "-", "90.0", "%", "4.00", "80.0", "%", "+10.0", "[-2.0", "+20.0]"]


def test_a_gain_is_reported_with_its_interval():
    assert sentences()[0] == (
        "At its learned threshold (median 0.08 nats) the trained model solves 93.1 % in 6.0 calls; "
        "the base solves 85.0 % at 6.0 calls: +8.1 points (95 % interval +6.0 to +10.0)."
    )


def test_the_best_rule_of_the_base_is_named_if_it_beats_the_own():
    rules = {
        "entropy_sum": frontier((0.0, 0.99, 7.0), (1.0, 0.89, 5.0)),  # 94 % at 6 calls
        "confidence": frontier((0.9, 0.97, 8.0), (0.5, 0.87, 4.0), dial="confidence"),  # 92 %
        "random": frontier((4.0, 0.999, 6.5), dial="steps"),  # not measured at 6 calls
    }
    found = gain(-0.009, -0.02, 0.001)
    gains = GAINS | {"rules": {name: {"learned": found, "mean": None} for name in rules}}
    assert sentences(gains=gains, rules=rules)[1] == (
        "Under the rule entropy_sum the base solves 94.0 % there, more than under entropy_bounded. "
        "Against it the trained model has -0.9 points (95 % interval -2.0 to +0.1), too small a "
        "difference to tell the two apart."
    )
    weak = {"entropy_sum": frontier((0.0, 0.85, 7.0), (1.0, 0.80, 5.0))}  # 82.5 %, the own 85 %
    assert sentences(gains=gains, rules=weak) == sentences()
    assert summary(rules=rules)["base"]["rules"] == rules


GAIN = ["+21.7", "[+18.0", "+25.0]"]


def price_summary(accuracy=0.9, **fields):
    """A run with the head by state: its points at prices, its base's under two other rules."""
    trained = frontier((0.3, accuracy + 0.02, 4.0), (1.2, accuracy, 3.0), dial="price")
    rules = {"entropy_sum": frontier((0.0, 0.95, 5.0), (1.0, 0.55, 2.0))}  # 68.3 % at 3 calls
    base = frontier((0.9, 0.8, 6.0), (0.5, 0.5, 2.0), dial="confidence")  # 57.5 %
    own = {"grid": [gain(0.2, 0.1, 0.3)] * 2, "learned": None, "mean": gain(0.2, 0.1, 0.3)}
    better = own | {"grid": [gain(0.1, 0.05, 0.15), gain(accuracy - 0.683, 0.18, 0.25)]}
    dials = {"rule": "state", "dial": "price", "base_rule": "confidence", "price": 1.0}
    gains = own | {"rules": {"entropy_sum": better}}
    common = {"gains": gains, "rules": rules, "mode": "sampler"} | dials
    return make_summary(base, trained, None, **common | fields)


def test_a_run_with_prices_is_compared_with_the_best_rule_at_its_default_price():
    found = final_table(price_summary(head_flops=0.016)).split("\n\n")[1].splitlines()
    assert found[:4] == [
        "At the price 1.2 the trained model solves 90.0 % in 3.00 calls; the base solves 68.3 % at "
        "these calls under its best rule there, entropy_sum: +21.7 points (95 % interval +18.0 to "
        "+25.0).",
        # 90 % of the entropy sum: 2 + 3 (0.90 - 0.55) / 0.40
        "For as much the base needs 4.62 calls, 1.54 times as many.",
        "At its best the base solves 95.0 %, in 5.00 calls; the trained model does not solve as "
        "many at any price measured.",
        "The head adds 1.6 % to the FLOPs of a call.",
    ]
    none = final_table(price_summary(accuracy=0.0)).split("\n\n")[1]
    assert "For as much" not in none and "solve as many in any" not in none
    slow = price_summary(accuracy=0.96)
    for point in slow["trained"]["frontier"]:
        point["nfe"] += 4
    assert "the trained model needs 7.00 for as many." in final_table(slow)
    best = final_table(price_summary(accuracy=0.96)).split("\n\n")[1]
    assert "The base does not solve as many in any number of calls measured." in best
    assert "the trained model solves as many in 3.00, 1/1.7 of the calls." in best


def test_the_table_has_the_numbers_of_the_sentence():
    """Each price against the base's best rule at its calls; the base at its best of any rule."""
    given = price_summary()
    table = final_table(given).splitlines()
    assert table[3].split() == ["1.2", "-", "-", "90.0", "%", "3.00", "68.3", "%", *GAIN]
    used = in_use(given)
    assert (used.dial, used.extrapolated, used.gain["gain"]) == (1.2, False, 0.9 - 0.683)
    assert used.base_accuracy == pytest.approx(0.55 + 0.40 / 3)
    assert best_of_base(given) == (0.95, 5.0)
    # Elsewhere the learned threshold is in use, or nothing is.
    assert in_use(summary()).trained["nfe"] == LEARNED["nfe"]
    fixed = make_summary(BASE, TRAINED, None, gains={"grid": [gain(0, 0, 0)] * 3, "learned": None})
    assert in_use(fixed) is None


def test_each_models_points_have_the_dial_of_its_rule():
    rows = frontier_rows(price_summary())
    assert [row["model"] for row in rows if "price" in row] == ["trained"] * 2
    assert [row["model"] for row in rows if "confidence" in row] == ["base"] * 2
    assert "      -" in final_table(price_summary()).splitlines()[2]


def test_a_loss_is_called_worse():
    assert sentences(gains=GAINS | {"learned": gain(-0.15, -0.17, -0.12)})[0].endswith(
        "-15.0 points (95 % interval -17.0 to -12.0); the trained model is worse."
    )


def test_an_interval_around_zero_is_not_called_a_gain():
    assert sentences(gains=GAINS | {"learned": gain(0.02, -0.001, 0.04)})[0].endswith(
        "+2.0 points (95 % interval -0.1 to +4.0), too small a difference to tell the two apart."
    )
    assert "+0.0 points" in sentences(gains=GAINS | {"learned": gain(-1e-9, -1e-9, 0.0)})[0]


def test_an_extrapolated_base_is_reported_at_its_nearest_point():
    line = sentences(learned=LEARNED | {"nfe": 9.0})[0]
    assert "in 9.0 calls; the base solves 90.0 % at its nearest measured point: +8.1" in line


def test_the_mean_is_over_the_calls_that_both_cover():
    # From 2 to 8 calls.  Base: (2 * .5 + 4 * .85) / 6 = 73.3 %.  Trained at 2 calls:
    # .6 + .32 * .4 / 3.4 = .6376, so (3 * .7788 + 3 * .94) / 6 = 85.9 %.
    assert sentences()[1] == (
        "On average from 2.0 to 8.0 calls, at the thresholds of the grid, the trained model solves "
        "85.9 % and the base 73.3 %: +12.6 points (95 % interval +11.0 to +14.5)."
    )


def test_frontiers_without_common_calls_have_no_mean():
    apart = frontier((0.0, 0.9, 20.0), (0.1, 0.8, 12.0))
    gains = GAINS | {"grid": GAINS["grid"][:2], "mean": None}
    lines = sentences(trained=apart, gains=gains)
    assert any("no range of calls in common" in line for line in lines)


def test_what_the_base_was_shown_is_said_if_it_is_less_than_the_test_has():
    shown = {"steps": 480, "source": "sudoku", "difficulty": [4.0, 7.0], "unit": "empty cells"}
    levels = {"levels": [{"difficulty": 4.0}, {"difficulty": 14.0}]}
    assert sentences(shown=shown, by_difficulty=levels)[-1] == (
        "The base was shown answers to prompts with 4 to 7 empty cells alone; the test has 4 to 14."
    )
    assert sentences(shown=shown)[-1].endswith("4 to 7 empty cells alone.")
    assert sentences(shown=shown | {"count": 1000})[-1].startswith(
        "The base was shown answers to 1,000 prompts with 4 to 7 empty cells alone"
    )
    assert sentences(shown=shown | {"count": 1000, "difficulty": None})[-1] == (
        "The base was shown answers to 1,000 prompts alone."
    )
    assert "shown" not in text(shown=shown | {"difficulty": None})
    assert "shown" not in text(shown=None)


def test_without_a_learned_threshold_nothing_is_called_learned():
    table = text(learned=None)
    assert "learned" not in table
    assert "On average from 2.0 to 8.0 calls" in table


def test_another_commit_rule_has_its_own_dial():
    points = frontier((2.0, 0.5, 2.0), (16.0, 0.9, 16.0), dial="steps")
    gains = GAINS | {"grid": GAINS["grid"][:2]}
    made = summary(points, points, None, rule="top_k", dial="steps", gains=gains)
    assert [point["steps"] for point in made["base"]["frontier"]] == [2.0, 16.0]
    lines = final_table(made).splitlines()
    assert lines[0].split()[0] == "steps"
    assert "nats" not in lines[1]
    assert [line.split()[0] for line in lines[2:4]] == ["2", "16"]


def test_pass_at_k_is_kept_and_reported():
    several = {"pass@1": 0.5, "pass@2": 0.75}
    trained = [point | several for point in TRAINED]
    made = summary(trained=trained, learned=LEARNED | several)
    assert made["trained"] == {"frontier": trained, "learned": LEARNED | several}
    rates = "the trained model has pass@1 50.0 %, pass@2 75.0 %."
    assert final_table(made).endswith(f"At its learned threshold {rates}\n")
    assert text(trained=trained, learned=None).endswith(f"At gamma 0 {rates}\n")


def test_the_nearest_price_is_so_by_ratio():
    prices = (0.03, 0.3, 1.0, 6.0)
    assert [nearest(prices, x) for x in (0.09, 0.1, 0.5, 0.6, 2.4, 2.5)] == [0, 1, 1, 2, 2, 3]
