"""Answers test prompts with a run in JAX and with its export in PyTorch, and compares them.

    python benchmarks/exported.py --workdir=runs/sudoku --exported=DIR [--dials=0.1,1,3.2]

Needs torch. For each dial it counts the prompts whose tokens, calls and calls of every token are
equal, and prints the accuracy and the time of both.  A dial is the rule's number (gamma, calls, a
probability, a price); without --dials it is the model's own, learned or fixed.
"""

import argparse
import pathlib
import sys
import time
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))


class Point(NamedTuple):
    """One dial, on `prompts` prompts."""

    dial: float | None
    prompts: int
    equal_tokens: int
    equal_calls: int
    equal_commit_calls: int
    accuracy: tuple[float, float]  # of JAX and of PyTorch, as in what follows
    calls: tuple[float, float]
    seconds: tuple[float, float]  # with the compilation, in JAX


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, help="of the run")
    parser.add_argument("--exported", required=True, help="directory that `export` wrote")
    parser.add_argument("--examples", type=int, default=200, metavar="N", help="test prompts")
    parser.add_argument("--dials", default="", help="numbers for the rule, with commas")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of PyTorch")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> list[Point]:
    given = arguments(argv)
    import torch

    torch.set_num_threads(given.threads or torch.get_num_threads())
    dials = [float(word) for word in given.dials.split(",") if word] or [None]
    run = Run(given.workdir, given.examples)
    export = Export(given.exported, run.tokens, run.mask)
    print(f"{len(run.examples)} test prompts of {run.task.name}; JAX / PyTorch")
    print("dial      tokens  calls   calls of tokens  accuracy         calls        seconds")
    points = [compare(run, export, dial) for dial in dials]
    for p in points:
        name = "own" if p.dial is None else f"{p.dial:g}"
        equal = f"{p.equal_tokens:<8}{p.equal_calls:<8}{p.equal_commit_calls:<17}"
        accuracy = f"{p.accuracy[0]:.1%} / {p.accuracy[1]:.1%}"
        calls = f"{p.calls[0]:.2f} / {p.calls[1]:.2f}"
        print(f"{name:<10}{equal}{accuracy:<17}{calls:<13}{p.seconds[0]:.1f} / {p.seconds[1]:.1f}")
    return points


def compare(run: "Run", export: "Export", dial: float | None) -> Point:
    """Both on the same prompts at one dial."""
    import numpy as np

    began = time.perf_counter()
    ours = run.answer(dial)
    middle = time.perf_counter()
    tokens, calls, commit_call = export.answer(dial)
    seconds = (middle - began, time.perf_counter() - middle)
    theirs = ours._replace(tokens=tokens)
    return Point(
        dial=dial,
        prompts=len(tokens),
        equal_tokens=int((ours.tokens == tokens).all(1).sum()),
        equal_calls=int((ours.nfe == calls).sum()),
        equal_commit_calls=int((ours.commit_call == commit_call).all(1).sum()),
        accuracy=(run.accuracy(ours), run.accuracy(theirs)),
        calls=(float(np.mean(ours.nfe)), float(np.mean(calls))),
        seconds=seconds,
    )


class Run:
    """A run's trained model, its sampler and its test prompts, in JAX."""

    def __init__(self, path: str, count: int):
        import jax
        import jax.numpy as jnp

        from diffpo_jax.arrays import rng
        from diffpo_jax.arrays.types import Prompts
        from diffpo_jax.data import prompts, tokenizers
        from diffpo_jax.diffusion import sampler
        from diffpo_jax.distributed import mesh as mesh_lib
        from diffpo_jax.evaluation import evaluator, threshold_choice
        from diffpo_jax.run import base_model, setup
        from diffpo_jax.workdir import layout

        workdir = layout.Workdir(pathlib.Path(path))
        config = layout.read_config(workdir)
        mesh = mesh_lib.make_mesh(config.mesh)
        self.task = setup.make_task(config, workdir)
        self.tokenizer = tokenizers.make_tokenizer(config.tokenizer)
        config = setup.with_sizes(config, self.tokenizer, mesh)
        self.examples = evaluator.choose(self.task.examples("test"), config.evaluation)[:count]
        policy = setup.make_policy(config, self.tokenizer, mesh)
        params = base_model.restore(path, "trained", policy, mesh)
        rows = prompts.encode_examples(
            list(self.examples),
            self.tokenizer,
            indices=range(len(self.examples)),
            prompt_length=config.sampler.prompt_length,
            length=config.sampler.length,
        )
        self.tokens, self.mask = rows.tokens, rows.mask
        ends, temperature = tokenizers.end_ids(self.tokenizer), config.evaluation.temperature
        settings = sampler.make_settings(config.decoder, temperature, ends)
        keys = rng.row_keys(rng.key_for(config.seed, "evaluate"), jnp.arange(len(rows.tokens)))
        batch = Prompts(jnp.asarray(rows.tokens), jnp.asarray(rows.mask))

        def answer(dial: float | None) -> Any:
            kind, number = threshold_choice.threshold_in_use(config, dial=dial)
            program = jax.jit(sampler.make_generate(policy, settings, threshold=kind))
            return jax.device_get(program(params, batch, jnp.float32(number), keys))

        self.answer = answer

    def accuracy(self, rollout: Any) -> float:
        from diffpo_jax.evaluation import grading

        graded = grading.grade(rollout, list(self.examples), self.task, self.tokenizer)
        return float(graded.correct.mean())


class Export:
    """The same model and sampler in PyTorch, by transformers."""

    def __init__(self, directory: str, tokens: Any, mask: Any):
        import json

        import numpy as np
        import torch
        import transformers

        sampler = json.loads((pathlib.Path(directory) / "sampler.json").read_text("utf-8"))
        self._number = "price" if sampler["rule"] == "state" else "gamma"
        self._code = {"custom_generate": directory, "trust_remote_code": True}
        self._model = transformers.AutoModel.from_pretrained(directory, trust_remote_code=True)
        self._rows = [torch.from_numpy(np.array(x)).long() for x in (tokens, mask)]

    def answer(self, dial: float | None) -> tuple[Any, Any, Any]:
        """Tokens, calls, and the call that wrote each token."""
        ids, mask = self._rows
        number = {} if dial is None else {self._number: dial}
        out = self._model.generate(ids, attention_mask=mask, **number, **self._code)
        return out.sequences[:, ids.shape[1] :].numpy(), out.calls.numpy(), out.commit_call.numpy()


if __name__ == "__main__":
    main()
