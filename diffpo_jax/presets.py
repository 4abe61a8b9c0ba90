"""Algorithms by name, as changes of a configuration: --config=configs/sudoku.py:d1 .

An algorithm decides how rollouts are made and what is learned from them; model, task and sizes
stay the configuration's.  What the publications leave open, and learning rates (theirs are for
adapters of models of 8 billion parameters), stays the configuration's as well.
"""

from collections.abc import Callable

import ml_collections

from diffpo_jax.errors import UserError


def d1(config: ml_collections.ConfigDict) -> None:
    """diffu-GRPO as d1's code computes it (arXiv 2504.12216, repository dllm-reasoning/d1).

    Two tokens a call by confidence; one anchor with prompt masking; scores at temperature 1 and
    with the mask token left in, whatever the rollouts' temperature; tokens after the first end
    of text do not count; the mean is over tokens, not sequences.  Its accidents are left out:
    padding that is attended to, dropout in rollouts, prompt masks that repeat.
    """
    config.method, config.mode = "d1", "model"
    config.sampler.rule, config.sampler.steps = "top_k", config.sampler.length // 2
    config.sampler.temperature = 0.9
    config.rl.likelihood.temperature, config.rl.likelihood.keep_mask = 1.0, True
    objective = config.rl.objective
    objective.count, objective.aggregation, objective.advantage = "to_end", "token", "mean"
    objective.clip_low = objective.clip_high = 0.5
    objective.kl, objective.kl_estimator = 0.04, "k3"
    config.rl.speed.weight = 0.0
    config.rl.prompts, config.rl.group, config.rl.inner_updates = 16, 6, 8
    config.rl.micro_batch = 48
    optimizer = config.rl.optimizer
    optimizer.beta2, optimizer.weight_decay, optimizer.max_grad_norm = 0.99, 0.1, 0.2


def d2(config: ml_collections.ConfigDict) -> None:
    """Sixteen segments without weights, in the manner of d2-StepMerge (arXiv 2509.21474).

    Segments are even in tokens committed; d2's are even in steps, which a sampler without a
    fixed number of steps does not know in advance.
    """
    config.method = "diffpo_no_is"
    config.rl.likelihood.anchors, config.rl.likelihood.schedule = 16, "even"


def gspo(config: ml_collections.ConfigDict) -> None:
    """One ratio a sequence, the geometric mean of its tokens' (GSPO, arXiv 2507.18071)."""
    config.method = "diffpo_no_is"
    objective = config.rl.objective
    objective.ratio, objective.advantage = "sequence", "group_std"
    objective.clip_low, objective.clip_high = 3e-4, 4e-4
    config.rl.inner_updates = 4


def justgrpo(config: ml_collections.ConfigDict) -> None:
    """Rollouts from left to right, a token a call, and their exact likelihood (JustGRPO).

    The order is given up in training alone; evaluations decode in parallel.
    """
    config.method, config.mode = "diffpo_no_is", "model"
    config.evaluation.block_length = config.sampler.block_length
    config.sampler.block_length, config.sampler.temperature = 1, 1.0
    config.rl.likelihood.anchors = 0
    config.rl.objective.advantage = "group_std"
    config.rl.speed.weight = 0.0


def paper(config: ml_collections.ConfigDict) -> None:
    """The anchor where the paper's wording puts it, at a fraction of each rollout's own calls.

    That number is known only at the end, so the surrogate does not sum to one; see
    `diffusion.anchors`.  Everything else is DiFFPO as by default.
    """
    config.rl.likelihood.schedule = "calls"


ALGORITHMS: dict[str, Callable[[ml_collections.ConfigDict], None]] = {
    "d1": d1,
    "d2": d2,
    "gspo": gspo,
    "justgrpo": justgrpo,
    "paper": paper,
}


def apply(
    config: ml_collections.ConfigDict,
    preset: str,
    sizes: dict[str, Callable[[ml_collections.ConfigDict], None]],
    file: str,
) -> ml_collections.ConfigDict:
    """Applies presets, separated by commas, from left to right; "default" changes nothing.

    Args:
      sizes: the config file's own presets.
      file: its name, for the message.

    Raises:
      UserError: a name that is neither of the file nor an algorithm.
    """
    known = sizes | ALGORITHMS
    for name in preset.split(","):
        if name == "default":
            continue
        if name not in known:
            names = ", ".join(["default", *known])
            raise UserError(f"{file} has no preset {name!r}; there are: {names}.")
        known[name](config)
    return config
