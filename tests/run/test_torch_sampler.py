"""The exported sampler in PyTorch against ours, on one network: equal tokens and equal calls."""

import importlib.util
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from diffpo_jax.diffusion import sampler as ours
from diffpo_jax.diffusion.settings import EndOfText, Rule, SamplerSettings
from diffpo_jax.run import sampler_files

torch = pytest.importorskip("torch")

LENGTH, ROWS, MASK_ID, VOCAB = 16, 6, 5, 6
POLICY, PARAMS = reference.tiny_policy(seed=3, vocab=VOCAB, mask_id=MASK_ID)
PROMPTS = reference.some_prompts(1, ROWS, 5, MASK_ID)
RULES = {
    "entropy_bounded": ("entropy", 0.5),
    "entropy_sum": ("margin", 1.5),
    "top_k": ("confidence", 16.0),
    "confidence": ("confidence", 0.5),
}


class Network:
    """The network of ours with the calls of a PyTorch model."""

    def __call__(self, tokens, attention_mask, output_hidden_states):
        hidden = forward(
            jnp.asarray(tokens.numpy(), jnp.int32), jnp.asarray(attention_mask.numpy())
        )
        logits, hidden = (torch.from_numpy(np.array(x)) for x in hidden)
        return types.SimpleNamespace(logits=logits, hidden_states=(hidden,))


@jax.jit
def forward(tokens, mask):
    hidden = POLICY.hidden(PARAMS, tokens, mask.astype(bool))
    return POLICY.logits(PARAMS, hidden), hidden


def load():
    source = pathlib.Path(sampler_files.TEMPLATE)
    loader = importlib.machinery.SourceFileLoader("exported", str(source))
    spec = importlib.util.spec_from_loader("exported", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("end", [EndOfText((0,), 0), EndOfText((0,), 0, True, "while_open")])
@pytest.mark.parametrize("size", [1, 8, 16])
@pytest.mark.parametrize("rule", RULES)
def test_tokens_and_calls_equal_ours(rule, size, end):
    ranking, dial = RULES[rule]
    settings = SamplerSettings(LENGTH, size, 0.0, rule=Rule(rule), ranking=ranking, end=end)
    run = jax.jit(ours.make_generate(POLICY, settings, threshold="fixed"))
    rollout = run(PARAMS, PROMPTS, jnp.float32(dial), jax.random.split(jax.random.key(0), ROWS))
    compare(rollout, settings, dial=dial)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_a_learned_threshold_equals_ours(scale):
    settings = SamplerSettings(LENGTH, 8, 0.0, ranking="entropy")
    run = jax.jit(ours.make_generate(POLICY, settings, threshold="median"))
    rollout = run(PARAMS, PROMPTS, jnp.float32(scale), jax.random.split(jax.random.key(0), ROWS))
    compare(rollout, settings, head=PARAMS["threshold"], scale=scale)


def compare(rollout, settings, *, dial=0.5, head=None, **given):
    values = sampler_files.settings(
        settings,
        dial=dial,
        gamma_0=0.5,
        mask_id=MASK_ID,
        logit_shift=0,
        tokens=VOCAB,
        learned=head is not None,
    )
    tensors = head and {k: torch.from_numpy(v) for k, v in sampler_files.tensors(head).items()}
    out = load().generate(
        Network(),
        torch.from_numpy(np.array(PROMPTS.tokens)).long(),
        torch.from_numpy(np.array(PROMPTS.mask)).long(),
        sampler={"settings": values, "head": tensors},
        **given,
    )
    np.testing.assert_array_equal(out.sequences[:, 5:], rollout.tokens)
    np.testing.assert_array_equal(out.commit_call, rollout.commit_call)
    np.testing.assert_array_equal(out.calls, rollout.nfe)
    np.testing.assert_allclose(out.gamma, rollout.gamma, rtol=1e-5)
