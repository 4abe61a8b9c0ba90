"""Plans an RL step: whether it fits the devices, and a lower bound on the time it takes."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from diffpo_jax.config import DIALS, Config
from diffpo_jax.distributed import chips
from diffpo_jax.models import flops
from diffpo_jax.planning import memory, programs, vocabulary
from diffpo_jax.planning.topology import Topology, make_mesh
from diffpo_jax.rl import step as rl_step
from diffpo_jax.run import setup
from diffpo_jax.system.progress import say


def plan(config: Config, topology: Topology, calls: int = 0) -> dict[str, Any]:
    """Compiles the programs of an RL step, sums up their memory and counts their operations.

    Args:
      calls: denoiser calls per rollout; 0: the most that are possible.

    Returns:
      Everything that `text.format_plan` prints. Bytes, FLOPs and seconds of a program are those of
      one run of it on one device.

    Raises:
      UserError: config.mesh does not match the topology; the vocabulary is unknown.
    """
    # 1. Trace the programs, and count what they compute.
    mesh = make_mesh(config.mesh, topology)
    step, calls = programs.make_step(config, mesh, topology.limit), calls or most_calls(config)
    config = step.config
    kind, devices = topology.devices[0].device_kind, len(topology.devices)
    resident, peak = memory.resident_bytes(step), chips.peak(kind)
    counts = {name: total / devices for name, total in program_flops(config, calls).items()}
    # 2. Compile each program, and sum up its memory.
    parts = {}
    for name, program in step.programs.items():
        say(f"compiling {name} ...")
        compiled = programs.compile_program(program)
        refusal = compiled.refusal.partition("\n")[0]
        say(f"{name}: {compiled.seconds:.0f} s. {refusal}")
        usage = memory.program_bytes(program, compiled, resident, topology.limit)
        parts[name] = {
            "times": program.times,
            "compile_seconds": compiled.seconds,
            "bytes": usage,
            "refusal": refusal,
            "fits": _fits(compiled, usage),
            "flops": counts[name],
            "seconds": counts[name] / peak if peak else None,
        }
    # 3. Put the plan together.
    verdicts = [part["fits"] for part in parts.values()]
    return {
        "topology": topology.name,
        "devices": devices,
        "kind": kind,
        "mesh": dict(mesh.shape),
        "limit": topology.limit,
        "share": topology.share,
        "parameters": _count(step.frozen) + _count(step.state.params),
        "trained": _count(step.state.params),
        "vocabulary": vocabulary.make_vocabulary(config).size,
        "rows": config.rl.prompts * config.rl.group,
        "micro_batch": config.rl.micro_batch or 0,
        "prompt_length": config.sampler.prompt_length,
        "length": config.sampler.length,
        "calls": calls,
        "programs": parts,
        "fits": False if False in verdicts else None if None in verdicts else True,
        "step": _step_bounds(parts, config) if peak else None,
    }


def most_calls(config: Config) -> int:
    """The most denoiser calls of a rollout: a token per call, unless the rule sets their number."""
    sampler = config.sampler
    most = sampler.steps if DIALS[sampler.rule] == "steps" else sampler.length
    return min(most, sampler.max_calls or most)


def programs_fit(config: Config, topology: Topology, names: tuple[str, ...]) -> bool:
    """Whether the named programs fit; only these are compiled, up to the first that does not."""
    step = programs.make_step(config, make_mesh(config.mesh, topology), topology.limit)
    resident = memory.resident_bytes(step)
    for name in names:
        if name in step.programs:
            program = step.programs[name]
            compiled = programs.compile_program(program)
            usage = memory.program_bytes(program, compiled, resident, topology.limit)
            if _fits(compiled, usage) is False:
                return False
    return True


def _fits(compiled: programs.Compiled, usage: dict[str, Any]) -> bool | None:
    """Whether a program fits; None if the memory of the devices is not known."""
    if compiled.executable is None:
        return False
    return None if usage["over"] is None else usage["over"] <= 0


def program_flops(config: Config, calls: int) -> dict[str, float]:
    """FLOPs of one run of each program, over all devices, as a run's `time/mfu` counts them.

    Args:
      config: without "auto".
    """
    rl, sampler = config.rl, config.sampler
    network = setup.network(config, vocabulary.make_vocabulary(config).size)
    nfe = np.full(rl.prompts * rl.group, calls)
    # A cached sampler's refreshes depend on the call of each token: calls are spread evenly.
    commit_call = -(-np.arange(1, sampler.length + 1) * calls // sampler.length)
    # One update, compared with a reference once: the passes of one scoring and of one gradient.
    objective = dataclasses.replace(rl.objective, kl_in="loss")
    once = dataclasses.replace(rl, inner_updates=1, objective=objective)
    size = rl_step.rows_per_prompt(rl, config.mesh.batch_devices)
    block = network.model.attention_block
    passes = flops.update_passes(nfe, once, size, compared=True, block=block)
    if config.mode == "sampler":  # updates train the threshold head alone
        passes = flops.Passes(0.0, 0.0)

    def updates(passes: flops.Passes) -> float:
        return nfe.size * flops.update_flops(network, sampler, passes, whole=not config.lora.rank)

    return {
        "rollout": float(
            flops.rollout_flops(network, sampler, np.tile(commit_call, (nfe.size, 1)), nfe, size)
        ),
        "score": updates(passes._replace(gradient=0.0, rows_gradient=0.0)),
        "update": updates(passes._replace(forward=0.0, rows_forward=0.0)),
        "head_update": 0.0,  # small beside a call
    }


def _count(tree: Any) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def _step_bounds(parts: dict[str, Any], config: Config) -> dict[str, float]:
    """The least seconds of an RL step without the host's work, and the rates that follow."""
    seconds = sum(part["times"] * part["seconds"] for part in parts.values())
    rows = config.rl.prompts * config.rl.group
    return {
        "seconds": seconds,
        "tokens_per_second": rows * config.sampler.length / seconds,
        "samples_per_second": rows / seconds,
    }
