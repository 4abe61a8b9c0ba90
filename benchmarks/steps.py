"""Times the parts of one RL step at the shapes of configs/sudoku.py:prompt, on this machine.

    python benchmarks/steps.py [--json FILE]

  rollout   512 random prompts with thresholds drawn from the head, as in training, with a static
            batch (slots=0) and with continuous batches of several sizes.
  forward   log-probabilities of the rollouts' tokens: K denoiser passes (K=1 d1, K=2 DiFFPO), in
            micro-batches of several sizes (0: all rows at once).
  update    the whole optimiser update: likelihoods, objective, gradients, Adam.
  GEMM      the product [rows * S, width] x [width, ff], whose speed the others are compared with.

The programs are those that training runs.  The model is untrained; --sharpen multiplies its output
weights, which lowers the entropies so that, at --gamma, rows need different numbers of calls.  The
numbers of calls are printed, because a rollout's time means nothing without them.  Grading on the
host, checkpoints and logging are left out.
"""

import argparse
import dataclasses
import heapq
import math
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import timing

GEMMS = 10  # products per timing
METHODS = {1: "d1", 2: "diffpo"}  # by K


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = {"type": _numbers, "metavar": "N,N,..."}
    parser.add_argument("--rows", type=int, metavar="N", help="rollouts (default: the config's)")
    for name in ("width", "layers", "heads", "ff"):
        text = f"model.{name} (default: the config's)"
        parser.add_argument(f"--{name}", type=int, metavar="N", help=text)
    for name, default, text in (
        ("--slots", [0, 32, 64, 128], "rows in flight of each rollout; 0 means a static batch"),
        (
            "--micro",
            [0, 32, 64, 128],
            "rows of a micro-batch, which must divide the rows; 0 means all",
        ),
        ("--anchors", [1, 2], "K of each update: 1, 2 or both"),
    ):
        shown = f"{text} (default {','.join(map(str, default))})"
        parser.add_argument(name, default=default, help=shown, **numbers)
    parser.add_argument(
        "--gamma", type=float, default=0.5, help="median of gamma in nats (default 0.5)"
    )
    parser.add_argument(
        "--sharpen", type=float, default=5.0, help="factor of the output weights (default 5)"
    )
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="(default 5)")
    parser.add_argument("--json", metavar="FILE", help="also write everything to FILE as JSON")
    args = parser.parse_args(argv)
    if args.repeats < 1 or (args.rows is not None and args.rows < 1):
        parser.error("--repeats and --rows must be 1 or more.")
    if unknown := set(args.anchors) - set(METHODS):
        parser.error(f"--anchors: {sorted(unknown)} cannot be measured; use 1 and 2.")
    return args


def main(argv: list[str] | None = None) -> None:
    timing.run(arguments(argv), measure, report)


def measure(args: argparse.Namespace, machine: dict[str, Any]) -> dict[str, Any]:
    """Returns all results, as in the JSON file.  Raises `UserError` for impossible sizes."""
    import jax
    import numpy as np

    jax.config.update("jax_enable_compilation_cache", False)  # so that compile times are real
    config = make_config(args, METHODS[2])
    step = _Step(args, config)
    timing.interleave(step.calls, 1)
    times = timing.interleave(step.calls, args.repeats)
    calls = {name: int(np.sum(nfe)) for name, nfe in step.nfe.items()}
    results = {name: timing.summary(one, _flops(name, step, calls)) for name, one in times.items()}
    for name, nfe in step.nfe.items():
        slots = int(name.split("=")[1])
        made = passes(nfe, slots) * (min(slots, len(nfe)) or len(nfe))
        results[name] |= {"passes": passes(nfe, slots), "occupied": calls[name] / made}
    for name in results:
        if name.startswith("update"):
            both = times[name], times[name.replace("update", "forward")]
            results[name]["to_forward"] = timing.ratio(*both)
    row_calls = next(iter(step.nfe.values()))
    percentiles = {f"p{q}": float(np.percentile(row_calls, q)) for q in (10, 50, 90, 100)}
    return {
        "settings": vars(args) | {"rows": step.rows, "model": dataclasses.asdict(config.model)},
        "device": f"{jax.devices()[0].platform} ({jax.devices()[0].device_kind})",
        "machine": machine | {"load_average_after": timing.machine()["load_average"]},
        "versions": timing.versions("jax", "jaxlib", "flax", "optax"),
        "calls_per_row": {"mean": float(np.mean(row_calls))} | percentiles,
        "compile_seconds": step.compile_seconds,
        "peak_gflops": results["gemm"]["gflops_max"],
        "results": results,
    }


def report(result: dict[str, Any]) -> str:
    """Formats the results as text."""
    calls, results = result["calls_per_row"], result["results"]
    peak, compiled = result["peak_gflops"], result["compile_seconds"]
    lines = timing.headline(result["machine"], result["versions"])
    lines += [
        f"{result['device']}, {result['settings']['rows']} rows; calls per row: "
        + ", ".join(f"{name} {value:.4g}" for name, value in calls.items()),
        "",
        timing.table(
            timing.COLUMNS,
            [timing.row(name, one, peak, compiled[name]) for name, one in results.items()],
        ),
        "",
    ]
    rollouts = {name: one for name, one in results.items() if "passes" in one}
    rows = [[name, one["passes"], 100 * one["occupied"]] for name, one in rollouts.items()]
    lines += [timing.table(["", "passes", "% of slots at work"], rows), ""]
    updates = {name: one["to_forward"] for name, one in results.items() if "to_forward" in one}
    rows = [[name, one["ratio"], one["ratio_cpu"]] for name, one in updates.items()]
    lines.append(timing.table(["update / forward (3 by operations)", "time", "CPU time"], rows))
    return "\n".join(lines)


def passes(nfe: Sequence[int], slots: int) -> int:
    """Returns the passes of the loop for rows that take `nfe` calls each, in the queue's order.

    Args:
      slots: rows in flight; 0 means one static batch, which waits for its slowest row.
    """
    if not slots:
        return int(max(nfe))
    busy_until = [0] * min(slots, len(nfe))
    for calls in nfe:
        heapq.heapreplace(busy_until, busy_until[0] + int(calls))
    return max(busy_until)


def make_config(args: argparse.Namespace, method: str):
    """Returns the configuration of configs/sudoku.py:prompt with the arguments' changes."""
    from configs import sudoku
    from diffpo_jax.config import convert

    values = sudoku.get_config("prompt")
    values.method = method
    values.threshold.gamma = args.gamma
    values.sampler.vocabulary_chunk = None  # 13 tokens are few
    for name in ("width", "layers", "heads", "ff"):
        if (value := getattr(args, name)) is not None:
            values.model[name] = value
    if args.heads is not None:
        values.model.kv_heads = args.heads
    return convert.from_config_dict(values)


class _Step:
    """The compiled programs of a step; each entry of `calls` runs one and waits for its end."""

    def __init__(self, args: argparse.Namespace, config):
        import jax
        import jax.numpy as jnp

        from diffpo_jax.arrays import rng
        from diffpo_jax.arrays.types import Prompts
        from diffpo_jax.distributed import mesh as mesh_lib
        from diffpo_jax.models import families
        from diffpo_jax.rl import optimizer, update

        self.config = config
        self.rows = args.rows or config.rl.prompts * config.rl.group
        self.vocab = len(config.tokenizer.alphabet) + 3  # pad, mask and end of text
        self.mesh = mesh_lib.make_mesh(config.mesh)
        self.policy = families.make_policy(
            config.model,
            config.threshold,
            vocab=self.vocab,
            mask_id=1,
            platform=jax.devices()[0].platform,
        )
        params = self.policy.init(rng.key_for(config.seed, "init"))
        params["denoiser"]["unembed"] *= args.sharpen
        self.groups = optimizer.trained_groups(config.mode, False, config.sampler.rule)
        self.optimizer = optimizer.make_optimizer(config.rl.optimizer, self.groups, 1)
        self.params = params
        trained = {name: params[name] for name in self.groups}
        self.frozen = {name: params[name] for name in params if name not in trained}
        self.state = update.init_state(trained, self.optimizer)
        key = rng.key_for(config.seed, "rollout")
        # Groups of rollouts with the same prompt, as in a run.
        self.group = math.gcd(config.rl.group, self.rows)
        shape = (self.rows // self.group, config.sampler.prompt_length)
        tokens = jax.random.randint(key, shape, 3, self.vocab)
        tokens = jnp.repeat(tokens, self.group, axis=0)
        self.prompts = Prompts(tokens, jnp.ones(tokens.shape, bool))
        self.keys = rng.row_keys(key, jnp.arange(self.rows))
        self.calls: dict[str, Callable[[], Any]] = {}
        self.compile_seconds: dict[str, float] = {}
        self.nfe: dict[str, Any] = {}
        self._add_gemm()
        for slots in args.slots:
            rollout = self._add_rollout(slots)
        advantage = jax.random.normal(key, (self.rows,))
        for anchors in args.anchors:
            method = make_config(args, METHODS[anchors])
            for micro in args.micro:
                if micro < self.rows and (micro == 0 or self.rows % micro == 0):
                    self._add_update(method, anchors, micro, rollout, advantage)

    def _programs(self, config, micro: int, slots: int):
        from diffpo_jax.diffusion import sampler as generate
        from diffpo_jax.rl import step as rl_step

        rl = dataclasses.replace(
            config.rl,
            micro_batch=micro or None,
            prompts=self.rows // self.group,
            group=self.group,
        )
        size = rl_step.rows_per_prompt(rl, 1)
        settings = generate.make_settings(
            config.sampler, config.sampler.temperature, (0,), rows_per_prompt=size
        )
        return rl_step.make_programs(
            self.policy,
            self.optimizer,
            rl,
            settings,
            self.groups,
            self.mesh,
            self.state,
            slots or None,
        )

    def _add_gemm(self) -> None:
        import jax
        import jax.numpy as jnp

        model, sampler = self.config.model, self.config.sampler
        a = jnp.ones((self.rows * (sampler.prompt_length + sampler.length), model.width))
        b = jnp.ones((model.width, model.ff))
        product = self._compile("gemm", jax.jit(jnp.matmul), a, b)
        ready = jax.block_until_ready
        self.calls["gemm"] = lambda: [ready(product(a, b)) for _ in range(GEMMS)]

    def _add_rollout(self, slots: int):
        import jax
        import jax.numpy as jnp

        inputs = (self.params, self.prompts, jnp.float32(self.config.threshold.gamma))
        inputs = (*inputs, self.keys)
        name = f"rollout slots={slots}"
        run = self._compile(name, self._programs(self.config, 0, slots).generate, *inputs)
        rollout, _ = run(*inputs)
        self.nfe[name] = jax.device_get(rollout.nfe)
        self.calls[name] = lambda: jax.block_until_ready(run(*inputs))
        return rollout

    def _add_update(self, config, anchors: int, micro: int, rollout, advantage) -> None:
        import jax
        import jax.numpy as jnp

        from diffpo_jax.arrays import rng
        from diffpo_jax.rl.update import Batch

        programs = self._programs(config, micro, 0)
        draws = programs.draw(rng.key_for(config.seed, "draws"), rollout, self.prompts)
        inputs = (self.prompts, rollout, draws)
        name = f"K={anchors} micro={micro}"
        score = self._compile(f"forward {name}", programs.score, self.params, *inputs)
        batch = Batch(self.prompts, rollout, advantage, draws, None, None)
        step = self._compile(f"update {name}", programs.update, self.state, self.frozen, batch)
        state = jax.tree.map(jnp.copy, self.state)  # a copy, because each call donates its state

        def update() -> None:
            nonlocal state
            state, _ = jax.block_until_ready(step(state, self.frozen, batch))

        params = self.params
        self.calls[f"forward {name}"] = lambda: jax.block_until_ready(score(params, *inputs))
        self.calls[f"update {name}"] = update

    def _compile(self, name: str, jitted, *args):
        program, self.compile_seconds[name] = timing.compiled(jitted, *args)
        return program


def _flops(name: str, step: _Step, calls: dict[str, int]) -> float:
    """Returns a program's operations; a gradient counts as three passes, Adam as nothing."""
    model, sampler = step.config.model, step.config.sampler
    sequence = sampler.prompt_length + sampler.length
    if name == "gemm":
        return GEMMS * 2.0 * step.rows * sequence * model.width * model.ff
    forward = timing.forward_flops(
        sequence=sequence,
        scored=sampler.length,
        width=model.width,
        layers=model.layers,
        ff=model.ff,
        vocab=step.vocab,
    )
    # The rows of a prompt share their first call, and their first anchor unless its tokens are
    # masked row by row (K=1, d1).
    shared = step.rows - step.rows / step.group
    if name in calls:
        return (calls[name] - shared) * forward
    anchors = int(name.split("K=")[1].split()[0])
    passes = step.rows * anchors - (shared if anchors > 1 else 0)
    return passes * forward * (3 if name.startswith("update") else 1)


def _numbers(text: str) -> list[int]:
    values = [int(word) for word in text.split(",")]
    if min(values) < 0:
        raise argparse.ArgumentTypeError(f"{text}: numbers must not be negative")
    return values


if __name__ == "__main__":
    main()
