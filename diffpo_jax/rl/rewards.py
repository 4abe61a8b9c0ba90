"""Rewards of a step -> advantages.  Host side, numpy, float64."""

import numpy as np


def speed_reward(task_reward: np.ndarray, nfe: np.ndarray, length: int, weight: float, form: str):
    """The reward with its price of calls (METHOD 6).

    multiplicative: r (1 − λ NFE/L), stable; additive: r − λ NFE/L, where groups in which nothing
    is solved push only towards speed.  A reward below 0, which d1's for GSM8K can be, earned
    nothing that calls could be paid from: multiplied, it would be the better the slower it came.

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
    # All-equal groups contribute nothing: rounding of the mean must not become a signal.
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
    """Accuracy and speed normalised apart, each by "batch_std", then added (LightningRL's idea).

    Speed is r (1 − NFE/L): nothing is gained by failing fast.  Normalised together, the larger
    spread of the task's reward would drown the speed's wherever groups are mixed.

    Args:
      weight: λ, of the speed's part.
    """
    speed = np.maximum(task_reward, 0.0) * (1 - nfe / length)
    return advantages(task_reward, group, "batch_std") + np.float32(weight) * advantages(
        speed, group, "batch_std"
    )


def equal_groups(rewards: np.ndarray, group: int) -> np.ndarray:
    """Which groups have all rewards equal: [B / G] bool."""
    grouped = np.asarray(rewards).reshape(-1, group)
    return np.all(grouped == grouped[:, :1], axis=1)
