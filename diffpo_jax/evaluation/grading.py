"""The host boundary of a step: token ids -> texts -> rewards, and what is logged of them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from diffpo_jax.arrays.types import Metrics, Rollout
from diffpo_jax.data import tokenizers
from diffpo_jax.distributed import hosts
from diffpo_jax.tasks.task import GIVEN_UP, Example, Reward, Task


class Graded(NamedTuple):
    """Rollouts with the task's verdicts; arrays are numpy, one entry a rollout."""

    rollout: Rollout  # on the host
    examples: list[Example]
    texts: list[str]  # whole completions: what was given of them and what was written
    rewards: list[Reward]

    @property
    def total(self) -> np.ndarray:
        """The task's rewards, before the price of calls: [B] float64."""
        return np.array([r.total for r in self.rewards], np.float64)

    @property
    def correct(self) -> np.ndarray:
        """[B] bool."""
        return np.array([r.correct for r in self.rewards], bool)


def grade(rollout: Rollout, examples: Sequence[Example], task: Task, tokenizer: Any) -> Graded:
    """Decodes and grades every row; several processes share the grading.

    Args:
      rollout: arrays on the host.
      examples: the example of each row.
    """
    written = [tokenizers.decode_answer(tokenizer, row) for row in rollout.tokens.tolist()]
    texts = [example.prefill + text for example, text in zip(examples, written)]
    pairs = list(zip(examples, texts, strict=True))
    # As plain lists, which can travel between hosts.
    found = hosts.spread(pairs, lambda part: [list(r) for r in task.rewards(*_columns(part))])
    return Graded(rollout, list(examples), texts, [Reward(*r) for r in found])


def _columns(pairs: Sequence[tuple[Example, str]]) -> tuple[list[Example], list[str]]:
    return [example for example, _ in pairs], [text for _, text in pairs]


def scores(graded: Graded, task: Task) -> dict[str, float]:
    """The task's scores of a whole set; what each process counts of its share is summed."""
    found = task.scores(graded.examples, graded.texts)
    if GIVEN_UP in found:
        found[GIVEN_UP] = sum(hosts.gather(found[GIVEN_UP]))
    return found


def metrics_of(graded: Graded) -> Metrics:
    """Reward parts, accuracy, parse failures, calls and γ of a batch, as (sum, count)."""
    rows, sampled = len(graded.rewards), np.asarray(graded.rollout.sampled)
    nfe = np.asarray(graded.rollout.nfe)
    entropy = np.asarray(graded.rollout.entropy)
    metrics = {
        "accuracy": (float(graded.correct.sum()), rows),
        "parse_failures": (float(sum(not r.parsed for r in graded.rewards)), rows),
        "task_reward": (float(graded.total.sum()), rows),
        "nfe": (float(nfe.sum()), rows),
        "tokens_per_call": (float(sampled.sum()), float(nfe.sum())),
        "completion_length": (float(sampled.sum()), rows),
        "entropy": (float(entropy[sampled].sum()), float(sampled.sum())),
        "forced": (float(np.sum(graded.rollout.forced)), rows),
    }
    for name in graded.rewards[0].parts:
        metrics[f"reward/{name}"] = (sum(r.parts[name] for r in graded.rewards), rows)
    return metrics


def percentiles(graded: Graded) -> dict[str, float]:
    """Percentiles of calls and of γ (nats) over a batch."""
    nfe, gamma = np.asarray(graded.rollout.nfe), np.asarray(graded.rollout.gamma)
    values = {f"nfe/p{q}": float(np.percentile(nfe, q)) for q in (10, 50, 90)}
    return values | {f"gamma/p{q}": float(np.percentile(gamma, q)) for q in (5, 50, 95)}


def sample_rows(graded: Graded, advantage: np.ndarray | None, most: int) -> list[dict[str, Any]]:
    """The first rollouts as rows for samples/: what was asked, written and earned."""
    rows = []
    for i in range(min(most, len(graded.texts))):
        example, reward = graded.examples[i], graded.rewards[i]
        row = {
            "id": example.id,
            "prompt": example.prompt,
            "completion": graded.texts[i],
            "meta": dict(example.meta),  # with this, the completion can be graded again
            "correct": reward.correct,
            "parsed": reward.parsed,
            "reward": reward.total,
            "parts": dict(reward.parts),
            "nfe": int(graded.rollout.nfe[i]),
            "gamma": float(graded.rollout.gamma[i]),
            "commit_call": np.asarray(graded.rollout.commit_call[i]).tolist(),
        }
        if advantage is not None:
            row["advantage"] = float(advantage[i])
        rows.append(row)
    return rows
