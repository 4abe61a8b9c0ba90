import math

import jax.numpy as jnp
import numpy as np
import pytest

from diffpo_jax.arrays.types import Rollout
from diffpo_jax.config import ObjectiveConfig
from diffpo_jax.rl import diagnostics

CONFIG = ObjectiveConfig(truncation=2.0, clip_low=0.2, clip_high=0.2)
P_ROLLOUT = np.array([[0.5, 0.5, 0.2], [0.4, 0.8, 0.1]])
WEIGHTS = np.array([[1.0, 0.5, 4.0], [1.03, 1.001, 7.0]])
SAMPLED = np.array([[True, True, True], [True, True, False]])
COUNTED = jnp.asarray(SAMPLED)
EXACT = np.array([[True, False, False], [True, True, True]])


def f32(x):
    return jnp.asarray(x, jnp.float32)


def rollout(p=P_ROLLOUT, sampled=SAMPLED):
    return Rollout(*[None] * len(Rollout._fields))._replace(
        logprob=f32(np.log(p)),
        commit_call=jnp.asarray([[1, 2, 3], [1, 1, 2]], jnp.int32),
        sampled=jnp.asarray(sampled),
        entropy=f32([[0.5, 1.0, 1.5], [2.0, 0.25, 9.0]]),
    )


def means(metrics):
    pairs = {name: (float(total), float(count)) for name, (total, count) in metrics.items()}
    return {name: total / count for name, (total, count) in pairs.items() if count}


@pytest.fixture
def values():
    old = f32(np.log(P_ROLLOUT * WEIGHTS))
    return diagnostics.surrogate_metrics(old, rollout(), COUNTED, jnp.asarray(EXACT), CONFIG)


def k3(w):
    return w - 1 - np.log(w)


def test_kl_by_hand(values):
    got = means(values)
    counted = WEIGHTS[SAMPLED]
    assert got["kl/token"] == pytest.approx(k3(counted).mean(), rel=1e-4)
    # Of a sequence: the product of its sampled tokens' weights.
    sequences = np.array([1.0 * 0.5 * 4.0, 1.03 * 1.001])
    assert got["kl/sequence"] == pytest.approx(k3(sequences).mean(), rel=1e-4)
    assert float(values["kl/token"][1]) == 5
    assert float(values["kl/sequence"][1]) == 2


def test_weights_by_hand(values):
    got = means(values)
    truncated = np.array([1.0, 0.5, 2.0, 1.03, 1.001])
    assert got["weights/mean"] == pytest.approx(truncated.mean(), rel=1e-5)
    assert got["weights/square"] == pytest.approx((truncated**2).mean(), rel=1e-5)
    assert got["weights/truncated"] == pytest.approx(1 / 5)


def test_by_call_by_hand(values):
    # Calls 1, 2 and 3; 1 and 1 (the sixth token is not counted): ranges 1 and 2 to 3.
    got = diagnostics.derived(means(values), 1.0)
    first, later = np.array([1.0, 1.03, 1.001]), np.array([0.5, 4.0])
    for calls, w in (("calls_1", first), ("calls_2-3", later)):
        cut = np.minimum(w, 2.0)
        assert got[f"kl/token/{calls}"] == pytest.approx(k3(w).mean(), rel=1e-3)
        assert got[f"weights/truncated/{calls}"] == (w > 2).mean()
        assert got[f"weights/ess/{calls}"] == pytest.approx(
            cut.mean() ** 2 / (cut**2).mean(), rel=1e-5
        )
        assert f"weights/mean/{calls}" not in got
    ranges = {name.rpartition("_")[2] for name in got if "calls_" in name}
    assert ranges == {"1", "2-3"}


def test_parity_counts_only_exactly_scored_tokens(values):
    # Sampled and exact: weights 1, 1.03 and 1.001.
    assert [float(values[f"parity/{x}"][1]) for x in ("0.2%", "1%", "5%")] == [3, 3, 3]
    assert [float(values[f"parity/{x}"][0]) for x in ("0.2%", "1%", "5%")] == [2, 2, 3]


def test_kl_is_zero_for_the_sampler_itself():
    got = diagnostics.surrogate_metrics(
        rollout().logprob, rollout(), COUNTED, jnp.asarray(EXACT), CONFIG
    )
    got = means(got)
    assert got["kl/token"] == got["kl/sequence"] == 0
    assert got["weights/mean"] == got["parity/0.2%"] == 1
    assert diagnostics.derived(got, 1.0)["weights/ess"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_kl_is_never_negative(seed):
    rng = np.random.default_rng(seed)
    spread = 10.0 ** rng.uniform(-6, 1.5)
    old = f32(np.log(P_ROLLOUT) + spread * rng.normal(size=P_ROLLOUT.shape))
    got = means(diagnostics.surrogate_metrics(old, rollout(), COUNTED, jnp.asarray(EXACT), CONFIG))
    assert got["kl/token"] >= 0
    assert got["kl/sequence"] >= 0


def test_kl_of_a_huge_weight_is_large_and_finite():
    old = rollout().logprob.at[0, 0].set(500.0)
    got = means(diagnostics.surrogate_metrics(old, rollout(), COUNTED, jnp.asarray(EXACT), CONFIG))
    assert 1e10 < got["kl/token"] < math.inf
    assert 1e10 < got["kl/sequence"] < math.inf
    assert got["weights/mean"] <= 2


def test_effective_sample_size_by_hand():
    # w = 1 and 3: mean 2, mean square 5.
    got = diagnostics.derived({"weights/mean": 2.0, "weights/square": 5.0}, 1.0)
    assert got["weights/ess"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (0.0, 0.0),
        (0.02, math.sqrt(0.01)),  # the first bound, 0.1 < 0.1407
        (2.0, math.sqrt(1 - math.exp(-2))),  # the second, 0.93 < 1
        (1e30, 1.0),
    ],
)
def test_theorem_1_slack_by_hand(kl, expected):
    got = diagnostics.derived({"kl/sequence": kl}, 1.5)
    assert got["theorem1/slack"] == pytest.approx(1.5 * expected)


def test_no_metrics_give_no_derived_metrics():
    assert diagnostics.derived({}, 1.0) == {}


def test_ratio_metrics_by_hand():
    old, ratio = np.log(P_ROLLOUT), np.array([[1.3, 0.7, 1.0], [1.3, 0.7, 0.1]])
    new, reference = f32(old + np.log(ratio)), f32(old)
    sampled, advantage = jnp.asarray(SAMPLED), f32([1.0, -1.0])
    got = diagnostics.ratio_metrics(new, f32(old), reference, sampled, advantage, CONFIG)
    # Above for the good sequence, below for the bad one; the last token is not counted.
    assert [float(x) for x in got["clip/token"]] == [2, 5]
    r = 1 / ratio[SAMPLED]
    expected = (r - 1 - np.log(r)).mean()
    assert means(got)["kl/old"] == pytest.approx(expected, rel=1e-4)
    assert means(got)["kl/reference"] == pytest.approx(expected, rel=1e-4)
    without = diagnostics.ratio_metrics(new, f32(old), None, sampled, advantage, CONFIG)
    assert without.keys() == {"clip/token", "kl/old"}
