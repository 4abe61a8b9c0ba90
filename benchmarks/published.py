"""Times an RL step at the size of published models, with random weights, on local devices.

    python benchmarks/published.py --config=configs/sudoku.py:llada_8b,lora \\
        mesh.fsdp=1 rl.prompts=2 rl.micro_batch=4 sampler.max_calls=32 [--json FILE]

  rollout   all calls of a step's rollouts, on random prompts
  score     old or reference log-probabilities, if the configuration needs any
  update    one optimiser update

The programs are those that `python -m diffpo_jax.plan` compiles and that a run uses.  Changes of
the configuration are written as in a study's arms.  Besides the times, the script reports the
operations as a run's `time/mfu` counts them, their share of the devices' published peak, the memory
that the plan computes for a program on each device, and the peak memory in use.  Weights are
random, so a rollout commits one token per call until sampler.max_calls; the number of calls is
printed, because the time means nothing without it.  Grading on the host, checkpoints and logging
are left out.
"""

import argparse
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import timing

GIB = 2**30
PROGRAMS = ("rollout", "score", "update")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "changes", nargs="*", metavar="FIELD=VALUE", help="changes of the configuration"
    )
    parser.add_argument("--config", required=True, metavar="FILE[:PRESETS]")
    parser.add_argument(
        "--last",
        choices=PROGRAMS,
        default=PROGRAMS[-1],
        help="leave out the programs after this one (default: update, which leaves out none)",
    )
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="(default 3)")
    parser.add_argument("--json", metavar="FILE", help="also write everything to FILE as JSON")
    args = parser.parse_intermixed_args(argv)
    if args.repeats < 1:
        parser.error("--repeats must be 1 or more.")
    return args


def main(argv: list[str] | None = None) -> None:
    timing.run(arguments(argv), measure, report)


def measure(args: argparse.Namespace, machine: dict[str, Any]) -> dict[str, Any]:
    """Returns all results, as in the JSON file.

    Raises:
      UserError: a bad configuration or mesh, or one that this script makes no arguments for.
    """
    import jax

    from diffpo_jax.config import check, convert
    from diffpo_jax.distributed import chips
    from diffpo_jax.distributed import mesh as mesh_lib
    from diffpo_jax.planning import programs
    from diffpo_jax.system.errors import UserError

    jax.config.update("jax_enable_compilation_cache", False)  # so that compile times are real
    config = convert.from_file(args.config, args.changes)
    check.check_training(config)
    if config.rl.objective.selection == "exact" or config.mode == "sampler":
        raise UserError(
            "this benchmark only measures updates of tokens: set mode to model or joint, and "
            "rl.objective.selection to gamma_token or none."
        )
    mesh = mesh_lib.make_mesh(config.mesh)
    step = programs.make_step(config, mesh, chips.memory(mesh.devices.flat[0]))
    config = step.config
    run, results = _Run(config, mesh, step), {}
    for name in PROGRAMS[: PROGRAMS.index(args.last) + 1]:
        if name in run.step.programs:
            results[name] = run.measure(name, args.repeats)
            if "refusal" in results[name]:
                break
    return {
        "settings": vars(args),
        "device": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
        "machine": machine | {"load_average_after": timing.machine()["load_average"]},
        "versions": timing.versions("jax", "jaxlib", "flax", "optax"),
        "rows": config.rl.prompts * config.rl.group,
        "calls": run.calls,
        "sampled_tokens": run.tokens,
        "results": results,
    }


def report(result: dict[str, Any]) -> str:
    """Formats the results as text."""
    columns = ["", "median s", "min s", "max s", "TFLOP/s", "MFU %", "planned GiB", "peak GiB"]
    rows = []
    for name, one in result["results"].items():
        if "refusal" in one:
            rows.append([name, *[None] * 7, one["compile_seconds"]])
            continue
        seconds = (one[key] for key in ("seconds", "seconds_min", "seconds_max"))
        mfu = 100 * one["mfu"] if "mfu" in one else None
        space = (one[key] / GIB if one[key] else None for key in ("planned_bytes", "peak_bytes"))
        rows.append([name, *seconds, one["gflops"] / 1e3, mfu, *space, one["compile_seconds"]])
    calls, rollout = result["calls"], result["results"]["rollout"]
    settings = result["settings"]
    lines = [
        *timing.headline(result["machine"], result["versions"]),
        f"{result['device']}; {' '.join([settings['config'], *settings['changes']])}",
        "",
        timing.table([*columns, "compile s"], rows),
        "",
    ]
    if "seconds" in rollout:
        each = 1e3 * rollout["seconds"] / calls
        lines.append(
            f"{result['rows']} rollouts; the longest takes {calls} calls, {each:.4g} ms per call; "
            f"{result['sampled_tokens'] / rollout['seconds']:.4g} tokens/s"
        )
    lines += [
        f"{name} does not fit: {one['refusal']}"
        for name, one in result["results"].items()
        if "refusal" in one
    ]
    return "\n".join(lines)


class _Run:
    """Arguments for a step's programs; each program's results are arguments of the next."""

    def __init__(self, config, mesh, step):
        import jax

        from diffpo_jax.rl import step as rl_step

        self.config, self.mesh, self.step = config, mesh, step
        key = jax.random.key(config.seed)
        trained = _filled(step.state.params, jax.random.fold_in(key, 0))
        self.frozen = _filled(step.frozen, jax.random.fold_in(key, 1))
        self.state = self._state(trained)
        self.reference = _filled(
            step.reference, jax.random.fold_in(key, 2)
        )  # held for its memory only
        self.old = self.rollout = self.draws = None
        self.size = rl_step.rows_per_prompt(config.rl, config.mesh.batch_devices)
        self.calls = self.tokens = 0

    def measure(self, name: str, repeats: int) -> dict[str, Any]:
        """Compiles and times a program, after those before it have been measured."""
        import jax

        from diffpo_jax.distributed import chips
        from diffpo_jax.planning import memory, programs
        from diffpo_jax.system.progress import say

        program = self.step.programs[name]
        say(f"compiling {name} ...")
        compiled = programs.compile_program(program)
        say(f"{name}: {compiled.seconds:.0f} s")
        plan = memory.program_bytes(program, compiled, memory.resident_bytes(self.step), None)
        result = {"compile_seconds": compiled.seconds, "planned_bytes": plan["sum"]}
        if compiled.executable is None:
            return result | {"refusal": compiled.refusal.partition("\n")[0]}
        try:
            call = self._call(name, compiled.executable)
            timing.interleave({name: call}, 1)
            times = timing.interleave({name: call}, repeats)[name]
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return result | {"refusal": str(error).partition("\n")[0]}
        operations = self._operations(name)
        result |= timing.summary(times, operations) | {"peak_bytes": _peak_bytes(self.mesh)}
        if peak := chips.peak(self.mesh.devices.flat[0].device_kind):
            result["mfu"] = operations / result["seconds"] / (peak * self.mesh.size)
        return result

    def _call(self, name: str, executable):
        """Returns the program as a function without arguments that waits until it is done."""
        import jax

        from diffpo_jax.arrays import rng

        if name == "rollout":
            inputs = self._rollout_inputs()
            self.rollout, _ = jax.block_until_ready(executable(*inputs))
            key = rng.key_for(self.config.seed, "draws")
            self.draws = self.step.run.draw(key, self.rollout, self.prompts)
            nfe = jax.device_get(self.rollout.nfe)
            self.calls = int(nfe.max())
            self.tokens = int(jax.device_get(self.rollout.sampled).sum())
            return lambda: jax.block_until_ready(executable(*inputs))
        if name == "score":
            inputs = (self.frozen | self.state.params, self.prompts, self.rollout, self.draws)
            self.old = jax.block_until_ready(executable(*inputs))
            return lambda: jax.block_until_ready(executable(*inputs))
        frozen, batch, rate = self.frozen, self._batch(), jax.numpy.float32(1.0)

        def update() -> None:  # the state is donated at each call
            self.state, _ = jax.block_until_ready(executable(self.state, frozen, batch, rate))

        return update

    def _operations(self, name: str) -> float:
        """Returns the operations of one run of a program, over all devices."""
        import jax

        from diffpo_jax.models import flops
        from diffpo_jax.planning import vocabulary

        config = self.config
        network = flops.Network(config.model, config.lora, vocabulary.make_vocabulary(config).size)
        rows = config.rl.prompts * config.rl.group
        if name == "rollout":
            record = jax.device_get((self.rollout.commit_call, self.rollout.nfe))
            return float(flops.rollout_flops(network, config.sampler, *record, self.size))
        anchors = float(self.draws.anchors.shape[1])
        if config.rl.likelihood.shares_first_state:
            anchors += 1 / self.size - 1
        passes = (anchors, 0.0) if name == "score" else (0.0, anchors)
        whole = not config.lora.rank
        return rows * flops.update_flops(
            network, config.sampler, flops.Passes(*passes), whole=whole
        )

    def _rollout_inputs(self):
        import jax
        import jax.numpy as jnp

        from diffpo_jax.arrays import rng
        from diffpo_jax.arrays.types import Prompts
        from diffpo_jax.planning import vocabulary

        _, shapes, *_ = self.step.programs["rollout"].arguments
        key = rng.key_for(self.config.seed, "rollout")
        words = vocabulary.make_vocabulary(self.config)
        rows, length = shapes.tokens.shape
        group = self.config.rl.group
        tokens = jax.random.randint(key, (rows // group, length), 0, words.size)
        tokens = jnp.repeat(tokens, group, axis=0)
        tokens = jnp.where(tokens == words.mask, words.mask - 1, tokens)
        self.prompts = jax.device_put(
            Prompts(tokens, jnp.ones(shapes.mask.shape, bool)),
            Prompts(shapes.tokens.sharding, shapes.mask.sharding),
        )
        keys = rng.row_keys(key, jnp.arange(len(tokens)))
        dial = jnp.float32(self.config.dial)
        return (self.frozen | self.state.params, self.prompts, dial, keys)

    def _batch(self):
        import jax

        from diffpo_jax.distributed import sharding
        from diffpo_jax.rl.update import Batch

        objective = self.config.rl.objective
        rows = self.rollout.nfe.shape[0]
        advantage = jax.random.normal(jax.random.key(self.config.seed), (rows,))
        advantage = jax.device_put(advantage, sharding.batch_sharding(self.mesh))
        reference = self.old if objective.kl and objective.kl_in == "loss" else None
        old = self.old if self.config.rl.inner_updates > 1 else None
        return Batch(self.prompts, self.rollout, advantage, self.draws, old, reference)

    def _state(self, trained):
        import functools

        import jax

        from diffpo_jax.rl import optimizer, update

        config = self.config
        groups = optimizer.trained_groups(config.mode, bool(config.lora.rank), config.sampler.rule)
        steps = config.rl.steps * config.rl.inner_updates
        init = functools.partial(
            update.init_state,
            optimizer=optimizer.make_optimizer(config.rl.optimizer, groups, steps),
        )
        layout = jax.tree.map(lambda x: x.sharding, self.step.state)
        return jax.jit(init, out_shardings=layout, donate_argnums=0)(trained)


def _filled(shapes: Any, key) -> Any:
    """Returns random parameters of these shapes, each created on its own devices."""
    import jax
    import jax.numpy as jnp

    from diffpo_jax.distributed import sharding

    def fill(path, x, key):
        name = sharding.path_name(path)
        if x.dtype == jnp.uint4:
            return jax.random.randint(key, x.shape, 0, 16, jnp.uint8).astype(x.dtype)
        if x.dtype == jnp.int8:
            return jax.random.randint(key, x.shape, -127, 128, x.dtype)
        if name.endswith("norm/scale"):
            return jnp.ones(x.shape, x.dtype)
        if len(x.shape) < 2:
            return jnp.zeros(x.shape, x.dtype)
        if name.endswith(
            "scale"
        ):  # of quantised kernels: int8 values go up to 127, nf4 values up to 1
            return jnp.full(x.shape, scale, x.dtype)
        return x.shape[-2] ** -0.5 * jax.random.normal(key, x.shape, x.dtype)

    kinds = {x.dtype for x in jax.tree.leaves(shapes)}
    scale = 0.02 / 127 if jnp.dtype(jnp.int8) in kinds else 0.02
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    made = [
        jax.jit(fill, static_argnums=(0, 1), out_shardings=x.sharding)(path, x, one)
        for (path, x), one in zip(leaves, jax.random.split(key, len(leaves)))
    ]
    return jax.tree_util.tree_unflatten(tree, made)


def _peak_bytes(mesh) -> int | None:
    """Returns the peak bytes in use on a device since the process began, or None if unknown."""
    stats = mesh.devices.flat[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use")


if __name__ == "__main__":
    main()
