"""Rewards with their prices, and advantages.  Runs on the host, in numpy and float64."""

import numpy as np

from diffpo_jax.config import RLConfig, SpeedConfig


def priced_rewards(
    task_reward: np.ndarray,
    nfe: np.ndarray,
    divergence: np.ndarray | None,
    length: int,
    config: RLConfig,
    price: np.ndarray | None = None,
) -> np.ndarray:
    """Rewards minus the price of calls and, with the KL in the reward, minus β times the KL.

    Args:
      price: [B], λ of each rollout, subtracted in the additive form; None for `config.speed`.
      task_reward: [B].
      nfe: [B], denoiser calls of each sequence.
      divergence: [B], estimated KL of each sequence to the reference; None for no such price.
      length: L.
    """
    weight, form = config.speed.weight, config.speed.form
    if price is not None:
        weight, form = price, "additive"
    rewards = speed_reward(task_reward, nfe, length, weight, form)
    if divergence is None:
        return rewards
    return rewards - config.objective.kl * np.asarray(divergence, np.float64)


def speed_reward(
    task_reward: np.ndarray, nfe: np.ndarray, length: int, weight: float | np.ndarray, form: str
) -> np.ndarray:
    """The reward minus its price of calls (docs/method.md, section 6).

    multiplicative: r (1 − λ NFE/L), the stable form; additive: r − λ NFE/L, with which groups that
    solve nothing push towards speed alone.  A reward below 0, which d1's for GSM8K can be, pays no
    multiplicative price: multiplied, it would be the better the slower the rollout was.

    Args:
      task_reward: [B].
      nfe: [B], denoiser calls of each sequence.
      length: L.
      weight: λ; 0 trains for accuracy alone.
    """
    price = weight * nfe / length
    if form == "multiplicative":
        price = price * np.maximum(task_reward, 0.0)
    return task_reward - price


def draw_prices(config: SpeedConfig, prompts: int, seed: int, number: int) -> np.ndarray:
    """λ of each prompt of a step: [prompts] float32.

    A share of `config.free`, spread over the step so that devices have as many, is 0; the others
    lie evenly on the log scale of `config.prices`.  The same on every host, and for a step that is
    taken again.
    """
    low, high = np.log(config.prices)
    generator = np.random.default_rng((seed, number, 1))
    prices = np.exp(generator.uniform(low, high, prompts)).astype(np.float32)
    free = np.floor(np.arange(prompts + 1) * config.free + 1e-9)  # before each prompt
    return np.where(np.diff(free) > 0, np.float32(0), prices)


def left_out(
    tokens: np.ndarray,
    forced: np.ndarray,
    task_reward: np.ndarray,
    speed: np.ndarray,
    ends: tuple[int, ...],
    config: RLConfig,
) -> np.ndarray:
    """Which rollouts are to teach nothing, by `drop_*` and `least_spread`: [B] bool.

    Args:
      tokens: [B L].
      forced: [B] bool, whether the cap on calls cut the rollout short.
      task_reward: [B], without any price.
      speed: [B], tokens per call.
      ends: ids of the end-of-text tokens.
    """
    objective, result = config.objective, np.zeros(forced.shape, bool)
    if objective.drop_forced:
        result |= forced
    if objective.drop_unended:
        result |= ~np.isin(tokens, ends).any(axis=1)
    if objective.drop_unsolved:
        none = np.all(task_reward.reshape(-1, config.group) <= 0, axis=1)
        result |= np.repeat(none, config.group)
    spread = np.ptp(speed.reshape(-1, config.group), axis=1)
    return result | np.repeat(spread < objective.least_spread, config.group)


def raised(correct: np.ndarray, left_out: np.ndarray, config: RLConfig) -> np.ndarray | None:
    """Which rollouts' likelihood is raised: [B] bool; None if `right_likelihood` is 0.

    Args:
      correct: [B] bool, the task's verdicts; not the reward, which a partly right or a slow answer
        changes.
      left_out: [B] bool.
    """
    return correct & ~left_out if config.objective.right_likelihood else None


def rollout_advantages(
    rewards: np.ndarray,
    task_reward: np.ndarray,
    nfe: np.ndarray,
    speed: np.ndarray,
    left_out: np.ndarray,
    length: int,
    config: RLConfig,
) -> np.ndarray:
    """The advantages of a step's rollouts by `config.objective.advantage`: [B] float32.

    Args:
      rewards: [B], with their prices.
      task_reward: [B], without.
      nfe: [B], denoiser calls of each sequence.
      speed: [B], tokens per call.
      left_out: [B] bool; these get advantage 0 but count in the statistics of their group.
      length: L.
    """
    kind, group = config.objective.advantage, config.group
    if kind == "decoupled":
        advantage = decoupled(task_reward, nfe, length, config.speed.weight, group)
    elif kind == "decoupled_group":
        advantage = decoupled_by_group(task_reward, speed, left_out, config.speed.weight, group)
    else:
        advantage = advantages(rewards, group, kind)
    return np.where(left_out, np.float32(0), advantage)


def advantages(rewards: np.ndarray, group: int, kind: str) -> np.ndarray:
    """Advantages against the mean of each group of rollouts of one prompt.

    Args:
      rewards: [B], groups are consecutive.
      group: G, divides B.
      kind: "mean" subtracts the group's mean; "group_std" also divides by the group's standard
        deviation, "batch_std" by that of all centred rewards of the batch; "leave_one_out"
        subtracts the mean of the group's others, which is the mean form times G / (G - 1).

    Returns:
      [B] float32; exactly 0 throughout a group whose rewards are all equal.
    """
    grouped = np.asarray(rewards, np.float64).reshape(-1, group)
    centred = grouped - grouped.mean(axis=1, keepdims=True)
    # Groups of equal rewards contribute nothing: rounding of the mean must not become a signal.
    centred[equal_groups(rewards, group)] = 0.0
    if kind == "group_std":
        centred /= np.maximum(centred.std(axis=1, keepdims=True), 1e-6)
    elif kind == "batch_std":
        centred /= max(np.sqrt(np.mean(centred**2)), 1e-6)
    elif kind == "leave_one_out":
        centred *= group / (group - 1)
    elif kind != "mean":
        raise ValueError(f"unknown kind of advantage: {kind!r}")
    return centred.reshape(-1).astype(np.float32)


def decoupled(
    task_reward: np.ndarray, nfe: np.ndarray, length: int, weight: float, group: int
) -> np.ndarray:
    """Accuracy and speed, each normalised by "batch_std", then added.

    The speed term is r (1 − NFE/L), so that nothing is gained by failing fast.  If
    their sum were normalised, the larger spread of the task's reward would hide the speed term in
    every mixed group.

    Args:
      weight: λ, of the speed term.
    """
    speed = np.maximum(task_reward, 0.0) * (1 - nfe / length)
    return advantages(task_reward, group, "batch_std") + np.float32(weight) * advantages(
        speed, group, "batch_std"
    )


def decoupled_by_group(
    task_reward: np.ndarray,
    speed: np.ndarray,
    left_out: np.ndarray,
    weight: float,
    group: int,
) -> np.ndarray:
    """Accuracy and tokens per call, each normalised by "group_std", added and scaled (LightningRL).

    As its released code has it: whether a rollout is right does not enter its speed term, so that
    wrong rollouts are taught to be fast as well.  The sum is scaled to a mean square of 1 over the
    rollouts of the batch that teach something.

    Args:
      task_reward: [B], without any price.
      speed: [B], tokens per call.
      left_out: [B] bool, rollouts that do not count in the scale.
      weight: λ, of the speed term; LightningRL has 1.
    """
    total = advantages(task_reward, group, "group_std") + np.float32(weight) * advantages(
        speed, group, "group_std"
    )
    kept = total[~left_out]
    scale = np.sqrt(np.mean(kept**2)) if kept.size else 1.0
    return total / np.float32(max(scale, 1e-6))


def equal_groups(rewards: np.ndarray, group: int) -> np.ndarray:
    """Which groups have all rewards equal: [B / G] bool."""
    grouped = np.asarray(rewards).reshape(-1, group)
    return np.all(grouped == grouped[:, :1], axis=1)
