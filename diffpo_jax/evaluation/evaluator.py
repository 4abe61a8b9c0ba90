"""Evaluation on held-out prompts: points of accuracy against denoiser calls."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffpo_jax.analysis import bootstrap
from diffpo_jax.arrays import microbatch, rng
from diffpo_jax.arrays.types import Params, Prompts, Rollout
from diffpo_jax.config import DIALS, EvaluationConfig, SamplerConfig
from diffpo_jax.data import prompts as data
from diffpo_jax.data import tokenizers
from diffpo_jax.diffusion import sampler as sampler_lib
from diffpo_jax.distributed import sharding
from diffpo_jax.evaluation import grading
from diffpo_jax.models.policy import Policy
from diffpo_jax.tasks.task import Example, Task

Run = Callable[[Params, float, Sequence[Example]], grading.Graded]


class Evaluator(NamedTuple):
    """Functions (params, dial, examples) -> graded completions.

    The `config.evaluation.samples` completions of a prompt follow each other.
    """

    fixed: Run  # the dial is the commit rule's, such as γ or a price
    median: Run  # the dial is a factor on the head's median γ


def make_evaluator(
    policy: Policy,
    sampler: SamplerConfig,
    config: EvaluationConfig,
    task: Task,
    tokenizer: Any,
    mesh: Mesh,
    seed: int,
    slots: int | None,
) -> Evaluator:
    """Builds the two programs of an evaluation; each is compiled once for all dials."""
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    settings = sampler_lib.make_settings(
        sampler,
        config.temperature,
        tokenizers.end_ids(tokenizer),
        rows_per_prompt=microbatch.rows_together(config.samples, [config.batch], devices),
    )

    def make(threshold: str) -> Run:
        program = jax.jit(
            sampler_lib.make_generate(
                policy, settings, threshold=threshold, slots=slots, mesh=mesh
            ),
            out_shardings=sharding.batch_sharding(mesh),
        )

        def run(params: Params, dial: float, examples: Sequence[Example]) -> grading.Graded:
            parts, kept = [], []
            rows = [e for e in examples for _ in range(config.samples)]
            for batch in data.batches_in_order(
                rows,
                tokenizer,
                prompt_length=sampler.prompt_length,
                length=sampler.length,
                batch=config.batch,
            ):
                prompts = sharding.place_batch(Prompts(batch.tokens, batch.mask), mesh)
                # A key belongs to its row, so that completions do not depend on the batching.
                keys = rng.row_keys(rng.key_for(seed, "evaluate"), jnp.asarray(batch.index))
                out = sharding.to_host(program(params, prompts, jnp.float32(dial), keys))
                real = batch.index >= 0
                parts.append(jax.tree.map(lambda x, real=real: x[real], out))
                kept.extend(batch.index[real].tolist())
            whole: Rollout = jax.tree.map(lambda *x: np.concatenate(x), *parts)
            examples = [rows[i] for i in kept]
            grading.check_probabilities(whole, examples)
            return grading.grade(whole, examples, task, tokenizer)

        return run

    return Evaluator(make("price" if sampler.rule == "state" else "fixed"), make("median"))


def choose(examples: Sequence[Example], config: EvaluationConfig) -> Sequence[Example]:
    """The examples of a final evaluation.

    Subset "d1" is the one that d1's repository (eval/) draws, by numpy's legacy generator with seed
    42, without replacement: 256 of its 500 Sudokus, and all of Countdown's 256 in another order.
    """
    count = min(config.examples or len(examples), len(examples))
    if config.subset == "first":
        return examples[:count]
    drawn = np.random.RandomState(42).choice(len(examples), count, replace=False)
    return [examples[i] for i in drawn.tolist()]


def point(
    graded: grading.Graded, rule: str, dial: float | None = None, samples: int = 1
) -> dict[str, float]:
    """One point of a frontier: the rule's dial, accuracy, calls, pass@k of several samples, and the
    means of the metrics of the user's.

    Tokens that were filled in after the end of a text do not count as tokens.

    Args:
      dial: None for the median over the prompts.
      samples: completions of each prompt.
    """
    rollout, correct = graded.rollout, graded.correct
    by_prompt = bootstrap.pass_at_k(correct.reshape(-1, samples).tolist())
    nfe = np.asarray(rollout.nfe, np.float64)
    return {
        DIALS[rule]: float(np.median(rollout.gamma)) if dial is None else dial,
        "accuracy": float(correct.mean()),
        "nfe": float(nfe.mean()),
        "tokens_per_call": float(np.sum(rollout.sampled) / nfe.sum()),
        "forced": float(np.mean(rollout.forced)),
        **{f"pass@{k}": value for k, value in by_prompt.items()},
        **grading.means_of_metrics(graded),
    }


def outcomes(graded: grading.Graded, samples: int) -> bootstrap.Outcomes:
    """Accuracy and calls prompt by prompt, the means of `samples` completions of each."""
    arrays = graded.correct, np.asarray(graded.rollout.nfe)
    texts = [example.prompt for example in graded.examples[::samples]]
    _, prompt = np.unique(texts, return_inverse=True)
    return bootstrap.Outcomes(*(x.reshape(-1, samples).mean(axis=1) for x in arrays), prompt)
