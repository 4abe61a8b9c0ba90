"""The cost of K anchors: time and memory of an update, from d1's one anchor to every call.

    python benchmarks/anchors.py [--json FILE]

  K=1 2 4 16  gradients of all parameters through `likelihood.anchored_log_prob` with K anchors, in
              one process, with alternating repeats.  Rollouts commit one token per call, so K=16
              has 16 different anchors if --length is at least 16.
  exact       every call of the rollout is an anchor.
  torch       d1's update (K=1) in plain PyTorch, eagerly; left out if torch is not installed.

Memory is the size of the compiled program's temporary arrays.  It is reported for this vocabulary
with and without chunks of positions, and again for --large-vocab, compiled but not run.  There
"[B L V]" is the size of one float32 array of all distributions, and "gradients" the size of the
parameters' gradients, which grow with the vocabulary whatever the surrogate does.
"""

import argparse
import os
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import against_pytorch, timing

MIB = 2**20


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--anchors",
        type=lambda text: [int(word) for word in text.split(",")],
        default=[1, 2, 4, 16, 0],
        metavar="K,K,...",
        help="0 means every call (default 1,2,4,16,0); 1 is always measured",
    )
    parser.add_argument("--large-vocab", type=int, default=126_464, metavar="N")
    parser.add_argument("--chunk", type=int, default=2, metavar="N", help="positions (default 2)")
    args, rest = parser.parse_known_args(argv)
    shapes = against_pytorch.arguments(rest)
    shapes.calls = shapes.length
    for name, value in vars(args).items():
        setattr(shapes, name, value)
    return shapes


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    machine = timing.machine()
    os.environ["NPROC"] = str(args.threads)
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    result = measure(args, machine)
    print(report(result))
    if args.json:
        from diffpo_jax.system import files

        files.write_json(args.json, result)


def measure(args: argparse.Namespace, machine: dict[str, Any]) -> dict[str, Any]:
    """Returns all results, as in the JSON file."""
    import jax

    sides = against_pytorch.make_sides(args)
    ours = sides["jax"]
    agreement = against_pytorch.check_agreement(ours, sides["torch"]) if "torch" in sides else None
    calls, memory, passes = {}, {}, {}
    for k in dict.fromkeys([1, *args.anchors]):
        name = f"K={k}" if k else "exact"
        program, draws = ours.compile_update(name, k)
        memory[name] = {"all": _memory(program)}
        chunked, _ = ours.compile_update(f"{name} chunked", k, args.chunk)
        memory[name]["chunked"] = _memory(chunked)
        calls[name] = _waiting(program, ours.params["denoiser"], draws)
        passes[name] = k or args.length
    if "torch" in sides:
        calls["torch K=1"] = sides["torch"].calls["update_k1"]
        passes["torch K=1"] = 1
    timing.interleave(calls, 1)
    times = timing.interleave(calls, args.repeats)
    forward = against_pytorch.flops(args)["update_k1"]
    results = {
        name: timing.summary(one, passes[name] * forward) | {"passes": passes[name]}
        for name, one in times.items()
    }
    for name, one in times.items():
        results[name]["to_k1"] = timing.ratio(one, times["K=1"])
        if "torch K=1" in times:
            results[name]["to_torch"] = timing.ratio(one, times["torch K=1"])
    return {
        "settings": vars(args),
        "machine": machine | {"load_average_after": timing.machine()["load_average"]},
        "versions": timing.versions("jax", "jaxlib", "flax", "torch"),
        "device": jax.devices()[0].device_kind,
        "agreement": agreement,
        "results": results,
        "memory": memory,
        "large": _large(args),
    }


def report(result: dict[str, Any]) -> str:
    """Formats the results as text."""
    lines = timing.headline(result["machine"], result["versions"])
    columns = ["", "median s", "x K=1", "x K=1, CPU", "x torch", "MiB", "MiB chunked"]
    rows = []
    for name, one in result["results"].items():
        memory = result["memory"].get(name)
        rows.append(
            [
                name,
                one["seconds"],
                one["to_k1"]["ratio"],
                one["to_k1"]["ratio_cpu"],
                one["to_torch"]["ratio"] if "to_torch" in one else None,
                memory["all"] / MIB if memory else None,
                memory["chunked"] / MIB if memory else None,
            ]
        )
    lines += ["", timing.table(columns, rows), ""]
    large = result["large"]
    lines.append(
        f"V={large['vocab']}: [B L V] {large['array'] / MIB:.0f} MiB, gradients "
        f"{large['gradients'] / MIB:.0f} MiB; temporary arrays of the update"
    )
    rows = [[name, one["all"] / MIB, one["chunked"] / MIB] for name, one in large["memory"].items()]
    lines.append(timing.table(["", "MiB", "MiB chunked"], rows))
    return "\n".join(lines)


def _large(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the memory that the compiler reports at the large vocabulary."""
    import jax

    shapes = argparse.Namespace(**vars(args) | {"vocab": args.large_vocab, "calls": 1})
    side = against_pytorch.JaxSide(shapes, updates=())
    memory = {}
    for k in dict.fromkeys([1, *args.anchors]):
        name = f"K={k}" if k else "exact"
        sizes = {"all": 0, "chunked": args.chunk}
        memory[name] = {x: _memory(side.compile_update(name, k, c)[0]) for x, c in sizes.items()}
    leaves = jax.tree.leaves(side.params["denoiser"])
    return {
        "vocab": args.large_vocab,
        "rows": args.rows,
        "array": 4 * args.rows * args.length * args.large_vocab,
        "gradients": sum(x.nbytes for x in leaves),
        "memory": memory,
    }


def _memory(program: Any) -> int:
    return int(program.memory_analysis().temp_size_in_bytes)


def _waiting(program: Any, *args: Any):
    import jax

    return lambda: jax.block_until_ready(program(*args))


if __name__ == "__main__":
    main()
