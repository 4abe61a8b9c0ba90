"""FLOPs of denoiser calls, rollouts and updates, and the MFU of an RL step.

We count matrix products, a multiplication and an addition as two, since published peaks are of
matrix products.  Only useful work counts.  We leave out elementwise work, norms and softmax, idle
calls while a batch waits for its slowest row, recomputation by remat, evaluations and the threshold
head.  The head by state, which works at every call, counts.
"""

from typing import NamedTuple

import numpy as np

from diffpo_jax.config import LoRAConfig, ModelConfig, RLConfig, SamplerConfig, StateHeadConfig


class Network(NamedTuple):
    """What decides how much a call computes."""

    model: ModelConfig
    lora: LoRAConfig
    vocab: int  # V, rows of the embedding
    head: StateHeadConfig | None = None  # of the commit rule "state"


class CallFlops(NamedTuple):
    """FLOPs of one sequence in one call."""

    weights: float  # products with the denoiser's matrices
    adapter: float  # products with an adapter's matrices
    attention: float  # queries with keys, and attention weights with values

    @property
    def forward(self) -> float:
        return sum(self)

    def gradient(self, whole: bool) -> float:
        """FLOPs of a forward and backward pass; the latter multiplies for inputs and for weights.

        Args:
          whole: whether the denoiser itself is trained.  If an adapter is, the frozen weights have
            no gradient.
        """
        return (3 if whole else 2) * self.weights + 3 * (self.adapter + self.attention)


class Passes(NamedTuple):
    """Denoiser passes over each sequence in the updates of a step."""

    forward: float  # for log-probabilities of the old policy and of the reference
    gradient: float  # differentiated passes
    # The same over the clean rows that noisy blocks see, where attention is by blocks
    rows_forward: float = 0.0
    rows_gradient: float = 0.0


def kernel_shapes(model: ModelConfig) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each kernel of a block."""
    head = model.head_width
    return {
        "q": (model.width, model.heads * head),
        "k": (model.width, model.kv_heads * head),
        "v": (model.width, model.kv_heads * head),
        "o": (model.heads * head, model.width),
        "gate": (model.width, model.ff),
        "up": (model.width, model.ff),
        "down": (model.ff, model.width),
    }


def block_parameters(model: ModelConfig) -> int:
    """Entries of all blocks' kernels."""
    return model.layers * sum(ins * outs for ins, outs in kernel_shapes(model).values())


def call_flops(network: Network, *, tokens: int, keys: int, read: int) -> CallFlops:
    """FLOPs of a denoiser call on one sequence; padding costs as much as any token.

    Args:
      tokens: positions that pass through the blocks: S without a cache.
      keys: positions that they attend to: S.
      read: positions whose distribution over the vocabulary is computed.
    """
    model, lora = network.model, network.lora
    ins_outs = kernel_shapes(model)
    all_blocks = 2.0 * tokens * model.layers
    block = sum(ins * outs for ins, outs in ins_outs.values())
    adapter = (lora.rank or 0) * sum(sum(ins_outs[name]) for name in lora.targets)
    return CallFlops(
        weights=all_blocks * block + 2.0 * read * model.width * network.vocab,
        adapter=all_blocks * adapter,
        attention=2 * all_blocks * keys * ins_outs["q"][1],
    )


def head_flops(network: Network, places: int) -> float:
    """FLOPs of the head by state in one call on one sequence; 0 without one.

    Args:
      places: positions of a block.
    """
    if network.head is None:
        return 0.0
    head, width = network.head, network.model.width
    inputs = 8 + 6 * head.pairs + (width if head.hidden else 0)
    position = inputs * head.width + head.width**2 + 4 * head.width
    pair = width + 2 * head.pairs  # the logit of the other's token, and its weights
    return 2.0 * (places * position + places**2 * pair)


def rollout_flops(
    network: Network,
    sampler: SamplerConfig,
    commit_call: np.ndarray,
    nfe: np.ndarray,
    rows_per_prompt: int = 1,
) -> float:
    """FLOPs of all calls of a batch of rollouts.

    Args:
      commit_call: [B L], the call of each token; above `nfe` [B] for tokens that were filled in.
      rows_per_prompt: rollouts that share their first call; without a cache they do.
    """
    whole, size = sampler.prompt_length + sampler.length, sampler.block_length
    chunk = sampler.vocabulary_chunk or sampler.length
    head = nfe.sum() * head_flops(network, size)
    read = min(-(-size // chunk) * chunk, sampler.length)
    if sampler.cache == "block":
        return head + _block_cache_flops(network, sampler, commit_call, nfe, read)
    if sampler.cache == "none":
        calls = nfe.sum() - nfe.size + nfe.size / rows_per_prompt
        return head + calls * call_flops(network, tokens=whole, keys=whole, read=read).forward
    span = sampler.length if sampler.cache == "prompt" else size
    call = call_flops(network, tokens=span, keys=whole, read=read)
    refresh = call_flops(network, tokens=whole, keys=whole, read=0)
    refreshes = _refreshes(commit_call, nfe, size, sampler.cache_refresh)
    return head + nfe.sum() * call.forward + refreshes * refresh.forward


def _block_cache_flops(
    network: Network, sampler: SamplerConfig, commit_call: np.ndarray, nfe: np.ndarray, read: int
) -> float:
    """Calls on the current block; each row's prompt; and each block that a row leaves, once."""
    size, prompt = network.model.attention_block, sampler.prompt_length
    keys = prompt + sampler.length + size
    call = call_flops(network, tokens=size, keys=keys, read=read)
    begun = call_flops(network, tokens=prompt + size, keys=prompt + size, read=0)
    kept = call_flops(network, tokens=size, keys=keys, read=0)
    left = _refreshes(commit_call, nfe, min(size, sampler.length), None) - nfe.size
    return nfe.sum() * call.forward + nfe.size * begun.forward + left * kept.forward


def update_passes(
    nfe: np.ndarray,
    config: RLConfig,
    rows_per_prompt: int | None = None,
    *,
    compared: bool,
    block: int | None = None,
) -> Passes:
    """How often the updates of a step pass over each of its sequences.

    Args:
      nfe: calls of each rollout.
      rows_per_prompt: rollouts that share the pass of their first anchor, for which the old policy
        needs none; None counts the states that each rollout is scored in, whoever computed them.
      compared: whether there is a reference model, for a KL.
      block: positions of a block, if attention is by blocks. Every block then has a rollout's
        anchors, and a pass scores all of them.
    """
    mu, likelihood = config.inner_updates, config.likelihood
    priced = compared and config.objective.kl_in == "reward"
    by_old, by_reference = mu - 1 + priced, (1 if priced else mu) * compared
    # Micro-batches group prompts with similar numbers of calls; each makes as many passes as its
    # longest row has calls.
    unit = rows_per_prompt or 1
    size = (config.micro_batch or nfe.size) // unit
    longest = np.sort(nfe.reshape(-1, unit).max(axis=1)).reshape(-1, size)[:, -1]
    sets = mu * longest.mean() if config.objective.selection == "exact" else 0
    exact, shrink = likelihood.anchors == "all", likelihood.shrink
    if block is not None:
        each = float(-(-block // shrink) if exact else likelihood.anchors)
        scored = by_old + by_reference
        return Passes(scored * each, mu * each, float(scored), float(mu + sets))
    most = (likelihood.calls or -(-nfe.max() // shrink)) if exact else likelihood.anchors
    each = most if most <= 2 else np.minimum(most, -(-longest // shrink)).mean()
    first = 1.0
    if likelihood.shares_first_state:
        first = 1 / unit
        each += first - 1
    forward = (by_old + by_reference) * each
    if likelihood.reuses_first_call and rows_per_prompt:
        forward -= by_old * first
    return Passes(float(forward), float(mu * each + sets))


def update_flops(network: Network, sampler: SamplerConfig, passes: Passes, *, whole: bool) -> float:
    """FLOPs that the updates of a step spend on each sequence.

    Args:
      whole: whether the denoiser itself is trained, not an adapter.
    """
    length = sampler.prompt_length + sampler.length
    if network.model.attention_block is None:
        call = call_flops(network, tokens=length, keys=length, read=sampler.length)
        return passes.forward * call.forward + passes.gradient * call.gradient(whole)
    own = sampler.length
    call = call_flops(network, tokens=own, keys=length + own, read=own)
    row = call_flops(network, tokens=length, keys=length, read=0)
    return (
        passes.forward * call.forward
        + passes.gradient * call.gradient(whole)
        + passes.rows_forward * row.forward
        + passes.rows_gradient * row.gradient(whole)
    )


def throughput(
    flops: float, tokens: int, seconds: float, chips: int, peak: float | None
) -> dict[str, float]:
    """Throughput metrics that are logged next to a step's duration.

    Args:
      flops: of the step, on all devices.
      tokens: sampled tokens.
      chips: devices.
      peak: FLOP/s of one of them; None if it is not known.

    Returns:
      Tokens per second and chip, and `mfu`, the share of the peak, if that is known.
    """
    result = {"tokens_per_second_per_chip": tokens / seconds / chips}
    if peak:
        result["mfu"] = flops / (seconds * chips * peak)
    return result


def _refreshes(commit_call: np.ndarray, nfe: np.ndarray, size: int, every: int | None) -> int:
    """Refreshes of a cache: one when a row enters a block, and one after each `every` calls."""
    drawn = np.where(commit_call <= nfe[:, None], commit_call, 0)
    last = drawn.reshape(len(nfe), -1, size).max(axis=2)
    last = np.maximum.accumulate(last, axis=1)  # blocks are written left to right
    calls = np.diff(last, axis=1, prepend=0)
    return int(np.sum(-(-calls // every) if every else calls > 0))
