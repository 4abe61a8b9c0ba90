"""The plan of a configuration: does it fit, and how long does a step take at least?"""

import math
from typing import Any

import jax
from jax.sharding import Mesh

from diffpo_jax.config import DIALS, Config
from diffpo_jax.distributed.chips import Chip
from diffpo_jax.planning import cost, memory, programs, vocabulary
from diffpo_jax.planning.programs import Program
from diffpo_jax.planning.topology import Topology, make_mesh
from diffpo_jax.system.progress import say


def plan(config: Config, topology: Topology, calls: int = 0) -> dict[str, Any]:
    """Compiles the programs of an RL step and judges them.

    Args:
      calls: of the denoiser in a rollout; 0: as many as there can be.

    Returns:
      Everything `text.of_plan` prints, in bytes, operations and seconds, of one device and one
      run of a program where nothing else is said.

    Raises:
      UserError: the mesh is not that of the topology; the vocabulary is not known.
    """
    mesh = make_mesh(config.mesh, topology)
    step = programs.make_step(config, mesh)
    staying, calls = memory.staying(step), calls or most_calls(config)
    parts = {
        name: _of_program(name, program, staying, config, topology, calls)
        for name, program in step.programs.items()
    }
    return {
        "topology": topology.name,
        "devices": len(topology.devices),
        "kind": topology.devices[0].device_kind,
        "mesh": dict(mesh.shape),
        "limit": topology.limit,
        "parameters": _count(step.frozen) + _count(step.state.params),
        "trained": _count(step.state.params),
        "vocabulary": vocabulary.of_config(config).size,
        "rows": config.rl.prompts * config.rl.group,
        "micro_batch": config.rl.micro_batch,
        "prompt_length": config.sampler.prompt_length,
        "length": config.sampler.length,
        "calls": calls,
        "programs": parts,
        "fits": _fits(parts),
        "step": _of_step(parts, config),
    }


def _count(tree: Any) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def most_calls(config: Config) -> int:
    """Denoiser calls that a rollout may take: a token a call, unless a rule says otherwise."""
    sampler = config.sampler
    most = sampler.steps if DIALS[sampler.rule] == "steps" else sampler.length
    return min(most, sampler.max_calls or most)


def judge(config: Config, topology: Topology, names: tuple[str, ...]) -> bool:
    """Whether these programs fit; compiles no others."""
    mesh: Mesh = make_mesh(config.mesh, topology)
    step = programs.make_step(config, mesh)
    staying = memory.staying(step)
    for name in names:
        if name in step.programs:
            compiled = programs.compile_program(step.programs[name])
            bytes_ = memory.of_program(step.programs[name], compiled, staying, topology.limit)
            if compiled.executable is None or (bytes_["over"] or 0) > 0:
                return False
    return True


def _of_program(
    name: str,
    program: Program,
    staying: dict[str, int],
    config: Config,
    topology: Topology,
    calls: int,
) -> dict[str, Any]:
    say(f"compiling {name} ...")
    compiled = programs.compile_program(program)
    say(f"{name}: {compiled.seconds:.0f} s. {compiled.refusal.partition(chr(10))[0]}")
    result = {
        "times": program.times,
        "compile_seconds": compiled.seconds,
        "bytes": memory.of_program(program, compiled, staying, topology.limit),
        "refusal": compiled.refusal.partition("\n")[0],
    }
    if compiled.executable is None:
        return result | {"fits": False, "cost": None, "seconds": None, "bound": None}
    over = result["bytes"]["over"]
    chunk = config.sampler.vocabulary_chunk
    # Loops that end when the data say so: the sampler's, and within it that over chunks.
    chunks = math.ceil(config.sampler.block_length / chunk) if chunk else 1
    done = cost.of_text(compiled.executable.as_text(), (calls, chunks))
    analysis = compiled.executable.cost_analysis() or {}
    seconds = lower_bounds(done, topology.chip)
    return result | {
        "fits": None if over is None else over <= 0,
        "cost": {
            "flops": done.flops,
            "flops_loops_once": analysis.get("flops"),  # the compiler's own count
            "memory": done.memory,
            "moved": done.moved,
            "between": done.between,
            "open_loops": done.open_loops,
        },
        "seconds": seconds,
        "bound": max(seconds, key=seconds.get) if seconds else None,
    }


def lower_bounds(done: cost.Cost, chip: Chip | None) -> dict[str, float] | None:
    """Seconds that products, memory and network need, each alone and at the published peak."""
    if chip is None:
        return None
    return {
        "compute": done.flops / chip.flops,
        "HBM": done.memory / chip.hbm_rate,
        "network": sum(done.moved.values()) / chip.ici_rate,
    }


def _fits(parts: dict[str, Any]) -> bool | None:
    verdicts = [part["fits"] for part in parts.values()]
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _of_step(parts: dict[str, Any], config: Config) -> dict[str, float] | None:
    """Of a whole RL step, the host's work left out; None where a program has no time."""
    if any(part["seconds"] is None for part in parts.values()):
        return None
    seconds = sum(p["times"] * max(p["seconds"].values()) for p in parts.values())
    rows = config.rl.prompts * config.rl.group
    return {
        "seconds": seconds,
        "tokens_per_second": rows * config.sampler.length / seconds,
        "samples_per_second": rows / seconds,
    }
