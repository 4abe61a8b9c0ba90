"""Times the sampler's options against its plain loop, on this machine.

    python benchmarks/sampler.py [--json FILE]

  cache    a long prompt and a completion in blocks: every call computes the whole row ("none"), the
           completion ("prompt") or the current block ("dual"); refreshed once per block.  With
           attention by blocks ("block") the cache is exact.
  stream   a queue of prompts whose rows need different numbers of calls: static batches, one after
           the other, against a continuous batch of the same size.
  chunk    one call's work on the vocabulary, a few positions at a time, at --large-vocab: its time,
           and the memory of the compiled program.
  head     the queue with the head by state, which works at every call, and without it, at a token a
           call for both.
  compile  seconds to trace and compile each of these, with JAX's compilation cache off, and how
           often a program was compiled while gamma, prompts and their lengths changed.

The model is untrained; --width, --layers, --heads and --ff set its size.  If options are compared
at equal calls, the rule "top_k" fixes the number of calls.  In the queue the numbers follow from
drawn thresholds, with output weights multiplied by --sharpen so that they vary; they are printed.
Ratios are medians over neighbouring timings.
"""

import argparse
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import timing

SEED = 0
CACHES = ("none", "prompt", "dual", "block")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default, text in (
        ("--rows", 4, "sequences per batch"),
        ("--prompt", 512, "prompt tokens"),
        ("--length", 256, "completion tokens"),
        ("--block", 32, "block length; must divide --length"),
        ("--calls", 64, "calls of a completion; a multiple of the blocks"),
        ("--width", 64, "model.width"),
        ("--layers", 3, "model.layers"),
        ("--heads", 4, "model.heads"),
        ("--ff", 192, "model.ff"),
        ("--vocab", 64, "vocabulary"),
        ("--queue", 256, "prompts in the queue"),
        ("--slots", 32, "rows in flight, and rows of each static batch"),
        ("--queue-length", 16, "prompt and completion tokens in the queue"),
        ("--large-vocab", 126_464, "vocabulary of the chunked program (default: LLaDA's)"),
        ("--chunk", 4, "positions of a row that are held at once"),
        ("--repeats", 5, "timings of each program"),
    ):
        parser.add_argument(name, type=int, default=default, metavar="N", help=text)
    parser.add_argument(
        "--sharpen", type=float, default=10.0, help="factor of the queue's output weights"
    )
    parser.add_argument("--json", metavar="FILE", help="also write everything to FILE as JSON")
    args = parser.parse_args(argv)
    if args.length % args.block or args.calls % (args.length // args.block):
        parser.error("--block must divide --length, and the number of blocks must divide --calls.")
    if args.prompt % args.block:
        parser.error("--block must divide --prompt: completions begin with a block of attention.")
    if args.queue % args.slots:
        parser.error("--slots must divide --queue, for the static batches.")
    return args


def main(argv: list[str] | None = None) -> None:
    timing.run(arguments(argv), measure, report)


def measure(args: argparse.Namespace, machine: dict[str, Any]) -> dict[str, Any]:
    """Returns all results, as in the JSON file."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # so that compile times are real
    bench = _Bench(args)
    timing.interleave(bench.calls, 1)
    times = timing.interleave(bench.calls, args.repeats)
    results = {name: timing.summary(one, 0.0) for name, one in times.items()}
    against = {f"cache {kind}": "cache none" for kind in CACHES[1:]}
    against |= {"stream": "static", "chunk": "whole", "with head": "without head"}
    for name, other in against.items():
        results[name]["to"] = {"program": other} | timing.ratio(times[name], times[other])
    return {
        "settings": vars(args),
        "device": f"{jax.devices()[0].platform} ({jax.devices()[0].device_kind})",
        "machine": machine | {"load_average_after": timing.machine()["load_average"]},
        "versions": timing.versions("jax", "jaxlib", "flax"),
        "compile_seconds": bench.compile_seconds,
        "temporary_bytes": bench.temporary_bytes,
        "compilations": bench.compilations(),
        "queue_calls": bench.queue_calls,
        "results": results,
    }


def report(result: dict[str, Any]) -> str:
    """Formats the results as text."""
    rows = []
    for name, one in result["results"].items():
        to = one.get("to")
        rows.append(
            [
                name,
                *(one[key] for key in ("seconds", "seconds_min", "seconds_max", "cpu_seconds")),
                result["compile_seconds"][name],
                result["temporary_bytes"][name] / 2**20,
                f"{to['ratio']:.3f} of {to['program']}" if to else None,
            ]
        )
    columns = ["", "median s", "min s", "max s", "CPU s", "compile s", "temporary MiB", "time"]
    calls = ", ".join(f"{name} {value:.4g}" for name, value in result["queue_calls"].items())
    compiled = result["compilations"]
    return "\n".join(
        [
            *timing.headline(result["machine"], result["versions"]),
            f"{result['device']}; calls per row of the queue: {calls}",
            "",
            timing.table(columns, rows),
            "",
            f"compiled {compiled['programs']} time(s) over {compiled['variations']} changes of "
            "gamma, prompts and prompt lengths",
        ]
    )


class _Bench:
    """The compiled programs; each entry of `calls` runs one and waits until it is done."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.calls: dict[str, Any] = {}
        self.compile_seconds: dict[str, float] = {}
        self.temporary_bytes: dict[str, int] = {}
        for kind in CACHES:
            self._add_long(f"cache {kind}", args.vocab, kind, 0)
        self._add_queue()
        self._add_head()
        self._add_read("whole", 0)
        self._add_read("chunk", args.chunk)

    def _policy(self, vocab: int, places: int = 1, block: int | None = None):
        import jax

        from diffpo_jax.arrays import rng
        from diffpo_jax.config import ModelConfig, ThresholdConfig
        from diffpo_jax.models import families

        args = self.args
        policy = families.make_policy(
            ModelConfig(
                width=args.width,
                layers=args.layers,
                heads=args.heads,
                kv_heads=args.heads,
                ff=args.ff,
                attention_block=block,
            ),
            ThresholdConfig(gamma=0.5),
            places=places,
            vocab=vocab,
            mask_id=vocab - 1,
            platform=jax.devices()[0].platform,
        )
        return policy, policy.init(rng.key_for(SEED, "init"))

    def _prompts(self, rows: int, length: int, vocab: int, seed: int = 0):
        import jax
        import jax.numpy as jnp

        from diffpo_jax.arrays.types import Prompts

        token_key, size_key = jax.random.split(jax.random.key(seed))
        tokens = jax.random.randint(token_key, (rows, length), 0, vocab - 1)
        size = jax.random.randint(size_key, (rows, 1), length // 2, length + 1)
        return Prompts(tokens, jnp.arange(length) >= length - size)

    def _keys(self, rows: int):
        import jax.numpy as jnp

        from diffpo_jax.arrays import rng

        return rng.row_keys(rng.key_for(SEED, "rollout"), jnp.arange(rows))

    def _add(self, name: str, function, *inputs):
        import jax

        program, seconds = timing.compiled(jax.jit(function), *inputs)
        self.compile_seconds[name] = seconds
        self.temporary_bytes[name] = program.memory_analysis().temp_size_in_bytes
        self.calls[name] = lambda: jax.block_until_ready(program(*inputs))
        return program(*inputs)

    def _add_long(self, name: str, vocab: int, kind: str, chunk: int) -> None:
        import jax.numpy as jnp

        from diffpo_jax.diffusion import sampler
        from diffpo_jax.diffusion.settings import CacheSettings, Rule, SamplerSettings

        args = self.args
        policy, params = self._policy(vocab, block=args.block if kind == "block" else None)
        settings = SamplerSettings(
            args.length,
            args.block,
            0.0,
            rule=Rule("top_k"),
            ranking="confidence",
            cache=CacheSettings(kind),
            chunk=chunk,
        )
        run = sampler.make_generate(policy, settings, threshold="fixed")
        prompts = self._prompts(args.rows, args.prompt, vocab)
        calls = jnp.float32(args.calls)
        rollout = self._add(name, run, params, prompts, calls, self._keys(args.rows))
        assert int(rollout.nfe.min()) == int(rollout.nfe.max()) == args.calls

    def _add_queue(self) -> None:
        import jax
        import jax.numpy as jnp
        import numpy as np

        from diffpo_jax.diffusion import sampler
        from diffpo_jax.diffusion.settings import SamplerSettings

        args = self.args
        policy, params = self._policy(args.vocab)
        params["denoiser"]["unembed"] *= args.sharpen
        settings = SamplerSettings(args.queue_length, args.queue_length, 1.0)
        inputs = (
            params,
            self._prompts(args.queue, args.queue_length, args.vocab),
            jnp.float32(0),
            self._keys(args.queue),
        )
        batch = sampler.make_generate(policy, settings, threshold="drawn")

        def static(params, prompts, dial, keys):
            parts = jax.tree.map(lambda x: x.reshape(-1, args.slots, *x.shape[1:]), (prompts, keys))
            return jax.lax.map(lambda part: batch(params, part[0], dial, part[1]), parts)

        self._add("static", static, *inputs)
        queue = sampler.make_generate(policy, settings, threshold="drawn", slots=args.slots)
        nfe = np.asarray(self._add("stream", queue, *inputs).nfe)
        self.queue_calls = {"mean": float(nfe.mean())}
        self.queue_calls |= {f"p{q}": float(np.percentile(nfe, q)) for q in (10, 50, 90, 100)}

    def _add_head(self) -> None:
        import jax
        import jax.numpy as jnp

        from diffpo_jax.diffusion import sampler
        from diffpo_jax.diffusion.settings import Rule, SamplerSettings

        args, length = self.args, self.args.queue_length
        policy, params = self._policy(args.vocab, length)
        params |= {"state_head": policy.init_state_head(jax.random.key(0))}

        judge = policy.judge

        def judge_one(params, seen):
            # One position at a time, whatever the head says, so that both make as many calls.
            judged = judge(params, seen)
            return judged._replace(logits=judged.logits.at[:, 0].add(1e6))

        policy = policy._replace(judge=judge_one)
        prompts, keys = self._prompts(args.queue, length, args.vocab), self._keys(args.queue)
        programs = {
            "without head": ("fixed", Rule("top_k"), float(length)),
            "with head": ("price", Rule("state"), 1.0),
        }
        for name, (threshold, rule, dial) in programs.items():
            settings = SamplerSettings(length, length, 0.0, rule=rule)
            run = sampler.make_generate(policy, settings, threshold=threshold, slots=args.slots)
            rollout = self._add(name, run, params, prompts, jnp.float32(dial), keys)
            assert int(rollout.nfe.min()) == int(rollout.nfe.max()) == length

    def _add_read(self, name: str, chunk: int) -> None:
        import jax
        import jax.numpy as jnp

        from diffpo_jax.diffusion import token_distribution
        from diffpo_jax.diffusion.settings import SamplerSettings

        args = self.args
        policy, params = self._policy(args.large_vocab)
        # One call's work: half of a block is masked, and the rest of the row is not read.
        shape = (args.rows, args.length)
        place = jnp.arange(args.length)
        open_ = jnp.broadcast_to(place >= args.block // 2, shape)
        wanted = open_ & (place < args.block)
        hidden = jax.random.normal(jax.random.key(1), (*shape, args.width))
        how = SamplerSettings(args.length, args.block, 0.0, chunk=chunk)

        def read(params, hidden, wanted, open_, keys):
            return token_distribution.read(policy, params, hidden, wanted, open_, keys, how)

        self._add(name, read, params, hidden, wanted, open_, self._keys(args.rows))

    def compilations(self) -> dict[str, int]:
        """Returns how often one jitted sampler is compiled while its inputs change."""
        import jax
        import jax.numpy as jnp

        from diffpo_jax.diffusion import sampler
        from diffpo_jax.diffusion.settings import SamplerSettings

        args, variations = self.args, 4
        policy, params = self._policy(args.vocab)
        settings = SamplerSettings(args.queue_length, args.queue_length, 1.0)
        run = jax.jit(sampler.make_generate(policy, settings, threshold="fixed"))
        for i in range(variations):
            prompts = self._prompts(
                4, args.queue_length, args.vocab, seed=i
            )  # other prompt lengths
            jax.block_until_ready(run(params, prompts, jnp.float32(0.1 * i), self._keys(4)))
        return {"programs": run._cache_size(), "variations": variations}


if __name__ == "__main__":
    main()
