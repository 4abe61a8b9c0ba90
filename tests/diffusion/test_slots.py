"""Rows that begin and end between calls come out as from the sampler's own program."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.arrays import rng
from diffpo_jax.arrays.types import Prompts
from diffpo_jax.diffusion import sampler as generate
from diffpo_jax.diffusion import slots as slots_lib
from diffpo_jax.diffusion.settings import CacheSettings, EndOfText, Rule, SamplerSettings

LENGTH, PROMPT, ROWS, VOCAB, MASK_ID, BLOCK = 6, 4, 5, 6, 5, 2
POLICY, PARAMS = reference.tiny_policy(seed=7, vocab=VOCAB, mask_id=MASK_ID)
PROMPTS = reference.some_prompts(1, ROWS, PROMPT, MASK_ID)
END = EndOfText((0,), 0, True)
SEED = 11


@dataclasses.dataclass
class Server:
    """Three slots, whose rows the test begins and calls."""

    settings: SamplerSettings
    learns: bool = True
    count: int = 3
    size: int = 3  # rows of a call

    def __post_init__(self):
        self.state = slots_lib.empty(POLICY, PARAMS, self.settings, self.count, PROMPT)
        settings, learns = self.settings, self.learns
        self._put = jax.jit(lambda s, new, at: slots_lib.put(POLICY, PARAMS, s, new, at, settings))
        self._call = jax.jit(
            lambda s, at: slots_lib.call(POLICY, PARAMS, s, at, settings, learns=learns)
        )

    def put(self, place, row, dial=jnp.nan, scale=1.0, temperature=0.0):
        new = slots_lib.Requests(
            Prompts(*(jnp.broadcast_to(x[row], (self.count, PROMPT)) for x in PROMPTS)),
            *(jnp.full(self.count, x, jnp.float32) for x in (dial, scale, temperature)),
            *(jnp.full(self.count, x, jnp.int32) for x in (SEED, row)),
        )
        self.state = self._put(self.state, new, jnp.arange(self.count) == place)

    def call(self, *places):
        padded = [*places, *[self.count] * (self.size - len(places))]
        self.state, seen = self._call(self.state, jnp.asarray(padded, jnp.int32))
        return jax.tree.map(lambda x: np.asarray(x)[: len(places)], seen)

    def finish(self, place):
        while not (seen := self.call(place)).commit_call.all():
            pass
        return jax.tree.map(lambda x: x[0], seen)


@functools.cache
def sampler(settings, threshold):
    return jax.jit(generate.make_generate(POLICY, settings, threshold=threshold))


def whole(settings, threshold, dial, temperature=0.0):
    """All rows by the sampler's own program."""
    run = sampler(settings._replace(temperature=temperature), threshold)
    keys = rng.row_keys(rng.key_for(SEED, "evaluate"), jnp.arange(ROWS))
    return jax.device_get(run(PARAMS, PROMPTS, jnp.float32(dial), keys))


def assert_same(seen, rollout, row):
    np.testing.assert_array_equal(seen.tokens, rollout.tokens[row])
    np.testing.assert_array_equal(seen.commit_call, rollout.commit_call[row])
    np.testing.assert_allclose(seen.logprob, rollout.logprob[row], atol=1e-5)
    np.testing.assert_allclose(seen.entropy, rollout.entropy[row], atol=1e-5)
    np.testing.assert_allclose(seen.dial, rollout.gamma[row], rtol=1e-5)
    assert seen.call == rollout.nfe[row]


DUAL = SamplerSettings(LENGTH, BLOCK, 0.0, cache=CacheSettings("dual", 2, 1))


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        (SamplerSettings(LENGTH, LENGTH, 0.0), 2),
        (SamplerSettings(LENGTH, BLOCK, 0.0, 2, ranking="margin", end=END, chunk=2), 3),
        (SamplerSettings(LENGTH, BLOCK, 0.0, cache=CacheSettings("prompt")), 2),
        (DUAL, 2),
        (DUAL, 3),
    ],
    ids=["plain", "cap-and-chunks", "prompt-cache", "dual-cache", "dual-cache-whole"],
)
def test_rows_of_one_batch_have_their_own_settings(settings, size):
    """Rows that come and go, at temperatures and thresholds of their own, do not see each other."""
    server = Server(settings, size=size)
    server.put(0, 0, dial=0.3)
    server.call(0)
    server.put(2, 1, scale=2.0, temperature=0.8)
    server.call(0, 2)
    server.put(1, 2, dial=1.5)
    server.call(2, 1)
    for place, row, expected in (
        (0, 0, whole(settings, "fixed", 0.3)),
        (2, 1, whole(settings, "median", 2.0, 0.8)),
        (1, 2, whole(settings, "fixed", 1.5)),
    ):
        assert_same(server.finish(place), expected, row)
    server.put(0, 3, scale=0.5, temperature=0.8)  # in a slot that was used
    assert_same(server.finish(0), whole(settings, "median", 0.5, 0.8), 3)


@pytest.mark.parametrize("rule", [Rule("top_k"), Rule("confidence", "leftmost")])
def test_the_dial_of_another_rule_belongs_to_its_row(rule):
    settings = SamplerSettings(LENGTH, LENGTH, 0.0, rule=rule, ranking="confidence")
    server, dials = Server(settings, learns=False), {0: 0.2, 1: 3.0, 2: 0.9}
    for row, dial in dials.items():
        server.put(row, row, dial=dial)
        server.call(row)
    for row, dial in dials.items():
        assert_same(server.finish(row), whole(settings, "fixed", dial), row)


def test_the_learned_threshold_is_told_beside_a_fixed_one():
    settings = SamplerSettings(LENGTH, LENGTH, 0.0)
    learned = whole(settings, "median", 1.0).gamma
    server = Server(settings)
    server.put(0, 0, dial=0.3)
    server.put(1, 1, scale=4.0)
    seen = server.call(0, 1)
    np.testing.assert_allclose(seen.learned, learned[:2], rtol=1e-5)
    np.testing.assert_allclose(seen.dial, [0.3, 4 * learned[1]], rtol=1e-5)
    without = Server(settings, learns=False)
    without.put(0, 0, dial=0.3)
    assert np.isnan(without.call(0).learned).all()


def test_a_temperature_of_each_row_is_a_draw_from_the_tempered_distribution():
    """Rows at 0 take the argmax, and the others draw: with many seeds, both kinds of tokens."""
    settings = SamplerSettings(LENGTH, LENGTH, 0.0)
    greedy = whole(settings, "fixed", 1e9)
    hot = whole(settings, "fixed", 1e9, 2.0)
    assert (greedy.tokens != hot.tokens).any()
    server = Server(settings)
    server.put(0, 0, dial=1e9, temperature=2.0)
    server.put(1, 1, dial=1e9)
    seen = server.call(0, 1)
    np.testing.assert_array_equal(seen.tokens, [hot.tokens[0], greedy.tokens[1]])
