"""Sizes that suit the machine, for the fields of the configuration that are "auto".

They change how fast a run is and how much memory it takes; its numbers change by rounding only.

On CPUs a pass takes about 1,024 tokens.  Its arrays then stay in the cores' caches, and the
allocator gives the same memory again; larger ones are fetched page by page from the system at every
pass (docs/performance.md has the times).  Accelerators are busy from some 10,000 tokens on.  There
the micro-batch is also bounded by an estimate of the memory that its gradient takes;
`python -m diffpo_jax.plan` says whether it fits.
"""

import dataclasses
from typing import Any

from diffpo_jax.config import AUTO, Config
from diffpo_jax.models import flops

_TOKENS = {"cpu": 1_024}  # of a pass on one device
_TOKENS_ELSEWHERE = 16_384
_READ_BYTES = {"cpu": 2**24}  # of the distributions that one device holds at once
_READ_BYTES_ELSEWHERE = 2**30
_LARGE_VOCABULARY = 4_096  # from here on, reading only the current block pays
_MEMORY_SHARE = 0.85  # of a device's memory; the rest is for what the estimate leaves out


def resolve(config: Config, platform: str, vocab: int, memory: float | None) -> Config:
    """The configuration with numbers (or None) in place of "auto".

    Args:
      platform: of the devices, see `chips.platform`.
      vocab: V.
      memory: bytes of a device; None if unknown.
    """
    sampler, rl, stage = config.sampler, config.rl, config.pretrain
    devices = config.mesh.batch_devices
    sequence = sampler.prompt_length + sampler.length
    tokens = _TOKENS.get(platform, _TOKENS_ELSEWHERE)
    if sampler.slots == AUTO:
        sampler = dataclasses.replace(sampler, slots=_power_of_two(tokens / sequence))
    if sampler.vocabulary_chunk == AUTO:
        rows = sampler.slots or max(1, rl.prompts * rl.group // devices)
        chunk = _chunk(sampler, rows, vocab, _READ_BYTES.get(platform, _READ_BYTES_ELSEWHERE))
        sampler = dataclasses.replace(sampler, vocabulary_chunk=chunk)
    config = dataclasses.replace(config, sampler=sampler)
    fitting = _rows_that_fit(config, vocab, memory)
    if rl.micro_batch == AUTO:
        most = min(tokens / sequence, fitting) * devices
        micro = _micro_batch(rl.prompts * rl.group, rl.group, devices, most)
        rl = dataclasses.replace(rl, micro_batch=micro)
    if stage.micro_batch == AUTO:
        most = min(tokens / sum(config.demonstration_lengths), fitting) * devices
        micro = _micro_batch(stage.batch, 1, devices, most)
        stage = dataclasses.replace(stage, micro_batch=micro)
    return dataclasses.replace(config, rl=rl, pretrain=stage)


def _power_of_two(most: float) -> int:
    """The largest power of two that is not above `most`, at least 1."""
    return 1 << max(0, int(most).bit_length() - 1)


def _chunk(sampler: Any, rows: int, vocab: int, most_bytes: int) -> int | None:
    """Positions of a row to read at once; None for the whole completion."""
    fits = max(1, most_bytes // (4 * rows * vocab))
    apart = sampler.cache != "none" or vocab >= _LARGE_VOCABULARY
    chunk = min(fits, sampler.block_length if apart else sampler.length)
    return chunk if chunk < sampler.length else None


def _micro_batch(rows: int, group: int, devices: int, most: float) -> int | None:
    """The largest size up to `most` that divides the rows and that the devices share evenly.

    Groups stay whole if they can, so that their rows share a pass.
    """
    sizes = [n for n in range(devices, rows + 1, devices) if rows % n == 0]
    if not sizes:
        return None
    small = [n for n in sizes if n <= max(most, sizes[0])]
    whole = [n for n in small if n % (group * devices) == 0]
    best = max(whole or small)
    return None if best == rows else best


def _rows_that_fit(config: Config, vocab: int, memory: float | None) -> float:
    """About as many sequences per device as a gradient has memory for; no bound if unknown."""
    if memory is None:
        return float("inf")
    model, sampler, mesh = config.model, config.sampler, config.mesh
    width, ff = model.width, model.ff
    parameters = flops.block_parameters(model) + (1 if model.tied else 2) * vocab * width
    item = 2 if model.dtype == "bfloat16" else 4
    stored = 2 if model.param_dtype == "bfloat16" else 4
    if config.lora.rank:
        resident = parameters * stored
    else:  # the gradient and what the optimiser keeps, in float32, and the reference
        averaged = config.rl.optimizer.kind == "schedule_free_adamw"
        held = 4 + (12 if averaged else 8)  # the other optimisers keep as much as AdamW, or less
        resident = parameters * (stored + held + (item if config.rl.objective.kl else 0))
    free = _MEMORY_SHARE * memory - resident / (mesh.fsdp * mesh.tensor)
    sequence = sampler.prompt_length + sampler.length
    heads = model.heads * model.head_width
    per_token = item * (8 * width + 4 * heads + 5 * ff) + 8 * model.heads * sequence
    kept = model.layers * item * width + per_token if model.remat else model.layers * per_token
    read = 12 * vocab * (sampler.vocabulary_chunk or sampler.length)
    return max(1.0, free / (sequence * kept / mesh.tensor + read))
