"""The schedule "dream" against Dream's published loop, written again from its description."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.config import LikelihoodConfig
from diffpo_jax.diffusion import commit, likelihood
from diffpo_jax.diffusion import sampler as generate
from diffpo_jax.diffusion.settings import EndOfText, Rule, SamplerSettings

LENGTH, PROMPT, ROWS, VOCAB, MASK_ID = 12, 5, 4, 6, 5
POLICY, PARAMS = reference.tiny_policy(seed=3, vocab=VOCAB, mask_id=MASK_ID)
PROMPTS = reference.some_prompts(1, ROWS, PROMPT, MASK_ID)
KEYS = jax.random.split(jax.random.key(0), ROWS)
DREAM = Rule("top_k", schedule="dream")


def published_counts(masks, steps, eps):
    """Positions of each call: n (1 - s/t) without its fraction, and in the last call all n."""
    times = [1 - i * (1 - Fraction(eps)) / steps for i in range(steps + 1)]
    counts = []
    for i in range(steps):
        counts.append(int(masks * (1 - times[i + 1] / times[i])) if i < steps - 1 else masks)
        masks -= counts[-1]
    return counts


@functools.partial(jax.jit, static_argnums=(0, 3))
def counts(most, masks, steps, eps):
    """The counts of a block of `masks` positions, up to call `most`."""

    def one(open_, call):
        count = commit.dream_count(open_, call[None], jnp.float32(steps)[None], eps)
        return open_ & (jnp.cumsum(open_) > count), count[0]

    open_ = jnp.arange(most) < masks
    return jax.lax.scan(one, open_[None], jnp.arange(1, most + 1))[1]


def meets_a_whole_number(masks, steps, eps):
    """Whether n (1 - s/t) is a whole number before the last call."""
    times = [1 - i * (1 - Fraction(eps)) / steps for i in range(steps + 1)]
    for i, count in enumerate(published_counts(masks, steps, eps)[:-1]):
        if masks and (masks * (1 - times[i + 1] / times[i])).denominator == 1:
            return True
        masks -= count
    return False


@pytest.mark.parametrize("eps", ["1e-3", "1e-2", "0.2"])
def test_counts_of_all_calls_are_the_published_ones(eps):
    compared = 0
    for steps in range(4, 21):
        for masks in range(1, 65):
            if meets_a_whole_number(masks, steps, eps):
                continue  # the rounding of float32 decides, also in the published code
            got = counts(64, masks, steps, float(eps)).tolist()
            assert got[:steps] == published_counts(masks, steps, eps), (steps, masks)
            assert sum(got) == masks
            compared += 1
    assert compared == 17 * 64 if eps == "1e-3" else compared > 300


@pytest.mark.parametrize(("length", "steps"), [(256, 64), (512, 512), (1000, 100), (768, 333)])
def test_long_schedules_equal_those_of_torchs_times(length, steps):
    """Dream computes in float32; the last two schedules are not those of exact numbers."""
    torch = pytest.importorskip("torch")
    times, masks, expected = torch.linspace(1, 1e-3, steps + 1), length, []
    for i in range(steps):
        share = float(torch.tensor(float(masks)) * (1 - times[i + 1] / times[i]))
        expected.append(int(share) if i < steps - 1 else masks)
        masks -= expected[-1]
    assert (expected == published_counts(length, steps, "1e-3")) == (length < 768)
    assert counts(1024, length, steps, 1e-3).tolist()[:steps] == expected


def test_schedule_by_hand():
    """Times 1, 0.75025, 0.5005, 0.25075, 0.001: shares 0.24975, 0.33289, 0.49900, then all."""
    assert counts(16, 12, 4, 1e-3).tolist()[:4] == [2, 3, 3, 4]
    # At a call per token the first one would commit 0.999 positions.
    assert counts(16, 4, 4, 1e-3).tolist()[:4] == [0, 1, 1, 2]


@jax.jit
def logits_at(completion):
    tokens = jnp.concatenate([PROMPTS.tokens, completion], axis=1)
    mask = jnp.concatenate([PROMPTS.mask, jnp.ones(completion.shape, bool)], axis=1)
    return POLICY.logits(PARAMS, POLICY.hidden(PARAMS, tokens, mask))[:, PROMPT:]


def dream(steps, algorithm, eps="1e-3"):
    """All rows from all mask, with the model called in every step."""
    x = np.full((ROWS, LENGTH), MASK_ID)
    calls = np.zeros((ROWS, LENGTH), int)
    for i, count in enumerate(published_counts(LENGTH, steps, eps)):
        logits = np.array(logits_at(x.astype(np.int32)), np.float64)
        logits[..., MASK_ID] = -np.inf  # a trained Dream never predicts the mask
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        first, second = np.moveaxis(np.sort(p, axis=-1)[..., :-3:-1], -1, 0)
        entropy = -np.sum(p * np.log(p + 1e-10), axis=-1)
        confidence = {"maskgit_plus": first, "topk_margin": first - second, "entropy": -entropy}
        confidence = np.where(x == MASK_ID, confidence[algorithm], -np.inf)
        for row in range(ROWS):
            chosen = np.argsort(-confidence[row], kind="stable")[:count]
            x[row, chosen] = p[row, chosen].argmax(axis=-1)
            calls[row, chosen] = i + 1
    return x, calls


@functools.cache
def sampler(ranking="entropy", slots=None, **how):
    how = {"block_length": LENGTH, "temperature": 0.0, "rule": DREAM} | how
    settings = SamplerSettings(LENGTH, ranking=ranking, **how)
    run = jax.jit(generate.make_generate(POLICY, settings, threshold="fixed", slots=slots))
    return lambda steps: jax.device_get(run(PARAMS, PROMPTS, jnp.float32(steps), KEYS))


RANKINGS = {"confidence": "maskgit_plus", "margin": "topk_margin", "entropy": "entropy"}


@pytest.mark.parametrize("slots", [None, 2])
@pytest.mark.parametrize("ranking", RANKINGS)
def test_top_k_equals_dream_token_for_token_at_temperature_zero(ranking, slots):
    for steps in (1, 2, 4, 5, 7, 12, 20):
        tokens, calls = dream(steps, RANKINGS[ranking])
        rollout = sampler(ranking, slots)(steps)
        np.testing.assert_array_equal(rollout.tokens, tokens)
        np.testing.assert_array_equal(rollout.commit_call, calls)
        # The published loop calls the model in every step, also to commit nothing.
        np.testing.assert_array_equal(rollout.nfe, steps)
        assert not rollout.forced.any()
        if steps >= 12:
            assert (calls != 1).all()


def test_each_block_has_a_schedule_of_its_own():
    calls = sampler(block_length=4)(12).commit_call.reshape(ROWS, 3, 4)
    for block in range(3):
        of_block = calls[:, block] - 4 * block
        for row in range(ROWS):
            assert sorted(of_block[row]) == [2, 3, 4, 4]  # 0, 1, 1 and 2 positions


def test_a_cap_or_an_end_finishes_a_row_early():
    capped = sampler(max_calls=3)(12)
    np.testing.assert_array_equal(capped.nfe, 3)
    assert capped.forced.all()
    everything = EndOfText(tuple(range(MASK_ID)), 0, stop=True)  # any token ends the text
    ended = sampler(end=everything)(12)
    first = ended.commit_call[:, 0]  # the text is done once its first token is there
    np.testing.assert_array_equal(ended.nfe, first)
    assert (first < 12).any()


def test_the_likelihood_of_all_calls_is_that_of_the_draws():
    """Calls without a position have an anchor too, at which nothing is scored."""
    settings = SamplerSettings(LENGTH, LENGTH, 1.0, rule=DREAM, ranking="entropy")
    rollout = jax.tree.map(jnp.asarray, sampler(temperature=1.0)(LENGTH))
    assert (rollout.commit_call.min(axis=1) > 1).all()
    config = LikelihoodConfig(anchors="all", prompt_masking=0.0)
    draws = likelihood.draw(jax.random.key(5), rollout, PROMPTS, config)
    score = jax.jit(
        lambda: likelihood.anchored_log_prob(
            POLICY, PARAMS, PROMPTS, rollout, draws, config, settings
        )
    )
    np.testing.assert_allclose(score(), rollout.logprob, atol=1e-5)
