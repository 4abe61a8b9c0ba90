"""Writes the directories of runs and of a study as real ones leave them, without running any."""

import json

from diffpo_jax.analysis.summary import compare_models
from diffpo_jax.config import DIALS, Config, convert

STEPS = 6
GRID = ((0.0, 0.9, 8.0), (0.1, 0.8, 4.0), (1.0, 0.2, 2.0))  # gamma, accuracy, calls


def config(**fields):
    """A resolved configuration; fields are given by dotted name, with "__" for the dot."""
    values = convert.as_config_dict(Config())
    flat = {"rl.steps": STEPS, "tokenizer.alphabet": "01234<&>", "task.name": "countdown"}
    flat |= {"sampler.prompt_length": 16, "sampler.length": 16}
    flat |= {name.replace("__", "."): value for name, value in fields.items()}
    values.update_from_flattened_dict(flat)
    return convert.from_config_dict(values)


def rows(seed, steps=STEPS):
    """Lines of metrics.jsonl in which no two numbers are equal."""
    made = [{"stage": "pretrain", "step": s, "loss": 2.0 - 0.1 * s} for s in (1, 2)]
    made.append({"stage": "rl", "step": 0, "eval/accuracy": 0.5, "eval/nfe": 5.0})
    for step in range(1, steps + 1):
        x = step + seed / 8
        row = {"stage": "rl", "step": step, "reward": x / 16, "accuracy": x / 32, "nfe": 5 + x / 64}
        row |= {"gamma/p5": x / 128, "gamma/p50": x / 100, "gamma/p95": x / 50}
        row |= {"kl/sequence": x, "groups/equal": 0.25, "weights/ess": 0.9}
        row |= {"kl/token/calls_1": x / 5, "kl/token/calls_2-3": x / 3, "kl/token/calls_16": x}
        row |= {"weights/ess/calls_1": 1 / x, "weights/truncated/calls_1": 0.01 * x}
        if step % 3 == 0:
            row |= {"eval/accuracy": 0.5 + x / 64, "eval/nfe": 4 + x / 64}
        made.append(row | {"time/seconds": 2.0})
    return made


def frontier(*points, dial="gamma"):
    """A frontier of points (dial, accuracy, calls) of 16 tokens."""
    return [
        {dial: x, "accuracy": y, "nfe": nfe, "tokens_per_call": 16 / nfe, "forced": 0.0}
        for x, y, nfe in points
    ]


def make_summary(base, trained, learned, **fields):
    """The content of summary.json; fields that are not given have some value.

    `rules` are the base's frontiers under other commit rules.
    """
    rules = fields.pop("rules", None)
    common = {
        "gains": {"grid": [], "learned": None, "mean": None},
        "wall_seconds": {"rl": 12.0},
        "denoiser_calls": {"rollout": 100},
        "prompts": 64,
        "seed": 0,
        "method": "diffpo",
        "mode": "model" if learned is None else "joint",
        "rule": "entropy_bounded",
        "dial": "gamma",
        "commit": "abc",
        "versions": {},
    } | fields
    base_dial = DIALS[common.get("base_rule", common["rule"])]
    return compare_models(base, trained, learned, common["dial"], rules, base_dial) | common


def summary(seed, *, learned=True, gain=0.05):
    """The summary of a run that solves 3 % more than its base at each point of `GRID`."""

    def interval(value):
        return {"gain": value, "low": value - 0.02, "high": value + 0.02}

    point = {"accuracy": 0.91 + seed / 1000, "nfe": 4.5, "tokens_per_call": 3.5, "forced": 0.0}
    point |= {"gamma_p5": 0.02, "gamma_p50": 0.08, "gamma_p95": 0.3}
    levels = [
        {"difficulty": d, "prompts": 2, "nfe": 2.0 * d, "accuracy": 1 / d}
        | {"gamma_p5": 0.1 / d, "gamma_p50": 0.2 / d, "gamma_p95": 0.4 / d}
        for d in (1.0, 2.0)
    ]
    by_difficulty = {"levels": levels, "log_gamma": -1.0, "calls": 1.0}
    return make_summary(
        frontier(*GRID),
        frontier(*((x, y + 0.03, nfe) for x, y, nfe in GRID)),
        point if learned else None,
        gains={
            "grid": [interval(0.03)] * len(GRID),
            "learned": interval(gain) if learned else None,
            "mean": interval(0.04),
        },
        seed=seed,
        by_difficulty=by_difficulty if learned else None,
    )


def samples():
    """Answers of the test split; the prompts hold characters that HTML must escape.

    Only the second has what older versions did not write.
    """
    layout = {"columns": 0, "box": 0, "given": [], "wrong": [2], "verdict": "& is wrong."}
    tokens = {"probability": [0.75] * 5, "entropy": [0.5] * 5}
    return [
        {
            "id": str(i),
            "prompt": f"<b>{i}</b>&",
            "completion": "<1&>",
            "correct": i != 2,
            "nfe": nfe,
            "gamma": 0.1,
            "commit_call": [1, nfe, 1, nfe, nfe],
        }
        | ({"forced": True, "layout": layout, **tokens} if i == 1 else {})
        for i, nfe in enumerate((3, 1, 2, 3))
    ]


def run(path, seed=0, *, finished=True, made=None, gain=0.05, **fields):
    """Writes the directory of a run, finished or not; returns its path as text."""
    path.mkdir(parents=True)
    configuration = config(seed=seed, **fields)
    (path / "config.json").write_text(convert.to_json(configuration))
    info = {"commit": "c0ffee" * 6, "versions": {"jax": "0"}, "python": "3", "cores": 2}
    info |= {"machine": "m", "mesh": "data 1", "command": ["main.py", "--config=a b"]}
    (path / "run_info.json").write_text(json.dumps(info))
    lines = rows(seed) if made is None else made
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    (path / "samples").mkdir()
    if finished:
        content = summary(seed, learned=configuration.mode != "model", gain=gain)
        (path / "report").mkdir()
        (path / "report" / "summary.json").write_text(json.dumps(content))
        text = "".join(json.dumps(row) + "\n" for row in samples())
        (path / "samples" / "test.jsonl").write_text(text)
    return str(path)


def study(path, *entries, results=None):
    """Writes study.json; an entry is (arm, seed, state), optionally with a task and an error."""
    path.mkdir(parents=True, exist_ok=True)
    listed = []
    for arm, seed, state, *more in entries:
        task, error = [*more, *("countdown", None)[len(more) :]]
        name = f"{arm}-{seed}"
        one = {"id": name, "arm": arm, "task": task, "seed": seed, "state": state}
        listed.append(one | {"error": error, "workdir": f"runs/{name}"})
    content = {"name": "s", "title": "Weights <or> none", "runs": listed}
    (path / "study.json").write_text(json.dumps(content))
    if results is not None:
        (path / "report").mkdir(exist_ok=True)
        (path / "report" / "results.json").write_text(json.dumps(results))
    return str(path)
