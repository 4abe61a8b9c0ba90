"""Whole runs of the smallest size: every method and mode by overrides alone, and failures."""

import dataclasses
import json
import pathlib
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import reference
import safetensors.numpy
from least import LEAST, least

from diffpo_jax import tasks
from diffpo_jax.config import DIALS, convert, presets
from diffpo_jax.evaluation import evaluator
from diffpo_jax.report import build
from diffpo_jax.rl import collapse_guard
from diffpo_jax.run import again, complete, experiment, export, points, setup, trained
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import layout, lock, metrics

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from configs import sudoku

# An adapter that learns: partly right grids are rewarded, so that there are advantages.  All tests
# with an adapter use these values, so that their programs are compiled once.
ADAPTER = {"lora.rank": 2, "task.reward": "cell_fraction", "rl.objective.kl": 0.1}


BASE = {
    "logging.profile": (2,),
    "evaluation.base_rules": ("entropy_bounded", "confidence"),
    "evaluation.confidences": (0.3, 0.9),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A finished run whose base model other tests use."""
    path = tmp_path_factory.mktemp("base")
    experiment.run(least(**BASE), str(path))
    return path


def contents(root, *apart):
    """The bytes of every file below a directory, without those below `apart`."""
    files = [x for x in root.rglob("*") if x.is_file() and x.name != lock.NAME]
    own = [x for x in files if not any(x.is_relative_to(root / name) for name in apart)]
    return {x: x.read_bytes() for x in own}


def test_a_run_writes_everything_it_should(base):
    summary = json.loads((base / "report/summary.json").read_text())
    assert [p["gamma"] for p in summary["trained"]["frontier"]] == [0.1, 1.0]
    assert {name: [p["confidence"] for p in points] for name, points in
            summary["base"]["rules"].items()} == {"confidence": [0.3, 0.9]}  # fmt: skip
    assert set(summary["gains"]["rules"]["confidence"]["learned"]) == {"gain", "low", "high"}
    with np.load(base / "report/outcomes.npz") as outcomes:
        assert "confidence/0.3" in outcomes["points"]
    assert summary["prompts"] == 16
    assert summary["denoiser_calls"]["pretrain"] == 3 * 32
    assert set(summary["wall_seconds"]) == {"pretrain", "rl", "evaluation"}
    assert set(summary["scores"]["learned"]) == {"cell_accuracy"}
    assert sum(level["prompts"] for level in summary["by_difficulty"]["levels"]) == 16
    for name in ("frontier.png", "learning_curves.png", "by_difficulty.png", "frontier.csv"):
        assert (base / "report" / name).stat().st_size > 0
    lines = metrics.read(base / "metrics.jsonl")
    assert [(x["stage"], x["step"]) for x in lines] == (
        [("pretrain", i) for i in (1, 2, 3)] + [("rl", i) for i in (0, 1, 2)]
    )
    last = lines[-1]
    rollouts = sum(x["nfe"] for x in lines[-2:]) * 8
    assert last["calls/rollout"] == pytest.approx(rollouts)
    assert last["calls/update"] == 2 * 8 * 2  # steps, rows, K: one inner update scores nothing
    assert last["time/tokens_per_second_per_chip"] > 0
    parts = [last[f"time/{part}"] for part in ("rollout", "score", "grade", "update")]
    assert min(parts) > 0 and sum(parts) <= last["time/seconds"]
    assert "time/mfu" not in last  # no peak of this machine's processor is known
    assert last["parity/0.2%"] == 1.0
    assert [x.name for x in (base / "profile").iterdir()] == ["step-000002"]
    assert list((base / "profile").rglob("*.xplane.pb"))
    samples = (base / "samples/rl-000001.jsonl").read_text().splitlines()
    assert len(samples) == 8
    row = json.loads(samples[0])
    assert row["nfe"] == max(row["commit_call"])
    assert row["forced"] is False and row["layout"]["columns"] == 4
    assert len(row["probability"]) == len(row["entropy"]) == 16
    assert all(0 <= p <= 1 for p in row["probability"])
    found = summary["by_difficulty"]
    assert (found["fixed"]["model"], found["fixed"]["dial"]) == ("trained", "gamma")
    assert all({"base_nfe", "fixed_accuracy"} <= level.keys() for level in found["levels"])


def test_several_completions_of_a_prompt(base, tmp_path):
    several = {"evaluation.samples": 2, "evaluation.temperature": 1.0}
    summary = experiment.run(least(init_from=str(base), **several), str(tmp_path))
    assert summary["prompts"] == 16
    assert sum(level["prompts"] for level in summary["by_difficulty"]["levels"]) == 16
    for point in (summary["trained"]["learned"], *summary["base"]["frontier"]):
        assert point["pass@1"] == pytest.approx(point["accuracy"])
        assert point["pass@2"] >= point["pass@1"]
    rows = [json.loads(x) for x in (tmp_path / "samples/test.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows[::2]] == [row["id"] for row in rows[1::2]]
    assert len({row["id"] for row in rows}) == 16
    # Each is drawn by itself.
    assert [row["completion"] for row in rows[::2]] != [row["completion"] for row in rows[1::2]]


def test_sft_on_demonstrations_with_their_own_lengths(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"q": f"{i}", "a": ["7" * 40]}) + "\n" for i in range(9)))
    where = "pretrain.demonstrations"
    own = {
        f"{where}.source": str(rows),
        f"{where}.prompt": "{q}",
        f"{where}.answer": "{a[0]}",
        f"{where}.prompt_length": 2,
        f"{where}.length": 38,
        "model.positions": 40,
        "pretrain.steps": 60,
        "pretrain.learning_rate": 1e-2,
        "pretrain.decay": "linear",
        "rl.steps": 0,
    }
    with pytest.raises(UserError, match=r"config\.pretrain\.demonstrations\.length=38"):
        experiment.run(least(**own), str(tmp_path / "refused"))
    summary = experiment.run(least(**own, **{f"{where}.truncate": True}), str(tmp_path / "run"))
    assert summary["denoiser_calls"]["pretrain"] == 60 * 32
    # It has learned to write sevens, not Sudoku.
    lines = metrics.read(tmp_path / "run/metrics.jsonl")
    assert [x for x in lines if x["stage"] == "pretrain"][-1]["masked_accuracy"] > 0.95
    assert summary["base"]["frontier"][0]["accuracy"] == 0.0


def test_sft_may_see_easy_examples_alone(tmp_path):
    config = least(**{"pretrain.demonstrations.difficulty": (5.0, 7.0)})
    task = tasks.make_task(config.task, tmp_path)
    shown = setup.sft_examples(config, task, None)
    known = task.examples("train")
    assert [example.id for example in shown] == [
        example.id for example in known if 5 <= example.prompt.count("0") <= 7
    ]
    assert 0 < len(shown) < len(known)
    for changes in ({"pretrain.demonstrations.difficulty": None}, {"pretrain.steps": 0}):
        whole = setup.sft_examples(least(**changes), task, None)
        assert [example.id for example in whole] == [example.id for example in known]
    where = "pretrain.demonstrations"
    few = least(**{f"{where}.difficulty": (5.0, 7.0), f"{where}.count": 3})
    first = [example.id for example in setup.sft_examples(few, task, None)]
    assert first == [example.id for example in shown[:3]]
    first = setup.sft_examples(least(**{f"{where}.count": 3}), task, None)
    assert [example.id for example in first] == [example.id for example in known[:3]]
    with pytest.raises(UserError, match=rf"count={len(known) + 1}, but there are only"):
        setup.sft_examples(least(**{f"{where}.count": len(known) + 1}), task, None)
    none = least(**{"pretrain.demonstrations.difficulty": (15.0, 16.0)})
    with pytest.raises(UserError, match="leaves no training example: those of sudoku have 4 to 14"):
        setup.sft_examples(none, task, None)


def test_the_same_command_again_changes_nothing(base, capsys):
    before = contents(base)
    # The last does not change what is evaluated.
    for changes in ({}, {"evaluation.batch": 8}):
        summary = experiment.run(least(**BASE, **changes), str(base))
        assert summary == json.loads((base / "report/summary.json").read_text())
        out, err = capsys.readouterr()
        assert "gain at equal calls" in out and f"report: {base / 'report'}" in out
        assert err == f"{base} is finished; nothing is left to do.\n"
    assert contents(base) == before


def test_other_settings_of_the_evaluation_leave_the_runs_report_alone(base, tmp_path, capsys):
    run, puzzles = tmp_path / "run", tmp_path / "few.csv"
    shutil.copytree(base, run)
    pages = ("report/index.html", "report/index_figures")
    build.write(build.gather([str(run)]), run / pages[0])
    before = contents(run, *pages)
    rows = ["Puzzle,Solution", "1234341221434320,1234341221434321"]
    few = {"task.test_file": str(puzzles), "evaluation.base_rules": ()}

    def evaluate(*more):
        puzzles.write_text("\n".join([*rows, *more]))
        summary = experiment.run(least(**BASE | few), str(run))
        (own,) = (run / "evaluations").iterdir()
        assert summary == json.loads((own / "report/summary.json").read_text())
        assert contents(run, *pages, "evaluations") == before
        return summary, own, capsys.readouterr()[1].splitlines()

    summary, own, lines = evaluate()
    assert summary["prompts"] == 1
    assert own.name.startswith("base_rules-none-test_file-few.csv-")
    assert lines[0] == (
        f"{run} is finished; evaluation with evaluation.base_rules=[], task.test_file={puzzles}: "
        f"{own}"
    )
    page = (run / pages[0]).read_text()
    assert own.name in page and f"task.test_file={puzzles}" in page
    # Again it is only printed, unless it was killed before its end or the file has changed.
    assert len(evaluate()[2]) == 1
    (own / "report/summary.json").unlink()
    second, _, lines = evaluate()
    assert len(lines) > 1
    assert second["trained"] == summary["trained"]
    assert not (own / "points").exists()
    third, _, lines = evaluate("0000341221434321,1234341221434321")
    assert "the test examples have changed; it is evaluated again" in lines[1]
    assert third["prompts"] == 2


def test_an_evaluation_that_was_ended_keeps_its_points(base, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(base, run)
    few = least(**BASE | {"evaluation.base_rules": (), "evaluation.examples": 8})
    with monkeypatch.context() as patch:
        made = []

        def end(graded, rule, dial=None, samples=1):
            made.append(dial)
            if len(made) == 3:
                raise KeyboardInterrupt
            return point(graded, rule, dial, samples)

        point = evaluator.point
        patch.setattr(evaluator, "point", end)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(few, str(run))
    (own,) = (run / "evaluations").iterdir()
    kept = sorted(path.name for path in (own / "points").iterdir())
    assert kept == ["base-0.1.npz", "base-1.0.npz", "trained-0.1.npz"]
    (own / "points" / kept[1]).write_bytes(b"damaged")
    made.clear()
    with monkeypatch.context() as patch:
        patch.setattr(points.Points, "_write", lambda self, path, rollout: made.append(path.name))
        summary = experiment.run(few, str(run))
    assert made == ["base-1.0.npz", "trained-1.0.npz", "learned.npz"]
    shutil.rmtree(run / "evaluations")
    whole = experiment.run(few, str(run))
    for one in (summary, whole):
        del one["wall_seconds"]
    assert summary == whole


def test_more_steps_train_on_and_then_write_the_runs_own_report(base, tmp_path):
    """A report of fewer steps, with a kill before the end, does not pass for the new one."""
    shutil.copytree(base, tmp_path / "run")
    workdir = layout.Workdir(tmp_path / "run")
    longer = least(**BASE, **{"rl.steps": 3})
    assert again.finished(workdir, least(**BASE))
    assert not again.finished(workdir, longer)
    (workdir.rl / "3").mkdir()  # trained, but not evaluated
    assert not again.finished(workdir, longer)


@pytest.mark.slow
def test_another_method_and_mode_by_overrides_alone(base, tmp_path):
    method, mode = "diffpo_no_is", "sampler"
    config = least(method=method, mode=mode, init_from=str(base))
    summary = experiment.run(config, str(tmp_path))
    assert (summary["method"], summary["mode"]) == (method, mode)
    assert summary["trained"]["learned"] is not None
    # Both runs have the same base model, so its frontier is the same.
    other = json.loads((base / "report/summary.json").read_text())
    assert summary["base"]["frontier"] == other["base"]["frontier"]
    last = metrics.read(tmp_path / "metrics.jsonl")[-1]
    assert "grad_norm/threshold" in last
    assert "grad_norm/denoiser" not in last


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampler",
    [
        {"rule": "top_k", "steps": 4, "block_length": 8, "cache": "dual", "slots": 4},
        {"rule": "confidence", "confidence": 0.3, "fallback": "leftmost", "stop_at_end": True},
    ],
)
def test_runs_by_other_rules(base, tmp_path, sampler):
    changes = {f"sampler.{name}": value for name, value in sampler.items()}
    config = least(mode="model", init_from=str(base), **changes)
    summary = experiment.run(config, str(tmp_path))
    assert (summary["rule"], summary["dial"]) == (config.sampler.rule, DIALS[config.sampler.rule])
    points = summary["trained"]["frontier"]
    assert [point[summary["dial"]] for point in points] == list(config.dials)
    last = metrics.read(tmp_path / "metrics.jsonl")[-1]
    if config.sampler.rule == "top_k":
        assert [point["nfe"] for point in points] == list(config.dials)
        assert last["nfe"] == 4
    header = (tmp_path / "report/frontier.csv").read_text().splitlines()[0]
    assert header.split(",")[1] == summary["dial"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {
            "rl.likelihood.anchors": 4,
            "rl.likelihood.schedule": "even",
            "rl.objective.ratio": "sequence",
            "rl.objective.kl": 0.1,
            "rl.objective.kl_in": "reward",
            "rl.inner_updates": 2,
        },
        {
            "rl.likelihood.anchors": "all",
            "rl.likelihood.calls": 2,
            "rl.objective.advantage": "decoupled",
        },
        {
            "rl.objective.selection": "exact",
            "threshold.scope": "call",
            "rl.likelihood.anchors": "all",
        },
        {"rl.objective.selection": "exact", "mode": "sampler", "rl.objective.aggregation": "token"},
    ],
)
def test_objectives_by_overrides_alone(base, tmp_path, changes):
    # Partly right grids are rewarded, so that there is something to learn.
    config = least(init_from=str(base), **{"task.reward": "cell_fraction"}, **changes)
    experiment.run(config, str(tmp_path))
    lines = [x for x in metrics.read(tmp_path / "metrics.jsonl") if x["stage"] == "rl"][1:]
    for line in lines:
        assert np.isfinite(line["objective"])
        assert line["skipped"] == 0
        exact = config.rl.likelihood.anchors == 0 and config.mode != "sampler"
        if exact:  # the sampler's own numbers, before any update of the step
            assert line["parity/1%"] == 1
            assert line["kl/sequence"] < 1e-6
        if config.rl.objective.selection == "exact":
            assert line["selection/logprob"] < 0
        if config.rl.objective.kl:
            # Rollouts of the base model itself at first, then of one that has moved away from it.
            assert abs(line["kl/reward"]) < (1e-5 if line["step"] == 1 else 1)
    if config.mode != "sampler":
        rows = config.rl.prompts * config.rl.group
        assert lines[0]["calls/update"] > rows
        if config.rl.inner_updates == 2:
            # Two updates, the old scores, and two models' scores for the price in the reward.
            assert lines[0]["calls/update"] == rows * config.rl.likelihood.anchors * 5


@pytest.mark.slow
def test_the_guard_stops_a_run_until_the_action_changes(base, tmp_path, monkeypatch):
    made_up = {"sliding": "sliding, as made up here"}
    monkeypatch.setattr(collapse_guard, "_sliding", lambda *_: made_up)
    changes = {"init_from": str(base), "rl.steps": 3, "rl.guard.window": 1, "checkpoint.every": 9}
    changes["task.reward"] = "cell_fraction"
    stop, warn = (least(**changes, **{"rl.guard.action": x}) for x in ("stop", "warn"))
    for _ in range(2):  # the same command again is stopped again
        with pytest.raises(UserError, match=r"rl step 1: stopped by config\.rl\.guard: sliding"):
            experiment.run(stop, str(tmp_path / "stopped"))
    experiment.run(warn, str(tmp_path / "stopped"))
    experiment.run(warn, str(tmp_path / "warned"))
    ours, theirs = (metrics.read(tmp_path / x / "metrics.jsonl") for x in ("stopped", "warned"))
    assert next(x for x in ours if "guard/sliding" in x)["step"] == 1
    for mine, other in zip(ours, theirs, strict=True):
        assert {k: v for k, v in mine.items() if not k.startswith("time/")} == {
            k: v for k, v in other.items() if not k.startswith("time/")
        }


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["d1", "justgrpo"])
def test_other_algorithms_by_their_presets(base, tmp_path, preset):
    values = sudoku.get_config(f"{preset},smoke")
    # The base knows next to nothing: only without a bound does it commit more than one a call.
    changes = {"init_from": str(base), "evaluation.gammas": (0.1, 100.0)}
    own = {name: value for name, value in LEAST.items() if not name.startswith("sampler.")}
    values.update_from_flattened_dict(own | changes)
    config = convert.from_config_dict(values)
    summary = experiment.run(config, str(tmp_path))
    last = metrics.read(tmp_path / "metrics.jsonl")[-1]
    assert summary["mode"] == "model"
    # Two tokens a call; or one, and evaluations decode in parallel whatever the rollouts were.
    assert last["nfe"] == {"d1": 8, "justgrpo": 16}[preset]
    assert ("kl/reference" in last) == (preset == "d1")
    assert ("grad_norm/denoiser" in last, "grad_norm/threshold" in last) == (True, False)
    assert summary["trained"]["learned"] is None
    nfe = [point["nfe"] for point in summary["trained"]["frontier"]]
    assert nfe == [8] if preset == "d1" else min(nfe) < 8
    assert last["calls/update"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["lightning", "trace"])
def test_algorithms_of_block_diffusion_by_their_presets(tmp_path, preset):
    """On a model with attention by blocks, as an arm of a study would run it."""
    values = sudoku.get_config(f"smoke,blocks,{preset}")
    own = {name: value for name, value in LEAST.items() if not name.startswith("sampler.")}
    # Partly right grids are rewarded, and a base that knows next to nothing writes some tokens at
    # once, so that there is something to learn.
    changes = {"rl.group": 4, "task.reward": "cell_fraction", "sampler.confidence": 0.2}
    values.update_from_flattened_dict(own | changes)
    config = convert.from_config_dict(values)
    summary = experiment.run(config, str(tmp_path))
    assert (summary["mode"], summary["dial"]) == ("model", "confidence")
    assert [x["confidence"] for x in summary["trained"]["frontier"]] == list(config.dials)
    lines = [x for x in metrics.read(tmp_path / "metrics.jsonl") if "grad_norm/denoiser" in x]
    assert [line["step"] for line in lines] == [1, 2]
    rows = config.rl.prompts * config.rl.group
    for line in lines:
        assert np.isfinite(line["objective"])
        assert line["skipped"] == 0
        # A pass for each of a block's positions; or, all masked, one by the model, one by its base.
        assert line["calls/update"] == line["step"] * rows * {"trace": 4, "lightning": 2}[preset]
        assert ("kl/reference" in line) == (preset == "lightning")
        if preset == "trace":  # scored in the states that tokens were drawn from
            assert line["parity/1%"] == 1
            assert line["kl/sequence"] < 1e-6


@pytest.mark.parametrize("preset", presets.ALGORITHMS)
def test_every_algorithm_preset_gives_a_valid_configuration(preset):
    config, default = (convert.from_config_dict(sudoku.get_config(x)) for x in (preset, "default"))
    assert config != default
    # s1k's rows are longer, and what lora freezes is bfloat16.
    own = {name: getattr(default.model, name) for name in ("positions", "param_dtype")}
    assert dataclasses.replace(config.model, **own) == default.model


@pytest.mark.slow
def test_a_sharded_run_gives_the_same_numbers(base, tmp_path):
    config = least(**{"init_from": str(base), "mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 1})
    experiment.run(config, str(tmp_path))
    ours, theirs = (
        [x for x in metrics.read(p / "metrics.jsonl") if x["stage"] == "rl"]
        for p in (tmp_path, base)
    )
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("accuracy", "nfe", "reward", "objective", "kl/token", "gamma/p50"):
            if name in other:
                assert mine[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5), name


def test_a_loss_that_is_not_finite_stops_and_says_that_there_is_no_checkpoint(base, tmp_path):
    # Partly right grids are rewarded, so that there are advantages to learn from.
    changes = {"init_from": str(base), "task.reward": "cell_fraction", "rl.steps": 6}
    config = least(**changes, **{"rl.optimizer.denoiser_lr": 1e38, "checkpoint.every": 5})
    with pytest.raises(
        UserError, match=r"rl step \d: .*=(nan|inf).* There is no checkpoint yet in"
    ):
        experiment.run(config, str(tmp_path))
    assert np.all([x["step"] < 6 for x in metrics.read(tmp_path / "metrics.jsonl")])


def test_pretraining_that_diverges_stops(tmp_path):
    config = least(**{"pretrain.learning_rate": 1e38, "pretrain.max_grad_norm": 1e38})
    with pytest.raises(UserError, match=r"pretrain step \d: .*checkpoint.* Lower"):
        experiment.run(config, str(tmp_path))


def test_rl_starts_from_exported_weights(base, tmp_path):
    out = tmp_path / "weights"
    export.export(str(base), str(out), model="base")
    lineage = json.loads((out / "lineage.json").read_text())
    assert lineage["config"]["model"]["width"] == least().model.width
    fields = {"model.weights": str(out), "pretrain.steps": 0, "model.ff": 24}
    summary = experiment.run(least(**fields), str(tmp_path / "run"))
    first = json.loads((base / "report/summary.json").read_text())
    assert summary["base"]["frontier"] == first["base"]["frontier"]
    assert summary["denoiser_calls"]["pretrain"] == 0
    # Sizes are the checkpoint's, whatever was asked for.
    assert json.loads((tmp_path / "run/config.json").read_text())["model"]["ff"] == least().model.ff
    with pytest.raises(UserError, match="exists already"):
        export.export(str(base), str(out), model="base")
    with pytest.raises(UserError, match="holds no run"):
        export.export(str(tmp_path / "nowhere"), str(tmp_path / "x"), model="base")


def test_rl_through_an_adapter(base, tmp_path):
    """The base model stays as it is; checkpoints hold the adapter and the head alone."""
    config = least(init_from=str(base), **ADAPTER)
    experiment.run(config, str(tmp_path / "run"))
    saved = tmp_path / "run" / "checkpoints" / "rl" / "2" / "params"
    with ocp.StandardCheckpointer() as reader:
        assert set(reader.metadata(saved).item_metadata.tree) == {"adapter", "threshold"}
    last = metrics.read(tmp_path / "run" / "metrics.jsonl")[-1]
    assert last["update_ratio/adapter"] > 0
    assert "update_ratio/denoiser" not in last
    assert last["kl/reference"] > 0
    written = complete.complete(
        config, str(tmp_path / "run"), ["1234341221434300"], model="trained", dial=0.1
    )
    export.export(str(tmp_path / "run"), str(tmp_path / "merged"), model="trained")
    export.export(str(tmp_path / "run"), str(tmp_path / "peft"), model="trained", adapter=True)
    described = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (described["r"], described["base_model_name_or_path"]) == (2, str(base))
    with pytest.raises(UserError, match="trained none"):
        export.export(str(base), str(tmp_path / "none"), model="trained", adapter=True)
    fields = {"model.weights": str(tmp_path / "merged"), "pretrain.steps": 0, "rl.steps": 0}
    experiment.run(least(**fields), str(tmp_path / "again"))
    merged = complete.complete(
        least(**fields), str(tmp_path / "again"), ["1234341221434300"], model="base", dial=0.1
    )
    assert merged[0].text == written[0].text
    np.testing.assert_allclose(merged[0].probabilities, written[0].probabilities, rtol=1e-4)


def test_a_changed_base_model_under_an_adapter_is_refused(base, tmp_path):
    export.export(str(base), str(tmp_path / "weights"), model="base")
    fields = {"model.weights": str(tmp_path / "weights"), "pretrain.steps": 0} | ADAPTER
    fields["model.quantized"] = "nf4"
    experiment.run(least(**fields, **{"rl.steps": 1}), str(tmp_path / "run"))
    file = next((tmp_path / "weights").glob("*.safetensors"))
    weights = safetensors.numpy.load_file(file)
    weights["model.transformer.ln_f.weight"] = weights["model.transformer.ln_f.weight"] + 1
    safetensors.numpy.save_file(weights, file, metadata={"format": "pt"})
    longer = least(**fields, **{"rl.steps": 2})
    others = r"config\.model\.weights=.*: the weights are not those with which the run began"
    with pytest.raises(UserError, match=others):
        experiment.run(longer, str(tmp_path / "run"))
    with pytest.raises(UserError, match=others):
        export.export(str(tmp_path / "run"), str(tmp_path / "merged"), model="trained")
    (tmp_path / "run" / "inputs.json").unlink()  # older versions did not write it
    with pytest.raises(UserError, match="step 1 was trained from another base model"):
        experiment.run(longer, str(tmp_path / "run"))


def test_reference_kernels_are_rounded_and_give_the_same_logits():
    policy, params = reference.tiny_policy(dtype="bfloat16", layers=2)
    config = least(**{"model.dtype": "bfloat16"})
    copy = trained.reference(params, config)
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, x in jax.tree_util.tree_leaves_with_path(copy)
        if x.dtype == jnp.float32
    ]
    assert {name.split("/")[-1] for name in names if "denoiser" in name} == {"scale", "embed"}
    assert any(name.startswith("threshold") for name in names)
    tokens, seen = jnp.arange(10).reshape(2, 5) % 5, jnp.ones((2, 5), bool)

    def logits(params):
        return policy.logits(params, policy.hidden(params, tokens, seen))

    np.testing.assert_array_equal(logits(copy), logits(params))
    without = dataclasses.replace(config, model=dataclasses.replace(config.model, positions=None))
    assert trained.reference(params, without)["denoiser"]["embed"].dtype == jnp.bfloat16


def test_a_base_model_of_another_run_can_be_quantised(base, tmp_path):
    """It is read at full precision and rounded; only the sampler can be trained over it."""
    few = {"init_from": str(base), "mode": "sampler", "model.quantized": "int8", "rl.steps": 0}
    summary = experiment.run(least(**few), str(tmp_path / "run"))
    assert len(summary["base"]["frontier"]) == 2
    with pytest.raises(UserError, match="Train an adapter"):
        experiment.run(least(**few | {"mode": "joint"}), str(tmp_path / "joint"))
    assert not (tmp_path / "joint").exists()


def test_sft_through_an_adapter_is_merged_before_rl(base, tmp_path):
    """Published weights, SFT and RL in one run; a later run reads the same base model."""
    export.export(str(base), str(tmp_path / "weights"), model="base")
    fields = {"model.weights": str(tmp_path / "weights"), "pretrain.warmup": 1} | ADAPTER
    summary = experiment.run(least(**fields), str(tmp_path / "run"))
    saved = tmp_path / "run" / "checkpoints" / "base" / "3" / "params"
    with ocp.StandardCheckpointer() as reader:
        assert set(reader.metadata(saved).item_metadata.tree) == {"adapter"}
    lines = metrics.read(tmp_path / "run" / "metrics.jsonl")
    losses = [line["loss"] for line in lines if line["stage"] == "pretrain"]
    assert len(losses) == 3
    again = {"init_from": str(tmp_path / "run"), "rl.steps": 0}
    other = experiment.run(least(**again), str(tmp_path / "other"))
    assert other["base"]["frontier"] == summary["base"]["frontier"]


def test_a_base_model_of_another_shape_is_refused(base, tmp_path):
    config = least(**{"init_from": str(base), "model.ff": 24})
    with pytest.raises(UserError, match=r"does not fit config\.model"):
        experiment.run(config, str(tmp_path))


def test_an_example_that_does_not_fit_is_found_before_training(tmp_path):
    config = least(**{"sampler.length": 8, "sampler.block_length": 8})
    with pytest.raises(UserError, match=r"config\.sampler\.length"):
        experiment.run(config, str(tmp_path))
    assert not (tmp_path / "checkpoints").exists()
