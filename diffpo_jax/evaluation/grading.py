"""From token ids to texts, rewards and metrics, on the host."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffpo_jax.analysis import summary
from diffpo_jax.arrays.types import Metrics, Rollout
from diffpo_jax.data import tokenizers
from diffpo_jax.distributed import hosts
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.task import (
    GIVEN_UP,
    Example,
    Layout,
    OneByOne,
    Reward,
    Task,
    check_finite,
)

_DIGITS = 4  # after the point, of numbers of tokens in samples/

METRIC = summary.METRIC


class Graded(NamedTuple):
    """Rollouts with the task's verdicts; arrays are numpy, with one entry per rollout."""

    rollout: Rollout  # on the host
    examples: list[Example]
    texts: list[str]  # whole completions: the prefill and what was written
    rewards: list[Reward]
    lay_out: Callable[[str, str], Layout] = OneByOne.lay_out  # the task's

    @property
    def total(self) -> np.ndarray:
        """The task's rewards, before the price of calls: [B] float64."""
        return np.array([r.total for r in self.rewards], np.float64)

    @property
    def correct(self) -> np.ndarray:
        """Whether each rollout is correct: [B] bool."""
        return np.array([r.correct for r in self.rewards], bool)


class Problems(NamedTuple):
    """The examples of a split, with the task that grades them and the tokenizer."""

    task: Task
    tokenizer: Any
    examples: Sequence[Example]

    def grade(self, rollout: Rollout, index: np.ndarray) -> Graded:
        """Grades rollouts on the host; `index` [B] is the example of each."""
        examples = [self.examples[i] for i in index.tolist()]
        check_probabilities(rollout, examples)
        return grade(rollout, examples, self.task, self.tokenizer)

    def difficulty(self, index: np.ndarray) -> np.ndarray:
        """The task's difficulty of each example."""
        return np.array([self.task.difficulty(self.examples[i]) for i in index.tolist()])


def grade(rollout: Rollout, examples: Sequence[Example], task: Task, tokenizer: Any) -> Graded:
    """Decodes and grades every row; several processes share the grading.

    Args:
      rollout: arrays on the host.
      examples: the example of each row.

    Raises:
      UserError: a reward is no finite number, or a function of the user's fails.
    """
    decode = tokenizers.decode if task.reads_special_tokens else tokenizers.decode_answer
    written = [decode(tokenizer, row) for row in rollout.tokens.tolist()]
    texts = [example.prefill + text for example, text in zip(examples, written)]
    pairs = list(zip(examples, texts, strict=True))

    def rewards(part: list[tuple[Example, str]]) -> list[list[Any]]:
        examples, texts = [example for example, _ in part], [text for _, text in part]
        return [list(reward) for reward in task.rewards(examples, texts)]

    shared = hosts.spread(pairs, rewards)  # as plain lists, which can travel between hosts
    found = [Reward(*r) for r in shared]
    check_finite(found, examples, task.name)
    return Graded(rollout, list(examples), texts, found, task.lay_out)


def check_probabilities(rollout: Rollout, examples: Sequence[Example]) -> None:
    """Raises `UserError` if the network gave NaN in place of probabilities; names the first row.

    A completion of such a network looks like any other: the sampler takes the largest value, and
    among NaNs that is the first token.
    """
    broken = np.isnan(rollout.logprob).any(axis=1) | np.isnan(rollout.gamma)
    if broken.any():
        raise UserError(
            f"the model gives NaN in place of probabilities for {examples[int(broken.argmax())].id}"
            f" and {int(broken.sum()) - 1} more of {broken.size} completions: its parameters or "
            "activations are not finite."
        )


def scores(graded: Graded, task: Task) -> dict[str, float]:
    """The task's scores of a whole set; sums what each process gave up in its share."""
    result = task.scores(graded.examples, graded.texts)
    if GIVEN_UP in result:
        result[GIVEN_UP] = sum(hosts.gather(result[GIVEN_UP]))
    return result


def metrics_of(graded: Graded) -> Metrics:
    """Reward parts, accuracy, parse failures, calls and entropy of a batch, as (sum, count)."""
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
    first = graded.rewards[0]
    for name in first.parts:
        metrics[f"reward/{name}"] = (sum(r.parts[name] for r in graded.rewards), rows)
    for name in first.metrics.keys() - first.parts.keys():
        metrics[METRIC + name] = (sum(r.metrics[name] for r in graded.rewards), rows)
    return metrics


def means_of_metrics(graded: Graded) -> dict[str, float]:
    """The means of the metrics of the user's over a set, as "metric/NAME"."""
    rewards = graded.rewards
    return {
        METRIC + name: float(np.mean([reward.metrics[name] for reward in rewards]))
        for name in rewards[0].metrics
    }


def percentiles(graded: Graded, dial: str = "gamma") -> dict[str, float]:
    """Percentiles of calls and of γ (nats), or of another dial, over a batch."""
    nfe, dials = np.asarray(graded.rollout.nfe), np.asarray(graded.rollout.gamma)
    values = {f"nfe/p{q}": float(np.percentile(nfe, q)) for q in (10, 50, 90)}
    return values | {f"{dial}/p{q}": float(np.percentile(dials, q)) for q in (5, 50, 95)}


def sample_rows(graded: Graded, advantage: np.ndarray | None, most: int) -> list[dict[str, Any]]:
    """The first `most` rollouts as rows for samples/: prompt, completion, verdict, calls."""
    rows, rollout = [], graded.rollout
    for i in range(min(most, len(graded.texts))):
        example, reward = graded.examples[i], graded.rewards[i]
        row = {
            "id": example.id,
            "prompt": example.prompt,
            "completion": graded.texts[i],
            "meta": dict(example.meta),  # what grading the completion again needs
            "correct": reward.correct,
            "parsed": reward.parsed,
            "reward": reward.total,
            "parts": dict(reward.parts),
            **({"metrics": dict(reward.metrics)} if reward.metrics else {}),
            "nfe": int(rollout.nfe[i]),
            "gamma": float(rollout.gamma[i]),
            "forced": bool(rollout.forced[i]),
            "commit_call": np.asarray(rollout.commit_call[i]).tolist(),
            "probability": np.exp(rollout.logprob[i]).round(_DIGITS).tolist(),
            "entropy": np.asarray(rollout.entropy[i]).round(_DIGITS).tolist(),
            "layout": graded.lay_out(example.prompt, graded.texts[i])._asdict(),
        }
        if advantage is not None:
            row["advantage"] = float(advantage[i])
        rows.append(row)
    return rows
