"""This package against published PyTorch code on the CPU: rollouts and updates, same weights.

    python benchmarks/against_published.py --llada=DIR --fast_dllm=DIR --dllm=DIR --d1=DIR

Every DIR is a checkout; what is not given is left out, and the table says so.  Each row compares
two programs with the same network, prompts and number of denoiser calls:

  rollout  one completion per prompt, by LLaDA's rule: each call commits the most confident tokens.
           Without caches against LLaDA's `generate`, dllm's sampler and the lean network of
           `torch_llada.py`; with caches against Fast-dLLM's sampler (which takes one prompt) and
           dllm's version of it (which takes several).
  update   log-probabilities, loss, gradient, clip and AdamW, on given rollouts.  K=1 is d1's
           update, against d1's `compute_loss` on LLaDA's network and the lean network.  K=2 is
           DiFFPO's, against the lean network with two anchors, and against d1's update of the same
           rows, which makes half the passes.  Rollouts are in groups of 8 per prompt.  Each side
           has the micro-batch with which it is fastest.

Before a row is timed, logits must agree, and so must the gradient norms of updates of equal K.  At
temperature 0 the share of equal tokens is shown.  With one thread (the default) the ratios are of
CPU seconds, otherwise of wall-clock seconds.

--llada and --d1 need --dllm too, whose copy of LLaDA's network runs on current transformers.  torch
and transformers must be installed.
"""

import argparse
import contextlib
import ctypes
import functools
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import timing
from benchmarks.against_pytorch import (
    GRADIENT_TOLERANCE,
    LOGITS_TOLERANCE,
    DisagreementError,
    make_network,
)

SEED = 0
SHARPEN = 5.0  # factor of the output weights: flat distributions have near-ties
MIB = 2**20
# d1's training settings (slurm_scripts/train.yaml).
RATE, BETAS, WEIGHT_DECAY, MAX_NORM = 3e-6, (0.9, 0.99), 0.1, 0.2


class Network(NamedTuple):
    """The sizes of a network."""

    width: int
    layers: int
    heads: int
    ff: int
    vocab: int


class Case(NamedTuple):
    """One piece of work, and who else does it.

    Attributes:
      rivals: keys of `RIVALS`.
      calls: denoiser calls of a rollout.
      block: tokens of a block; None for all of the completion.
      cache: this package's kind of cache, a key of `CACHES`.
      anchors: K of an update; 0 for a rollout.
      group: consecutive rows with the same prompt.
      slots, micro_batch, chunk: this package's settings of speed and memory, None for all at once.
      their_micro_batch: PyTorch's.
    """

    name: str
    network: Network
    rows: int
    prompt: int
    length: int
    rivals: tuple[str, ...]
    calls: int = 1
    block: int | None = None
    temperature: float = 0.0
    cache: str = "none"
    anchors: int = 0
    group: int = 1
    slots: int | None = None
    micro_batch: int | None = None
    their_micro_batch: int | None = None
    chunk: int | None = None


class Rival(NamedTuple):
    """Published code, or the lean network: its name in the table, and the checkouts it needs."""

    title: str
    needs: tuple[str, ...]


RIVALS = {
    "lean": Rival("lean PyTorch", ()),
    "lean_k2": Rival("lean PyTorch, K=2", ()),
    "llada": Rival("LLaDA generate", ("llada", "dllm")),
    "dllm": Rival("dllm MDLMSampler", ("dllm",)),
    "fast_dllm": Rival("Fast-dLLM", ("fast_dllm",)),
    "dllm_fast": Rival("dllm Fast-dLLM", ("dllm",)),
    "d1": Rival("d1 compute_loss, K=1", ("d1", "dllm")),
}
CHECKOUTS = ("llada", "fast_dllm", "dllm", "d1")
CACHES = {"prompt": "prefix", "dual": "dual"}  # by this package's names, Fast-dLLM's

SUDOKU = Network(width=64, layers=3, heads=4, ff=192, vocab=13)
SMALL = Network(width=128, layers=4, heads=4, ff=384, vocab=64)
MEDIUM = Network(width=512, layers=8, heads=8, ff=1536, vocab=32_000)


def cases() -> list[Case]:
    """Returns all cases, in the order of the table."""
    return [*_rollouts(), *_cached_rollouts(), *_updates()]


def _rollouts() -> list[Case]:
    sizes = {
        "d64": (SUDOKU, {"rows": 512, "prompt": 16, "length": 16, "calls": 16, "slots": 32}),
        "d128": (SMALL, {"rows": 32, "prompt": 33, "length": 16, "calls": 16}),
        "d512": (MEDIUM, {"rows": 2, "prompt": 64, "length": 64, "calls": 8}),
    }
    return [
        Case(
            f"rollout {name} T={temperature:g}",
            network,
            **work,
            rivals=("lean", "llada", "dllm"),
            temperature=temperature,
        )
        for name, (network, work) in sizes.items()
        for temperature in (0.0, 0.9)
    ]


def _cached_rollouts() -> list[Case]:
    sizes = {
        "d128": (SMALL, 8, {"prompt": 33, "length": 32, "block": 16, "calls": 32}),
        "d512": (MEDIUM, 2, {"prompt": 64, "length": 64, "block": 32, "calls": 16}),
    }
    return [
        Case(
            f"rollout {name} {cache} cache, {rows} row{'s' * (rows > 1)}",
            network,
            rows=rows,
            **work,
            rivals=("fast_dllm", "dllm_fast") if rows == 1 else ("dllm_fast",),
            cache=cache,
            chunk=work["block"],  # so that only the block is projected to the vocabulary
        )
        for name, (network, most, work) in sizes.items()
        for cache in CACHES
        for rows in (1, most)
    ]


def _updates() -> list[Case]:
    sizes = {
        "d64": (SUDOKU, {"rows": 512, "prompt": 16, "length": 16, "micro_batch": 32}),
        "d128": (SMALL, {"rows": 32, "prompt": 33, "length": 16, "their_micro_batch": 16}),
        "d512": (MEDIUM, {"rows": 8, "prompt": 32, "length": 32}),
    }
    rivals = {1: ("lean", "d1"), 2: ("lean_k2", "d1")}
    return [
        Case(
            f"update {name} K={anchors}",
            network,
            **work,
            rivals=who,
            calls=4,
            anchors=anchors,
            group=8,
        )
        for anchors, who in rivals.items()
        for name, (network, work) in sizes.items()
    ]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, text in (
        ("llada", "ML-GSAI/LLaDA"),
        ("fast_dllm", "NVlabs/Fast-dLLM"),
        ("dllm", "ZHZisZZ/dllm"),
        ("d1", "dllm-reasoning/d1"),
    ):
        parser.add_argument(f"--{name}", metavar="DIR", help=f"checkout of {text}")
    parser.add_argument(
        "--only", default="", metavar="PATTERN", help="rows whose names match, a regular expression"
    )
    for name, default, text in (
        ("--repeats", 7, "pairs of timings of each row (default 7)"),
        ("--threads", 1, "threads of each library (default 1)"),
    ):
        parser.add_argument(name, type=int, default=default, metavar="N", help=text)
    parser.add_argument("--json", metavar="FILE", help="also write everything to FILE as JSON")
    args = parser.parse_args(argv)
    if args.repeats < 1 or args.threads < 1:
        parser.error("--repeats and --threads must be 1 or more.")
    return args


def main(argv: list[str] | None = None) -> None:
    timing.run(arguments(argv), measure, report)


def measure(
    args: argparse.Namespace, machine: dict[str, Any], work: list[Case] | None = None
) -> dict[str, Any]:
    """Returns all results, as in the JSON file.

    Args:
      work: the cases; None for `cases()`.

    Raises:
      UserError: torch is not installed, a checkout is not one, or no row matches.
      DisagreementError: two sides do not compute the same thing.
    """
    from diffpo_jax.system.errors import UserError

    os.environ["NPROC"] = str(args.threads)  # XLA reads it once, when jax creates its device
    try:
        import torch
    except ModuleNotFoundError as error:
        raise UserError("torch is not installed, so there is nothing to compare with.") from error
    import jax

    from benchmarks import checkouts

    jax.config.update("jax_platforms", "cpu")
    torch.set_num_threads(args.threads)
    given = {name: path for name in CHECKOUTS if (path := getattr(args, name))}
    directories = {name: checkouts.check(name, path) for name, path in given.items()}
    rows = [(case, rival) for case in work or cases() for rival in case.rivals]
    rows = [row for row in rows if re.search(args.only, _row_name(*row))]
    if not rows:
        raise UserError(f"--only={args.only}: no row has a name that matches.")
    left_out = {_row_name(*row): need for row in rows if (need := _missing(row[1], directories))}
    results, ours = {}, None
    for case, rival in rows:
        name = _row_name(case, rival)
        if name in left_out:
            continue
        if ours is None or ours.case != case:
            ours = _Ours(case)
        results[name] = _compare(ours, _Theirs(rival, ours, directories), args.repeats)
        print(_progress(name, results[name], args.threads), file=sys.stderr, flush=True)
    return {
        "settings": vars(args),
        "machine": machine | {"load_average_after": timing.machine()["load_average"]},
        "versions": timing.versions("jax", "jaxlib", "torch", "transformers"),
        "results": results,
        "left_out": left_out,
    }


def report(result: dict[str, Any]) -> str:
    """Formats the results as text."""
    clock = _clock(result["settings"]["threads"])
    kind = "CPU s" if clock == "cpu" else "s"
    columns = ("", f"ours {kind}", f"theirs {kind}", "theirs / ours", "least", "most")
    columns += ("ours MiB", "theirs MiB", "compile s", "agreement")
    rows = []
    for name, one in result["results"].items():
        ratio = one["ratio"][clock]
        memory = (None if x is None else x / MIB for x in one["memory"].values())
        seconds = (one[side][clock] for side in ("ours", "theirs"))
        row = [name, *seconds, ratio["median"], ratio["min"], ratio["max"], *memory]
        rows.append([*row, one["compile_seconds"], one["agreement"]])
    lines = timing.headline(result["machine"], result["versions"])
    lines += [f"threads of each library: {result['settings']['threads']}", ""]
    lines.append(timing.table(columns, rows))
    lines += [f"left out: {name} (needs {what})" for name, what in result["left_out"].items()]
    return "\n".join(lines)


def _progress(name: str, one: dict[str, Any], threads: int) -> str:
    ratio = one["ratio"][_clock(threads)]
    spread = f"{ratio['min']:.2f} to {ratio['max']:.2f}"
    return f"{name}: theirs / ours {ratio['median']:.2f} ({spread})"


def _clock(threads: int) -> str:
    """The clock that is compared: threads that wait for one another may use CPU time."""
    return "cpu" if threads == 1 else "wall"


def _row_name(case: Case, rival: str) -> str:
    return f"{case.name} / {RIVALS[rival].title}"


def _missing(rival: str, directories: dict[str, pathlib.Path]) -> str:
    """The options that a row needs and that were not given."""
    return ", ".join(f"--{name}" for name in RIVALS[rival].needs if name not in directories)


def _compare(ours: "_Ours", theirs: "_Theirs", repeats: int) -> dict[str, Any]:
    """Checks that both sides agree, and times them in turn."""
    import numpy as np

    agreement = theirs.check()  # after which neither side's next run is its first
    memory = {"ours": ours.temporary_bytes, "theirs": theirs.temporary_bytes()}
    times = timing.interleave({"ours": ours.run, "theirs": theirs.run}, repeats)
    medians = {
        side: {"wall": float(np.median(one.wall)), "cpu": float(np.median(one.cpu))}
        for side, one in times.items()
    }
    ratio = {
        clock: timing.pair_ratios(getattr(times["theirs"], clock), getattr(times["ours"], clock))
        for clock in ("wall", "cpu")
    }
    one = {"ratio": ratio, "memory": memory, "agreement": agreement}
    return medians | one | {"compile_seconds": ours.compile_seconds}


class _Ours:
    """A case in this package, compiled; `run` runs it once and waits for its end.

    Attributes:
      temporary_bytes: of an update's program besides its inputs and outputs; None for a rollout.
      rollout: what the update learns from, or the result.
      gradient_norm: of the first update.
    """

    def __init__(self, case: Case):
        from diffpo_jax.arrays import rng

        self.case, size = case, case.network
        self.mask_id = size.vocab - 1
        self.model, self.policy = make_network(*size)
        self.params = self.policy.init(rng.key_for(SEED, "init"))
        self.params["denoiser"] = _without_mask(self.params["denoiser"], self.mask_id)
        self.prompts, self.keys = self._inputs()
        self.temporary_bytes: int | None = None
        if case.anchors:
            self._prepare_update()
        else:
            self._prepare_rollout()

    def _inputs(self) -> tuple[Any, Any]:
        import jax
        import jax.numpy as jnp

        from diffpo_jax.arrays import rng
        from diffpo_jax.arrays.types import Prompts

        case, key = self.case, rng.key_for(SEED, "rollout")
        shape = (case.rows // case.group, case.prompt)
        tokens = jax.random.randint(key, shape, 0, self.mask_id)
        tokens = jnp.repeat(tokens, case.group, axis=0)
        keys = rng.row_keys(key, jnp.arange(case.rows))
        return Prompts(tokens, jnp.ones(tokens.shape, bool)), keys

    def _settings(self, temperature: float) -> Any:
        from diffpo_jax.diffusion.settings import CacheSettings, Rule, SamplerSettings

        case = self.case
        return SamplerSettings(
            case.length,
            case.block or case.length,
            temperature,
            rule=Rule("top_k"),
            ranking="drawn" if temperature else "confidence",  # LLaDA's, at each temperature
            cache=CacheSettings(case.cache),
            chunk=case.chunk,
            rows_per_prompt=case.group,
        )

    def _compile_rollout(self, temperature: float) -> Callable[[], Any]:
        import jax
        import jax.numpy as jnp

        from diffpo_jax.diffusion import sampler

        generate = sampler.make_generate(
            self.policy, self._settings(temperature), threshold="fixed", slots=self.case.slots
        )
        inputs = (self.params, self.prompts, jnp.float32(self.case.calls), self.keys)
        program, self.compile_seconds = timing.compiled(jax.jit(generate), *inputs)
        return lambda: jax.block_until_ready(program(*inputs))

    def _prepare_rollout(self) -> None:
        self.run = self._compile_rollout(self.case.temperature)
        self.rollout = self.run()
        nfe = self.rollout.nfe
        if int(nfe.min()) != self.case.calls or int(nfe.max()) != self.case.calls:
            raise DisagreementError(f"{self.case.name}: {nfe} calls, not {self.case.calls}.")

    def _prepare_update(self) -> None:
        import jax
        import jax.numpy as jnp

        from diffpo_jax.arrays import rng
        from diffpo_jax.config import LikelihoodConfig, ObjectiveConfig, OptimizerConfig
        from diffpo_jax.diffusion import likelihood
        from diffpo_jax.rl import optimizer as optimizers
        from diffpo_jax.rl import update

        case, groups, key = self.case, ("denoiser",), rng.key_for(SEED, "draws")
        self.rollout = self._compile_rollout(1.0)()
        self.advantage = jax.random.normal(key, (case.rows,))
        scoring = LikelihoodConfig(
            anchors=case.anchors, prompt_masking=0.0, temperature=1.0, keep_mask=True
        )
        self.draws = likelihood.draw(key, self.rollout, self.prompts, scoring)
        optimizer = optimizers.make_optimizer(
            OptimizerConfig(
                denoiser_lr=RATE,
                warmup=0,
                beta1=BETAS[0],
                beta2=BETAS[1],
                weight_decay=WEIGHT_DECAY,
                max_grad_norm=MAX_NORM,
            ),
            groups,
            1,
        )
        step = update.make_update(
            self.policy,
            optimizer,
            scoring,
            ObjectiveConfig(weights="none"),
            groups=groups,
            settings=self._settings(1.0),
            micro_batch=case.micro_batch,
        )
        batch = update.Batch(self.prompts, self.rollout, self.advantage, self.draws, None, None)
        # A copy, because each call donates its state.
        trained = jax.tree.map(jnp.copy, {"denoiser": self.params["denoiser"]})
        state = update.init_state(trained, optimizer)
        frozen = {"threshold": self.params["threshold"]}
        program, self.compile_seconds = timing.compiled(
            jax.jit(step, donate_argnums=0), state, frozen, batch
        )
        self.temporary_bytes = int(program.memory_analysis().temp_size_in_bytes)

        def run() -> float:
            nonlocal state
            state, metrics = jax.block_until_ready(program(state, frozen, batch))
            return float(metrics["grad_norm/denoiser"][0])

        self.run = run
        self.gradient_norm = run()

    def logits(self) -> Any:
        """Returns the logits [B L V] of all-mask completions."""
        import jax
        import jax.numpy as jnp

        from diffpo_jax.diffusion.denoise import denoise

        def all_mask(params):
            state = jnp.full((self.case.rows, self.case.length), self.mask_id, jnp.int32)
            return self.policy.logits(
                params, denoise(self.policy, params, self.prompts, state).hidden
            )

        return jax.device_get(jax.jit(all_mask)(self.params))

    def anchored_states(self) -> tuple[list[Any], list[Any]]:
        """Returns the completion at each anchor, and the tokens that it scores."""
        import jax

        from diffpo_jax.diffusion import likelihood

        tokens, calls = self.rollout.tokens, self.rollout.commit_call
        index, anchors = likelihood.anchor_index(calls, self.draws.anchors), self.draws.anchors
        states = [likelihood.state_at(tokens, calls, call, self.mask_id) for call in anchors.T]
        return jax.device_get((states, [index == j for j in range(len(states))]))


class _Theirs:
    """A case in PyTorch, with the weights and inputs of `ours`.

    `run` runs it once and returns the completions, or an update's gradient norm.
    """

    def __init__(self, rival: str, ours: _Ours, directories: dict[str, pathlib.Path]):
        import jax

        self.rival, self.ours, self.directories = rival, ours, directories
        self.case = ours.case
        self.denoiser = jax.device_get(ours.params["denoiser"])
        self.prompts = _tensor(ours.prompts.tokens).long()
        self.network = self._network()
        if self.case.anchors:
            self.run = self._update()
        else:
            self.run = functools.partial(self._sampler(), self.prompts)

    def check(self) -> str | None:
        """Runs this side once, and returns what agrees with the other's first run, for the table.

        Equal tokens are reported, not required: after one near-tie two completions differ for good,
        and Fast-dLLM's prefix cache is another approximation than this package's.

        Raises:
          DisagreementError: logits or gradient norms differ by more than the tolerance.
        """
        import numpy as np

        self._check_logits()
        result = self.run()
        if self.case.anchors:
            return self._check_gradient(result)
        if self.case.temperature:
            return None
        equal = np.mean(result.numpy() == np.asarray(self.ours.rollout.tokens))
        return f"{equal:.1%} of tokens"

    def temporary_bytes(self) -> int | None:
        """Returns by how much an update raises the peak of this process's memory; None if unknown.

        Gradients count; parameters and the optimiser's state, which exist before it, do not.
        """
        if not self.case.anchors:
            return None
        self.optimizer.zero_grad(set_to_none=True)
        return _peak_rise(self.run)

    def _network(self) -> Any:
        from benchmarks import checkouts, torch_llada

        if self.rival in ("lean", "lean_k2"):
            sizes = self._sizes()
            return torch_llada.from_jax(
                self.denoiser, heads=sizes["heads"], theta=sizes["theta"], eps=sizes["eps"]
            )
        if self.rival in ("fast_dllm", "dllm_fast"):
            return None  # they have their own
        return checkouts.llada_network(self.directories["dllm"], self.denoiser, self._sizes())

    def _sizes(self) -> dict[str, Any]:
        model, size = self.ours.model, self.case.network
        others = {"theta": model.rope_theta, "eps": model.norm_eps, "mask_id": self.ours.mask_id}
        return size._asdict() | others

    def _sampler(self) -> Callable[[Any], Any]:
        from benchmarks import checkouts, torch_llada

        case, mask_id, directories = self.case, self.ours.mask_id, self.directories
        how = {
            "length": case.length,
            "block": case.block or case.length,
            "calls": case.calls,
            "temperature": case.temperature,
        }
        if self.rival == "llada":
            return checkouts.llada_sampler(directories["llada"], self.network, mask_id, how)
        if self.rival == "dllm":
            return checkouts.dllm_sampler(directories["dllm"], self.network, mask_id, how)
        if self.rival in ("fast_dllm", "dllm_fast"):
            make = getattr(checkouts, f"{self.rival}_sampler")
            directory = directories[RIVALS[self.rival].needs[0]]
            return make(directory, self.denoiser, self._sizes(), CACHES[case.cache], how)
        return lambda prompts: torch_llada.generate_by_confidence(
            self.network, prompts, case.length, case.calls, case.temperature, mask_id
        )

    def _update(self) -> Callable[[], float]:
        import torch

        loss, parameters = self._loss(), list(self.network.parameters())
        self.optimizer = torch.optim.AdamW(
            parameters, lr=RATE, betas=BETAS, weight_decay=WEIGHT_DECAY
        )
        rows, size = self.case.rows, self.case.their_micro_batch or self.case.rows

        def update() -> float:
            self.optimizer.zero_grad(set_to_none=True)
            for start in range(0, rows, size):
                (loss(slice(start, start + size)) * (size / rows)).backward()
            norm = torch.nn.utils.clip_grad_norm_(parameters, MAX_NORM)
            self.optimizer.step()
            return float(norm)

        return update

    def _loss(self) -> Callable[[slice], Any]:
        """Returns the mean loss of some rows."""
        from benchmarks import checkouts, torch_llada

        completion = _tensor(self.ours.rollout.tokens).long()
        advantage = _tensor(self.ours.advantage)
        if self.rival == "d1":
            d1 = checkouts.d1_loss(self.directories["d1"], self.network, self.ours.mask_id)
            return lambda rows: d1(self.prompts[rows], completion[rows], advantage[rows])
        states, scored = ([_tensor(x) for x in some] for some in self.ours.anchored_states())

        def anchored(rows: slice) -> Any:
            return torch_llada.anchored_loss(
                self.network,
                self.prompts[rows],
                [x[rows].long() for x in states],
                [x[rows] for x in scored],
                completion[rows],
                advantage[rows],
            )

        return anchored

    def _check_logits(self) -> None:
        import numpy as np
        import torch

        if self.network is None:
            return  # their tokens are compared
        masks = torch.full((self.case.rows, self.case.length), self.ours.mask_id)
        tokens = torch.cat([self.prompts, masks], dim=1)
        with torch.no_grad():
            lean = self.rival in ("lean", "lean_k2")
            out = self.network(tokens, self.case.length) if lean else self.network(tokens).logits
        theirs, ours = (x[:, -self.case.length :, :-1] for x in (out.numpy(), self.ours.logits()))
        difference = float(np.abs(theirs - ours).max() / np.abs(ours).max())
        if not difference <= LOGITS_TOLERANCE:
            raise DisagreementError(
                f"{_row_name(self.case, self.rival)}: logits differ by {difference:.2e} of the "
                f"largest, more than {LOGITS_TOLERANCE}."
            )

    def _check_gradient(self, theirs: float) -> str | None:
        if self.case.anchors > 1 and self.rival == "d1":
            return None  # another gradient
        ours = self.ours.gradient_norm
        difference = abs(ours - theirs) / ours
        if not difference <= GRADIENT_TOLERANCE:
            raise DisagreementError(
                f"{_row_name(self.case, self.rival)}: gradient norms are {ours} and {theirs}, "
                f"further apart than {GRADIENT_TOLERANCE}."
            )
        return f"gradient norm to {difference:.0e}"


def _without_mask(denoiser: dict[str, Any], mask_id: int) -> dict[str, Any]:
    """Returns weights with which the mask token has probability 0 everywhere, as after training.

    This package never draws it, published samplers do not rule it out.  The first channel of the
    residual stream becomes a constant, and only the mask's logit reads it, with a large negative
    weight.
    """
    blocks = denoiser["blocks"]
    unembed = (SHARPEN * denoiser["unembed"]).at[0].set(0.0).at[:, mask_id].set(0.0)
    return denoiser | {
        "embed": denoiser["embed"].at[:, 0].set(1.0),
        "blocks": blocks | {name: blocks[name].at[..., 0].set(0.0) for name in ("o", "down")},
        "unembed": unembed.at[0, mask_id].set(-1000.0),
    }


def _tensor(x: Any) -> Any:
    import numpy as np
    import torch

    return torch.from_numpy(np.array(x))


def _peak_rise(run: Callable[[], Any]) -> int | None:
    """Returns the bytes by which a call raises this process's peak memory; None if not on Linux."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that is reused would not count
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _status("VmRSS")
        run()
        return _status("VmHWM") - before
    except OSError:
        return None


def _status(field: str) -> int:
    """Returns a size in /proc/self/status, in bytes."""
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)[1]) * 1024


if __name__ == "__main__":
    main()
