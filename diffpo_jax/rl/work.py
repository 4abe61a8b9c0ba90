"""What a step asks of the denoiser: passes, operations, and how much of the devices' peak that is.

Counted is what an algorithm needs: a rollout's calls until its row is done, not those in which a
batch waits for its slowest row; no pass that is only made again.  Evaluations and the threshold
head are left out.
"""

from typing import NamedTuple

import numpy as np

from diffpo_jax.config import RLConfig, SamplerConfig
from diffpo_jax.models import flops
from diffpo_jax.models.flops import Network


class Passes(NamedTuple):
    """Of the denoiser, on each sequence in the updates of a step."""

    forward: float  # for log-probabilities to compare with
    gradient: float  # that are differentiated


def passes(nfe: np.ndarray, config: RLConfig, *, compared: bool) -> Passes:
    """How often the updates of a step pass each of its sequences.

    Args:
      nfe: calls of each rollout.
      compared: with a reference model, for a KL.
    """
    mu, likelihood = config.inner_updates, config.likelihood
    with_reference = (2 if config.objective.kl_in == "reward" else mu) if compared else 0
    # A micro-batch, of rows of as many calls, makes as many passes as its longest row took.
    size = config.micro_batch or nfe.size
    longest = np.sort(nfe).reshape(-1, size)[:, -1]
    most = likelihood.anchors or likelihood.calls or nfe.max()
    each = most if most <= 2 else np.minimum(most, longest).mean()
    sets = mu * longest.mean() if config.objective.selection == "exact" else 0
    return Passes(float((mu - 1 + with_reference) * each), float(mu * each + sets))


def of_rollouts(
    network: Network, sampler: SamplerConfig, commit_call: np.ndarray, nfe: np.ndarray
) -> float:
    """Operations of all calls of rollouts.

    Args:
      commit_call: [B L], the call of each token; those above `nfe` [B] were filled in.
    """
    whole, size = sampler.prompt_length + sampler.length, sampler.block_length
    chunk = sampler.vocabulary_chunk or sampler.length  # 0: the whole completion is read
    read = min(-(-size // chunk) * chunk, sampler.length)
    if sampler.cache == "none":
        return nfe.sum() * flops.of_call(network, tokens=whole, keys=whole, read=read).forward
    span = sampler.length if sampler.cache == "prompt" else size
    call = flops.of_call(network, tokens=span, keys=whole, read=read)
    refresh = flops.of_call(network, tokens=whole, keys=whole, read=0)
    refreshes = _refreshes(commit_call, nfe, size, sampler.cache_refresh)
    return nfe.sum() * call.forward + refreshes * refresh.forward


def of_updates(network: Network, sampler: SamplerConfig, done: Passes, *, whole: bool) -> float:
    """Operations that the updates of a step spend on each sequence.

    Args:
      whole: the denoiser itself is trained; False: an adapter.
    """
    length = sampler.prompt_length + sampler.length
    call = flops.of_call(network, tokens=length, keys=length, read=sampler.length)
    return done.forward * call.forward + done.gradient * call.gradient(whole)


def rates(
    work: float, tokens: int, seconds: float, chips: int, peak: float | None
) -> dict[str, float]:
    """What a step is told by beside its seconds.

    Args:
      work: operations of the step, on all devices.
      tokens: that were sampled.
      chips: devices.
      peak: operations a second of one of them; None: not known, and neither is a share of it.

    Returns:
      tokens a second and chip, and `mfu`, the share of the peak that those operations are.
    """
    result = {"tokens_per_second_per_chip": tokens / seconds / chips}
    if peak:
        result["mfu"] = work / (seconds * chips * peak)
    return result


def _refreshes(commit_call: np.ndarray, nfe: np.ndarray, size: int, every: int) -> int:
    """Whole passes of a cache: one when a row enters a block, and after each `every` calls."""
    drawn = np.where(commit_call <= nfe[:, None], commit_call, 0)
    last = drawn.reshape(len(nfe), -1, size).max(axis=2)
    last = np.maximum.accumulate(last, axis=1)  # blocks are written left to right
    calls = np.diff(last, axis=1, prepend=0)
    return int(np.sum(-(-calls // every) if every else calls > 0))
