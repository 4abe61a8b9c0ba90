"""JAX against PyTorch on the CPU: the sampler and the update, same shapes, same weights.

    python benchmarks/against_pytorch.py [--json FILE]

The programs run in one process; the repeats of both sides alternate (A B A B):

  generate    `--calls` denoiser calls on the whole sequence, each committing one token per row at
              temperature 0.  JAX: the jitted sampler of `diffpo_jax` with gamma = 0.  PyTorch: a
              Python loop under no_grad like LLaDA's `generate`, with the same rule (the masked
              position of least entropy) instead of the highest confidence.
  update K=1  d1's update without the optimiser: log-probabilities of all completion tokens from
              the all-mask state, a policy-gradient loss, gradients of all parameters.  JAX:
              through `likelihood.anchored_log_prob`, jitted.  PyTorch: autograd.
  update K=2  DiFFPO's two anchors, in JAX only, as a ratio to K=1.
  GEMM        the product [rows * S, width] x [width, ff], whose speed the others are compared with.

Before timing, the weights are copied and the script checks that logits and gradients of the two
sides agree; if they do not, nothing is timed.  PyTorch runs eagerly and in float32, as LLaDA and d1
do without a GPU.  JAX compiles ahead of time, and its compile time is reported separately.  Two
differences remain, both to JAX's disadvantage: it also applies a padding mask (all true here) and
records the rollout.

Without torch only the JAX side is measured.
"""

import argparse
import functools
import os
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import timing

LOGITS_TOLERANCE = 5e-4  # absolute; logits are of the order of 1
GRADIENT_TOLERANCE = 1e-3  # relative to the largest entry of each gradient
GEMMS = 20  # products per timing
SEED = 0


class DisagreementError(Exception):
    """The two sides do not compute the same thing, so their times cannot be compared."""


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def add(name: str, default: int | None, text: str) -> None:
        shown = "" if default is None else f" (default {default})"
        parser.add_argument(name, type=_positive, default=default, metavar="N", help=text + shown)

    add("--rows", 32, "sequences in a batch")
    add("--prompt", 33, "tokens of a prompt")
    add("--length", 16, "tokens of a completion")
    add("--calls", 16, "denoiser calls of generate, at most --length; the last commits the rest")
    add("--width", 128, "hidden size")
    add("--layers", 4, "transformer blocks")
    add("--heads", 4, "attention heads; --width must be an even multiple of this")
    add("--ff", 384, "hidden size of the feed-forward")
    add("--vocab", 64, "tokens of the vocabulary, including the mask token")
    add("--threads", None, "threads of each library (default: the usable cores)")
    add("--repeats", 5, "timings of each program")
    parser.add_argument("--json", metavar="FILE", help="also write everything to FILE as JSON")
    args = parser.parse_args(argv)
    if args.calls > args.length:
        parser.error(f"--calls={args.calls} is more than --length: every call commits a token.")
    if args.width % (2 * args.heads):
        parser.error(f"--width={args.width} is not an even multiple of --heads={args.heads}.")
    if args.vocab < 3:
        parser.error("--vocab must be at least 3: the mask token and two others.")
    args.threads = args.threads or timing.cores()
    return args


def main(argv: list[str] | None = None) -> None:
    args = arguments(argv)
    machine = timing.machine()  # before this process adds to the load
    # XLA reads NPROC once, when jax creates its device.
    os.environ["NPROC"] = str(args.threads)
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # so that compile times are real
    result = measure(args, machine, make_sides(args))
    print(report(result))
    if args.json:
        from diffpo_jax.system import files

        files.write_json(args.json, result)


def make_sides(args: argparse.Namespace) -> "dict[str, JaxSide | TorchSide]":
    """Returns the sides to compare, by name; only the JAX side if torch is not installed."""
    ours = JaxSide(args)
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        return {"jax": ours}
    return {"jax": ours, "torch": TorchSide(args, ours)}


def measure(
    args: argparse.Namespace,
    machine: dict[str, Any],
    sides: "dict[str, JaxSide | TorchSide]",
) -> dict[str, Any]:
    """Returns all results, as in the JSON file.  Raises `DisagreementError`."""
    agreement = check_agreement(sides["jax"], sides["torch"]) if "torch" in sides else None
    # One round without timing, then the timed ones.
    calls = {
        f"{program}/{name}": call
        for program in ("gemm", "generate", "update_k1", "update_k2")
        for name, side in sides.items()
        if (call := side.calls.get(program))
    }
    timing.interleave(calls, 1)
    results = _results(timing.interleave(calls, args.repeats), flops(args))
    return {
        "settings": vars(args),
        "machine": machine | {"load_average_after": timing.machine()["load_average"]},
        "versions": timing.versions("jax", "jaxlib", "flax", "torch"),
        "threads": {name: side.threads for name, side in sides.items()},
        "agreement": agreement,
        "compile_seconds": sides["jax"].compile_seconds,
        "peak_gflops": max(results["gemm"][name]["gflops_max"] for name in sides),
        "results": results,
    }


def report(result: dict[str, Any]) -> str:
    """Formats the results as text."""
    lines = timing.headline(result["machine"], result["versions"])
    lines.append("threads: " + ", ".join(f"{name} {n}" for name, n in result["threads"].items()))
    same = result["agreement"]
    if same is None:
        lines.append("torch is not installed, so only the JAX side was measured")
    else:
        lines.append(
            f"agreement: logits within {same['logits']:.1e}, gradients within "
            f"{same['gradients']:.1e} of their largest entry, {same['tokens']:.1%} of tokens equal"
        )
    peak, rows = result["peak_gflops"], []
    for program, by_side in result["results"].items():
        for name in ("jax", "torch"):
            if name not in by_side:
                continue
            compiled = result["compile_seconds"].get(program) if name == "jax" else None
            rows.append(timing.row(f"{program} {name}", by_side[name], peak, compiled))
    lines += ["", timing.table(timing.COLUMNS, rows), ""]
    for program, by_side in result["results"].items():
        if "ratio" in by_side:
            lines.append(f"{program}: JAX takes {_times(by_side)} PyTorch")
    to_k1 = result["results"]["update_k2"]["to_k1"]
    lines.append(f"update_k2: JAX takes {_times(to_k1)} update_k1")
    return "\n".join(lines)


def _times(ratio: dict[str, float]) -> str:
    return f"{ratio['ratio']:.2f} x the time and {ratio['ratio_cpu']:.2f} x the CPU time of"


def check_agreement(jax_side: "JaxSide", torch_side: "TorchSide") -> dict[str, float]:
    """Returns the largest differences of logits and of gradients, and the share of equal tokens.

    Equal tokens are reported, not required: after one near-tie two completions differ for good.

    Raises:
      DisagreementError: logits or gradients differ by more than the tolerance.
    """
    import jax
    import numpy as np

    ours, theirs = jax_side.logits(), torch_side.logits()
    logits_difference = float(np.max(np.abs(ours - theirs)))
    if not logits_difference <= LOGITS_TOLERANCE:
        raise DisagreementError(
            f"logits of JAX and PyTorch differ by {logits_difference:.2e}, "
            f"more than {LOGITS_TOLERANCE}."
        )

    def difference(path, a, b) -> float:
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            raise DisagreementError(f"gradient {jax.tree_util.keystr(path)}: {a.shape}, {b.shape}.")
        return float(np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-12))

    each = jax.tree_util.tree_map_with_path(
        difference, jax_side.gradients(), torch_side.gradients()
    )
    gradient_difference = max(jax.tree.leaves(each))
    if not gradient_difference <= GRADIENT_TOLERANCE:
        raise DisagreementError(
            f"gradients of JAX and PyTorch differ by {gradient_difference:.2e} of their largest "
            f"entry, more than {GRADIENT_TOLERANCE}: {each}"
        )
    same = float(np.mean(jax_side.tokens() == torch_side.tokens()))
    return {"logits": logits_difference, "gradients": gradient_difference, "tokens": same}


def make_network(width: int, layers: int, heads: int, ff: int, vocab: int) -> tuple[Any, Any]:
    """Makes a network of these sizes, as its configuration and its policy; the last token masks."""
    from diffpo_jax.config import ModelConfig, ThresholdConfig
    from diffpo_jax.models import families

    model = ModelConfig(
        positions=0,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        ff=ff,
    )
    policy = families.make_policy(
        model, ThresholdConfig(), vocab=vocab, mask_id=vocab - 1, platform="cpu"
    )
    return model, policy


class JaxSide:
    """The programs of `diffpo_jax`, compiled."""

    def __init__(self, args: argparse.Namespace, updates: tuple[int, ...] = (1, 2)):
        import jax
        import jax.numpy as jnp

        from diffpo_jax.arrays import rng
        from diffpo_jax.arrays.types import Prompts
        from diffpo_jax.diffusion import sampler as generate
        from diffpo_jax.diffusion.denoise import denoise
        from diffpo_jax.diffusion.settings import SamplerSettings

        self.threads = args.threads
        self.mask_id = args.vocab - 1
        self.model, policy = make_network(args.width, args.layers, args.heads, args.ff, args.vocab)
        self.params = policy.init(rng.key_for(SEED, "init"))
        key = rng.key_for(SEED, "rollout")
        rows, shape = args.rows, (args.rows, args.prompt)
        self.prompts = Prompts(
            jax.random.randint(jax.random.fold_in(key, 0), shape, 0, self.mask_id),
            jnp.ones(shape, bool),
        )
        self.advantage = jax.random.normal(jax.random.fold_in(key, 1), (rows,))
        keys = rng.row_keys(key, jnp.arange(rows))
        cap = args.calls if args.calls < args.length else 0
        settings = SamplerSettings(args.length, args.length, 0.0, cap)
        sampler = generate.make_generate(policy, settings, threshold="fixed")
        self.compile_seconds: dict[str, float] = {}
        gamma = jnp.float32(0.0)
        run = self._compile("generate", sampler, self.params, self.prompts, gamma, keys)
        self.rollout = run(self.params, self.prompts, gamma, keys)
        if int(self.rollout.nfe.min()) != args.calls or int(self.rollout.nfe.max()) != args.calls:
            raise DisagreementError(f"the sampler took {self.rollout.nfe} calls, not {args.calls}.")

        self._policy, self._key = policy, key
        draws, update = {}, {}
        for k in updates:
            update[k], draws[k] = self.compile_update(f"update_k{k}", k)

        def all_mask_logits(params):
            state = jnp.full((rows, args.length), self.mask_id, jnp.int32)
            return policy.logits(params, denoise(policy, params, self.prompts, state).hidden)

        self.logits = lambda: jax.device_get(jax.jit(all_mask_logits)(self.params))
        self.gradients = lambda: jax.device_get(update[1](self.params["denoiser"], draws[1]))
        self.tokens = lambda: jax.device_get(self.rollout.tokens)

        a = jnp.ones((rows * (args.prompt + args.length), args.width))
        b = jnp.ones((args.width, args.ff))
        product = self._compile("gemm", jnp.matmul, a, b)
        ready = jax.block_until_ready
        self.calls = {
            "gemm": lambda: [ready(product(a, b)) for _ in range(GEMMS)],
            "generate": lambda: ready(run(self.params, self.prompts, gamma, keys)),
        }
        for k in updates:
            step = functools.partial(update[k], self.params["denoiser"], draws[k])
            self.calls[f"update_k{k}"] = lambda step=step: ready(step())

    def compile_update(self, name: str, anchors: int, chunk: int = 0):
        """Returns the denoiser's gradient with K anchors (0: every call) and the draws it needs."""
        import jax
        import jax.numpy as jnp

        from diffpo_jax.arrays.types import Draws
        from diffpo_jax.config import LikelihoodConfig
        from diffpo_jax.diffusion import likelihood
        from diffpo_jax.diffusion.anchors import draw_anchors, every_call
        from diffpo_jax.diffusion.settings import SamplerSettings

        calls = self.rollout.commit_call
        if anchors:
            drawn = draw_anchors(self._key, calls, self.rollout.nfe, anchors)
        else:
            drawn = every_call(*calls.shape)
        draws = Draws(drawn, jnp.zeros(self.prompts.mask.shape, bool))

        length = self.rollout.tokens.shape[1]
        settings = SamplerSettings(length, length, 1.0, chunk=chunk)

        def loss(denoiser, draws):
            params = self.params | {"denoiser": denoiser}
            log_p = likelihood.anchored_log_prob(
                self._policy,
                params,
                self.prompts,
                self.rollout,
                draws,
                LikelihoodConfig(),
                settings,
            )
            rho = jnp.exp(log_p - jax.lax.stop_gradient(log_p))
            return -jnp.mean(rho * self.advantage[:, None])

        return self._compile(name, jax.grad(loss), self.params["denoiser"], draws), draws

    def _compile(self, name: str, function, *args):
        import jax

        program, seconds = timing.compiled(jax.jit(function), *args)
        self.compile_seconds[name] = seconds
        return program


class TorchSide:
    """The same in PyTorch, with the JAX side's weights, prompts, completions and advantages."""

    def __init__(self, args: argparse.Namespace, jax_side: JaxSide):
        import numpy as np
        import torch

        from benchmarks import torch_llada

        torch.set_num_threads(args.threads)
        self.threads = torch.get_num_threads()
        config, mask_id = jax_side.model, jax_side.mask_id
        model = torch_llada.from_jax(
            jax_side.params["denoiser"],
            heads=config.heads,
            theta=config.rope_theta,
            eps=config.norm_eps,
        )

        def tensor(x) -> torch.Tensor:
            return torch.from_numpy(np.array(x))

        prompts = tensor(jax_side.prompts.tokens).long()
        completion = tensor(jax_side.rollout.tokens).long()
        advantage = tensor(jax_side.advantage)
        all_mask = torch.cat([prompts, torch.full_like(completion, mask_id)], dim=1)

        def run():
            return torch_llada.generate(model, prompts, args.length, args.calls, mask_id)

        def update():
            return torch_llada.gradient(model, prompts, completion, advantage, mask_id)

        def logits():
            with torch.no_grad():
                return model(all_mask, args.length).numpy()

        self.logits = logits
        self.gradients = lambda: torch_llada.gradients_as_jax(model, update())
        self.tokens = lambda: run().numpy()
        a = torch.ones(args.rows * (args.prompt + args.length), args.width)
        b = torch.ones(args.width, args.ff)
        self.calls = {
            "gemm": lambda: [a @ b for _ in range(GEMMS)],
            "generate": run,
            "update_k1": update,
        }


def flops(args: argparse.Namespace) -> dict[str, float]:
    """Returns the operations of each program; a gradient counts as three forward passes."""
    sequence = args.prompt + args.length
    forward = args.rows * timing.forward_flops(
        sequence=sequence,
        scored=args.length,
        width=args.width,
        layers=args.layers,
        ff=args.ff,
        vocab=args.vocab,
    )
    return {
        "gemm": GEMMS * 2.0 * args.rows * sequence * args.width * args.ff,
        "generate": args.calls * forward,
        "update_k1": 3 * forward,
        "update_k2": 6 * forward,
    }


def _results(times: dict[str, timing.Times], flops: dict[str, float]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for key, one in times.items():
        program, name = key.split("/")
        results.setdefault(program, {})[name] = timing.summary(one, flops[program])
    for program, by_side in results.items():
        if "torch" in by_side:
            by_side |= timing.ratio(times[f"{program}/jax"], times[f"{program}/torch"])
    results["update_k2"]["to_k1"] = timing.ratio(times["update_k2/jax"], times["update_k1/jax"])
    return results


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


if __name__ == "__main__":
    main()
