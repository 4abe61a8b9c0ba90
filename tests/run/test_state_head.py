"""Whole runs with the head by state: alone, jointly, on several devices, and afterwards."""

import json
import pathlib
import re
import shutil
import sys

import exported
import jax
import numpy as np
import pytest
from least import least

from diffpo_jax.arrays.types import Prompts
from diffpo_jax.config import check, convert
from diffpo_jax.data import tokenizers
from diffpo_jax.distributed import mesh as mesh_lib
from diffpo_jax.planning import programs
from diffpo_jax.run import base_model, complete, experiment, export, score, setup
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import checkpoints, layout, metrics

STATE = {
    "mode": "sampler",
    "sampler.rule": "state",
    "task.reward": "cell_fraction",  # a reward that such a small model gets at times
    "rl.head.minibatch": 16,
    "rl.head.minibatches": 2,
    "rl.head.recorded": 3,
    "rl.head.alone_first": 0.5,
    "rl.head.alone_last": 0.0,
    "evaluation.prices": (0.5, 2.0),
    "evaluation.base_rules": ("entropy_sum",),
}


def state(**changes):
    return least(**STATE | changes)


def rl_lines(path):
    return [x for x in metrics.read(path / "metrics.jsonl") if x["stage"] == "rl"]


def trained(path):
    config = layout.read_config(layout.Workdir(path))
    mesh = mesh_lib.make_mesh(config.mesh)
    policy = setup.make_policy(config, tokenizers.make_tokenizer(config.tokenizer), mesh)
    return jax.device_get(base_model.restore(str(path), "trained", policy, mesh))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    path = tmp_path_factory.mktemp("alone")
    experiment.run(state(), str(path))
    return path


@pytest.fixture(scope="module")
def joint(tmp_path_factory, alone):
    path = tmp_path_factory.mktemp("joint")
    experiment.run(state(mode="joint", init_from=str(alone)), str(path))
    return path


def test_a_run_of_the_head_alone(alone):
    summary = json.loads((alone / "report/summary.json").read_text())
    assert (summary["rule"], summary["base_rule"], summary["dial"]) == (
        "state",
        "entropy_sum",
        "price",
    )
    assert [point["price"] for point in summary["trained"]["frontier"]] == [0.5, 2.0]
    assert [point["gamma"] for point in summary["base"]["frontier"]] == [0.1, 1.0]
    assert summary["trained"]["learned"] is None and summary["head_flops"] > 0
    found = summary["by_difficulty"]
    assert (found["place"], found["unit"], found["log_gamma"]) == ("price 0.5", "empty cells", None)
    assert sum(level["prompts"] for level in found["levels"]) == 16
    assert found["fixed"]["model"] == "base"
    assert all({"base_accuracy", "fixed_nfe"} <= level.keys() for level in found["levels"])
    assert not any("gamma_p50" in level for level in found["levels"])
    assert summary["shown"] == {
        "steps": 3,
        "source": "sudoku",
        "difficulty": None,
        "count": None,
        "unit": "empty cells",
    }
    for line in rl_lines(alone)[1:]:
        assert "eval/reward" in line
        assert line["calls/update"] == 0  # no pass through the denoiser but the rollouts'
        assert 0.01 <= line["price/p5"] <= line["price/p95"] <= 4
        assert {"head/entropy", "head/k", "head/right_loss", "grad_norm/state_head"} <= line.keys()
        assert "objective" not in line
    text = (alone / "report/frontier.csv").read_text().splitlines()
    assert text[0].startswith("model,gamma,price,")
    params = trained(alone)
    assert set(params) == {"denoiser", "threshold", "state_head"}
    saved = checkpoints.latest_step(alone / "checkpoints/rl")
    kept = {x.name for x in (alone / f"checkpoints/rl/{saved}/params").iterdir()}
    assert not any("denoiser" in name for name in kept)


def test_the_head_learns_alone_before_the_denoiser_does(joint, alone):
    first, second = rl_lines(joint)[1:]
    assert first["calls/update"] == 0 and "objective" not in first
    assert second["calls/update"] > 0 and np.isfinite(second["objective"])
    ours, theirs = trained(joint), trained(alone)
    before, after = (jax.tree.leaves(p["denoiser"]) for p in (theirs, ours))
    assert any((a != b).any() for a, b in zip(before, after))


def test_at_the_end_the_head_learns_alone_again_from_argmax_tokens(alone, tmp_path):
    ends = {
        "rl.steps": 3,
        "rl.head.alone_first": 0.34,
        "rl.head.alone_last": 0.34,
        "rl.group": 4,
        "rl.optimizer.decay": "linear",
    }
    ends |= {"rl.optimizer.warmup": 0, "rl.micro_batch": None, "checkpoint.keep": 3}
    config = state(mode="joint", init_from=str(alone), **ends)
    assert list(config.denoiser_steps) == [2]
    experiment.run(config, str(tmp_path))
    assert [line["calls/update"] > 0 for line in rl_lines(tmp_path)[1:]] == [False, True, True]
    third = trained(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints/rl/3")
    second = trained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, second["denoiser"], third["denoiser"])
    heads = (jax.tree.leaves(p["state_head"]) for p in (second, third))
    assert any((a != b).any() for a, b in zip(*heads))
    # The same cells in the same calls are then filled in with the same digits.
    written = {}
    for line in (tmp_path / "samples/rl-000003.jsonl").read_text().splitlines():
        row = json.loads(line)
        written.setdefault((row["prompt"], *row["commit_call"]), []).append(row["completion"])
    assert max(map(len, written.values())) > 1
    assert all(len(set(texts)) == 1 for texts in written.values())


def test_no_step_left_for_the_denoiser_is_refused():
    with pytest.raises(UserError, match=r"leave none of config\.rl\.steps=2 for the denoiser"):
        check.check(state(mode="joint", **{"rl.head.alone_last": 0.5}))


def test_a_run_with_shares_of_its_steps_cannot_go_on():
    few, more = (state(mode="joint", **{"rl.steps": n}) for n in (5, 9))
    assert any("rl.steps" in line for line in convert.differences(few, more))
    few, more = (state(mode="joint", **{"rl.steps": n, "rl.head.alone_first": 0.0}) for n in (5, 9))
    assert not convert.differences(few, more)


def test_the_reward_is_the_tasks_minus_each_prompts_price(alone):
    lines = rl_lines(alone)[1:]
    for number, line in enumerate(lines, 1):
        rows = [
            json.loads(x)
            for x in (alone / f"samples/rl-{number:06d}.jsonl").read_text().split("\n")
            if x
        ]
        assert len({row["gamma"] for row in rows}) == 4  # prompts, of two rollouts each
        priced = [row["reward"] - row["gamma"] * row["nfe"] / 16 for row in rows]
        assert line["reward"] == pytest.approx(np.mean(priced), abs=1e-5)


@pytest.mark.parametrize("mode", ["sampler", "joint"])
def test_a_resumed_run_is_the_same(alone, tmp_path, mode):
    whole, changes = alone, {"mode": mode}
    if mode == "joint":
        whole = tmp_path / "whole"
        changes |= {"init_from": str(alone), "rl.head.alone_first": 0.0}
        experiment.run(state(**changes), str(whole))
    experiment.run(state(**changes, **{"rl.steps": 1}), str(tmp_path))
    experiment.run(state(**changes), str(tmp_path))
    for ours, theirs in zip(rl_lines(tmp_path), rl_lines(whole), strict=True):
        shared = ours.keys() & theirs.keys()
        assert {k: ours[k] for k in shared if "time/" not in k} == {
            k: theirs[k] for k in shared if "time/" not in k
        }
    jax.tree.map(np.testing.assert_array_equal, trained(tmp_path), trained(whole))


@pytest.mark.parametrize("mesh", [{"mesh.data": 4}, {"mesh.data": 2, "mesh.fsdp": 2}])
def test_several_devices_give_the_numbers_of_one(joint, alone, tmp_path, mesh):
    config = state(mode="joint", init_from=str(alone), **mesh, **{"sampler.slots": 1})
    experiment.run(config, str(tmp_path))
    for ours, theirs in zip(rl_lines(tmp_path), rl_lines(joint), strict=True):
        for name in ("accuracy", "nfe", "reward", "head/k", "head/entropy", "head/right_loss"):
            if name in theirs:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name
    ours, theirs = trained(tmp_path), trained(joint)
    for params in (ours, theirs):
        # What is added to all logits changes no probability: its gradient is rounding alone.
        bias = params["state_head"]["out"]["bias"]
        params["state_head"]["out"]["bias"] = bias[:3]
    # Adam turns the sign of a gradient near 0, which is rounding, into a step of up to the rate.
    close = {"denoiser": 2e-5, "state_head": 0.2 * 4 * 1e-2}
    for name, atol in close.items():
        for a, b in zip(jax.tree.leaves(ours[name]), jax.tree.leaves(theirs[name]), strict=True):
            np.testing.assert_allclose(a, b, atol=atol)


def test_blocks_caches_and_an_adapter_work_with_it(alone, tmp_path):
    changes = {"sampler.block_length": 8, "sampler.cache": "dual", "lora.rank": 2, "mode": "joint"}
    summary = experiment.run(state(init_from=str(alone), **changes), str(tmp_path))
    assert all(point["nfe"] >= 2 for point in summary["trained"]["frontier"])  # two blocks
    assert np.isfinite(rl_lines(tmp_path)[-1]["grad_norm/adapter"])


def test_a_higher_price_gives_no_more_calls_once_trained(alone):
    written = [
        complete.complete(state(), str(alone), ["1" + "0" * 15], model="trained", dial=dial)[0]
        for dial in (1e-3, 1e3)
    ]
    assert all(one.dial == "price" for one in written)
    assert written[0].value == pytest.approx(1e-3) and written[1].nfe <= written[0].nfe


def test_other_rules_take_the_trained_model_too(alone, tmp_path):
    config = state(**{"sampler.rule": "entropy_sum", "sampler.ranking": None})
    result = score.score(config, str(tmp_path / "scored"), run=str(alone))
    assert [point["learned"] for point in result["points"]] == [False, False]


def test_an_export_answers_alike_in_pytorch(alone, tmp_path):
    """The whole path: a run, its export, and the same answers in the same calls."""
    torch, transformers = map(pytest.importorskip, ("torch", "transformers"))
    out = tmp_path / "exported"
    assert export.export(str(alone), str(out), model="trained").startswith("rule state, ")
    prompts = ["1" + "0" * 15, "1234341221434300", "0" * 16]
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(out)
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    model, generate = exported.tiny_model(out), exported.generate(out)
    for price in (0.5, 2.0):
        with torch.no_grad():
            theirs = generate(model, **batch, price=price)
        ours = complete.complete(state(), str(alone), prompts, model="trained", dial=price)
        texts = tokenizer.batch_decode(theirs.sequences[:, 16:])
        assert [text.split("<|end|>")[0] for text in texts] == [x.text for x in ours]
        assert theirs.commit_call.tolist() == [x.calls for x in ours]
        assert theirs.calls.tolist() == [x.nfe for x in ours]


def test_the_code_of_the_card_runs_and_a_benchmark_compares(alone, tmp_path, capsys, monkeypatch):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "m"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(pathlib.Path(__file__).parents[2])])
    from benchmarks import exported as benchmark

    export.export(str(alone), str(tmp_path / "out"), model="trained")
    words = [f"--workdir={alone}", f"--exported={tmp_path / 'out'}", "--examples=8", "--dials=2"]
    (point,) = benchmark.main(words)
    assert point[:5] == (2.0, 8, 8, 8, 8)
    assert point.accuracy[0] == point.accuracy[1] and point.calls[0] == point.calls[1] >= 1
    assert "8 test prompts of sudoku; JAX / PyTorch" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    scope = {"DIR": str(tmp_path / "out"), "texts": ["1" + "0" * 15, "0" * 16]}
    exec(first, scope)
    answers, calls = scope["answers"], scope["out"].calls.tolist()
    monkeypatch.delitem(sys.modules, "generate", raising=False)
    exec(second, scope)
    assert calls == scope["out"].calls.tolist()
    ours = complete.complete(state(), str(alone), scope["texts"], model="trained", dial=None)
    assert [text.split("<|end|>")[0] for text in answers] == [one.text for one in ours]
    sys.modules.pop("generate")


def test_the_export_of_a_base_has_its_fixed_rule(alone, tmp_path):
    line = export.export(str(alone), str(tmp_path / "base"), model="base")
    assert line == "rule entropy_sum, gamma fixed at 0.1, for no head was trained"
    assert not (tmp_path / "base" / "sampler_head.safetensors").exists()
    card = (tmp_path / "base" / "README.md").read_text()
    assert "before RL" in card and "| gamma | solved |" in card


def test_what_has_no_head_is_refused(alone, tmp_path):
    with pytest.raises(UserError, match="needs a head that RL trained"):
        score.score(state(), str(tmp_path / "base"), run=str(alone), which="base")
    with pytest.raises(UserError, match="needs a head that RL trained"):
        complete.complete(state(), str(alone), ["1" + "0" * 15], model="base", dial=None)
    with pytest.raises(UserError, match="mode 'model' does not train"):
        check.check_training(state(mode="model"))
    with pytest.raises(UserError, match="draws no tokens"):
        check.check_training(state(mode="joint", **{"sampler.temperature": 0.0}))
    check.check_training(state(**{"sampler.temperature": 0.0}))


@pytest.mark.parametrize("mode", ["sampler", "joint"])
def test_a_plan_has_the_programs_of_the_run(mode):
    config = state(mode=mode)
    step = programs.make_step(config, mesh_lib.make_mesh(config.mesh))
    wanted = {"rollout", "head_update"} | ({"update"} if mode == "joint" else set())
    assert set(step.programs) == wanted
    for program in step.programs.values():
        program.function.lower(*program.arguments)
    assert isinstance(step.programs["rollout"].arguments[1], Prompts)
