"""Finished runs of two arms, A and B, with per-prompt outcomes, as a study reads them."""

import numpy as np

from diffpo_jax.analysis.bootstrap import Outcomes
from diffpo_jax.analysis.runs import Run

PROMPTS = 40


def outcomes(seed, shift):
    """Two points of a base and of a trained model, and a learned one, on the same prompts.

    The trained model solves a share of `shift` more at each.
    """
    draw = np.random.default_rng(seed)
    rank = (draw.permutation(PROMPTS) + 0.5) / PROMPTS
    calls = draw.integers(-1, 2, PROMPTS)
    made = {}
    for name, more in (("base", 0.0), ("trained", shift)):
        for dial, (solved, nfe) in {"0.1": (0.8, 8), "1": (0.4, 4)}.items():
            made[f"{name}/{dial}"] = Outcomes((rank < solved + more) * 1.0, nfe + calls * 1.0)
    made["learned"] = Outcomes((rank < 0.6 + shift) * 1.0, 6 + calls * 1.0)
    return made


def finished(arm, seed, shift, *, learns=True, rule="entropy_bounded"):
    """A finished run of an arm."""
    points = outcomes(seed, shift)

    def point(name, **more):
        correct, nfe = points[name].correct.mean().item(), points[name].nfe.mean().item()
        return {"accuracy": correct, "nfe": nfe, "tokens_per_call": 16 / nfe} | more

    summary = {
        "base": {"frontier": [point(f"base/{d}", gamma=float(d)) for d in ("0.1", "1")]},
        "trained": {
            "frontier": [point(f"trained/{d}", gamma=float(d)) for d in ("0.1", "1")],
            "learned": point("learned") if learns else None,
        },
        "denoiser_calls": {"rollout": 1_000, "update": 500},
        "rule": rule,
        "dial": "gamma",
        "commit": "abc",
    }
    metrics = [
        {"stage": "pretrain", "step": 1, "loss": 1.0},
        {"stage": "rl", "step": 0, "eval/accuracy": 0.5, "eval/nfe": 6.0},
        *(
            {"stage": "rl", "step": step, "reward": 0.1 * step + seed}
            | {"calls/rollout": 100.0 * step * (1 + seed), "calls/update": 10.0 * step}
            | ({"eval/accuracy": 0.5 + shift, "eval/nfe": 6.0} if step % 2 == 0 else {})
            for step in range(1, 5)
        ),
    ]
    if not learns:
        del points["learned"]
    return Run(
        name=f"{arm}{seed}",
        task="sudoku",
        arm=arm,
        config={"seed": seed},
        info={},
        metrics=metrics,
        written=None,
        summary=summary,
        samples=[],
        samples_name="",
        outcomes=points,
    )


A = [finished("a", seed, 0.1) for seed in (0, 1, 2)]
B = [finished("b", seed, 0.05) for seed in (0, 1, 2)]
