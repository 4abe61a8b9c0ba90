"""The benchmarks run and report complete results; the times themselves are not checked."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import against_published, against_pytorch, published, steps, timing

ROOT = Path(__file__).parents[1]
SHAPE = ["--rows=2", "--width=16", "--layers=1", "--heads=2", "--ff=24", "--repeats=1"]
TINY = [*SHAPE, "--prompt=5", "--length=4", "--calls=4", "--vocab=7", "--threads=1"]
TWO_LAYERS = [
    *TINY,
    "--layers=2",
    "--calls=2",
]  # fewer calls than tokens: the last call commits the rest
TIMES = {"seconds", "seconds_min", "seconds_max", "cpu_seconds", "gflops"}


def run(tmp_path, script, *args):
    """Runs a benchmark as a user does; returns (printed text, written JSON)."""
    out = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *args, f"--json={out}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


def assert_times(one):
    assert one.keys() >= TIMES
    assert 0 < one["seconds_min"] <= one["seconds"] <= one["seconds_max"]
    assert one["gflops"] > 0


def assert_described(result):
    assert result["machine"]["cores"] >= 1
    assert result["machine"].keys() >= {"cores_usable", "load_average", "load_average_after"}
    assert result["versions"]["jax"]
    assert result["peak_gflops"] > 0
    assert min(result["compile_seconds"].values()) > 0


@pytest.mark.slow
def test_against_pytorch_compares_both_sides(tmp_path):
    pytest.importorskip("torch")
    text, result = run(tmp_path, "against_pytorch.py", *TINY)
    assert_described(result)
    assert result["threads"] == {"jax": 1, "torch": 1}
    assert result["agreement"]["logits"] <= against_pytorch.LOGITS_TOLERANCE
    assert result["agreement"]["gradients"] <= against_pytorch.GRADIENT_TOLERANCE
    assert result["agreement"]["tokens"] == 1
    for program in ("gemm", "generate", "update_k1"):
        by_side = result["results"][program]
        assert_times(by_side["jax"])
        assert_times(by_side["torch"])
        assert by_side["ratio"] > 0
        assert f"{program} torch" in text
    assert_times(result["results"]["update_k2"]["jax"])
    assert "torch" not in result["results"]["update_k2"]
    assert result["results"]["update_k2"]["to_k1"]["ratio"] > 0


TINY_NETWORK = against_published.Network(width=16, layers=2, heads=2, ff=24, vocab=9)
TINY_CASES = [
    against_published.Case(
        "rollout", TINY_NETWORK, rows=4, prompt=5, length=5, rivals=("lean", "llada"), calls=3
    ),
    against_published.Case(
        "update",
        TINY_NETWORK,
        rows=4,
        prompt=5,
        length=4,
        rivals=("lean_k2", "d1"),
        calls=4,
        anchors=2,
        group=2,
        micro_batch=2,
    ),
]


@pytest.fixture(scope="module")
def against_lean():
    pytest.importorskip("torch")
    args = against_published.arguments(["--repeats=1"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPROC", "1")  # restored afterwards
        return against_published.measure(args, timing.machine(), TINY_CASES)


@pytest.mark.slow
def test_against_published_compares_equal_work(against_lean):
    rollout, update = against_lean["results"].values()
    assert rollout["agreement"] == "100.0% of tokens"
    assert update["agreement"].startswith("gradient norm to ")
    assert rollout["memory"] == {"ours": None, "theirs": None}
    assert update["memory"]["ours"] > 0
    for one in (rollout, update):
        assert one["ratio"]["cpu"]["min"] == one["ratio"]["cpu"]["median"] > 0


@pytest.mark.slow
def test_against_published_names_the_rows_without_a_checkout(against_lean):
    text = against_published.report(against_lean)
    assert "rollout / lean PyTorch " in text
    assert "left out: rollout / LLaDA generate (needs --llada, --dllm)" in text
    assert "left out: update / d1 compute_loss, K=1 (needs --d1, --dllm)" in text


@pytest.mark.parametrize(
    ("argument", "message"),
    [("--only=nothing", "--only=nothing: no row"), ("--dllm=/", "--dllm=/: dllm/core/samplers")],
)
def test_against_published_explains_mistakes(argument, message, capsys, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("NPROC", "1")  # restored afterwards
    with pytest.raises(SystemExit) as stopped:
        against_published.main([argument])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.slow
def test_steps_times_every_part(tmp_path):
    # A micro-batch of 3 does not divide 2 rows, so it is left out.
    text, result = run(tmp_path, "steps.py", *SHAPE, "--slots=0,1", "--micro=1,3", "--anchors=1")
    assert_described(result)
    parts = {"forward K=1 micro=1", "update K=1 micro=1"}
    assert result["results"].keys() == {"gemm", "rollout slots=0", "rollout slots=1"} | parts
    assert result["compile_seconds"].keys() == result["results"].keys()
    for name, one in result["results"].items():
        assert_times(one)
        assert name in text
        if name.startswith("update"):
            assert one["to_forward"]["ratio"] > 0
        if name.startswith("rollout"):
            assert 0 < one["occupied"] <= 1
    calls = result["calls_per_row"]
    assert 1 <= calls["p10"] <= calls["mean"] <= calls["p100"] <= 16
    assert result["settings"]["model"]["width"] == 16


@pytest.mark.slow
def test_sampler_compares_its_options(tmp_path):
    small = ["--rows=2", "--prompt=8", "--length=8", "--block=4", "--calls=4", "--vocab=9"]
    small += ["--width=16", "--layers=1", "--heads=2", "--ff=24", "--queue=4", "--slots=2"]
    small += ["--queue-length=4", "--large-vocab=50", "--chunk=1", "--repeats=1"]
    text, result = run(tmp_path, "sampler.py", *small)
    names = {
        "cache none",
        "cache prompt",
        "cache dual",
        "cache block",
        "static",
        "stream",
        "whole",
        "chunk",
    }
    names |= {"with head", "without head"}
    assert result["results"].keys() == names == result["compile_seconds"].keys()
    compared = {
        name: one["to"]["program"] for name, one in result["results"].items() if "to" in one
    }
    assert compared == {
        "cache prompt": "cache none",
        "cache dual": "cache none",
        "cache block": "cache none",
        "stream": "static",
        "chunk": "whole",
        "with head": "without head",
    }
    assert all(0 < one["seconds_min"] <= one["seconds"] for one in result["results"].values())
    assert result["temporary_bytes"]["chunk"] < result["temporary_bytes"]["whole"]
    assert result["compilations"] == {"programs": 1, "variations": 4}
    assert 1 <= result["queue_calls"]["p10"] <= result["queue_calls"]["p100"] <= 4
    assert all(name in text for name in names)


@pytest.mark.slow
def test_anchors_compares_numbers_of_anchors(tmp_path):
    flags = [*TINY, "--anchors=0", "--large-vocab=999", "--chunk=1"]
    text, result = run(tmp_path, "anchors.py", *flags)
    results = result["results"]
    assert [n for n in results if "torch" not in n] == ["K=1", "exact"]
    assert [results[n]["passes"] for n in ("K=1", "exact")] == [1, 4]
    assert results["K=1"]["to_k1"]["ratio"] == 1
    for one in results.values():
        assert_times(one)
        assert ("to_torch" in one) == (result["agreement"] is not None)
    assert result["large"]["array"] == 4 * 2 * 4 * 999
    for memory in (result["memory"], result["large"]["memory"]):
        assert memory.keys() == {"K=1", "exact"}
        assert all(one["all"] > 0 < one["chunked"] for one in memory.values())
    assert "V=999" in text


@pytest.fixture(scope="module")
def jax_side():
    return against_pytorch.JaxSide(against_pytorch.arguments(TWO_LAYERS))


@pytest.fixture(scope="module")
def torch_side(jax_side):
    pytest.importorskip("torch")
    return against_pytorch.TorchSide(against_pytorch.arguments(TWO_LAYERS), jax_side)


@pytest.mark.slow
def test_without_torch_only_the_jax_side_is_measured(jax_side, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    monkeypatch.setattr(against_pytorch, "JaxSide", lambda args: jax_side)
    args = against_pytorch.arguments(TWO_LAYERS)
    sides = against_pytorch.make_sides(args)
    result = against_pytorch.measure(args, timing.machine(), sides)
    assert_described(result)
    assert result["agreement"] is None
    assert result["threads"] == {"jax": 1}
    assert all("torch" not in by_side for by_side in result["results"].values())
    assert_times(result["results"]["generate"]["jax"])
    assert "torch is not installed" in against_pytorch.report(result)


@pytest.mark.slow
def test_torch_and_jax_give_equal_logits_gradients_and_tokens(jax_side, torch_side):
    ours = jax_side.logits()
    assert np.abs(ours).max() > 0.1
    np.testing.assert_allclose(torch_side.logits(), ours, atol=1e-5, rtol=0)
    found = against_pytorch.check_agreement(jax_side, torch_side)
    assert found["gradients"] < 1e-4
    assert found["tokens"] == 1


@pytest.mark.slow
def test_different_logits_are_refused(jax_side, torch_side, monkeypatch):
    other = jax_side.logits() + 1e-3
    for wrong in (other, other * np.nan):
        monkeypatch.setattr(torch_side, "logits", lambda wrong=wrong: wrong)
        with pytest.raises(against_pytorch.DisagreementError, match="logits"):
            against_pytorch.check_agreement(jax_side, torch_side)


@pytest.mark.slow
def test_different_gradients_are_refused(jax_side, torch_side, monkeypatch):
    other = torch_side.gradients()
    other["blocks"]["gate"] = other["blocks"]["gate"] * 1.01
    monkeypatch.setattr(torch_side, "gradients", lambda: other)
    with pytest.raises(against_pytorch.DisagreementError, match="gate"):
        against_pytorch.check_agreement(jax_side, torch_side)


@pytest.mark.parametrize(
    "argument", ["--calls=99", "--heads=3", "--vocab=2", "--rows=0", "--threads=-1"]
)
def test_impossible_sizes_are_refused(argument, capsys):
    with pytest.raises(SystemExit) as stopped:
        against_pytorch.arguments([argument])
    assert stopped.value.code == 2
    assert argument.split("=")[0] in capsys.readouterr().err


def test_an_impossible_model_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        steps.main(["--heads=3"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: config.model.width=64 must be")


@pytest.mark.slow
def test_published_runs_a_step_with_random_weights(tmp_path):
    config = f"--config={ROOT / 'configs' / 'sudoku.py'}:smoke,prompt"
    changes = ["rl.objective.kl=0.04", "sampler.max_calls=3", "rl.prompts=2", "rl.micro_batch=4"]
    text, result = run(tmp_path, "published.py", config, "--repeats=1", *changes)
    assert result["rows"] == 8 and result["calls"] == 3
    assert result["results"].keys() == {"rollout", "score", "update"}
    call_operations = (
        result["results"]["rollout"]["gflops"] * result["results"]["rollout"]["seconds"] / 2.25
    )
    for name, one in result["results"].items():
        assert name in text
        assert_times(one)
        assert one["planned_bytes"] > 0 and one["compile_seconds"] > 0
        # K = 2; four rollouts share the first call and the first anchor.
        passes = {"rollout": 2.25, "score": 1.25, "update": 3 * 1.25}[name]
        assert one["gflops"] * one["seconds"] == pytest.approx(passes * call_operations)


@pytest.mark.slow
def test_published_runs_with_quantised_kernels_and_an_adapter(tmp_path):
    config = f"--config={ROOT / 'configs' / 'sudoku.py'}:smoke,prompt,lora"
    changes = [
        "pretrain.steps=0",
        "model.quantized=int8",
        "lora.rank=2",
        "rl.prompts=2",
        "rl.micro_batch=4",
    ]
    _, result = run(tmp_path, "published.py", config, "--last=rollout", "--repeats=1", *changes)
    assert result["results"].keys() == {"rollout"}


def test_published_refuses_modes_that_it_makes_no_arguments_for(capsys):
    with pytest.raises(SystemExit) as stopped:
        published.main([f"--config={ROOT / 'configs' / 'sudoku.py'}:smoke,prompt", "mode=sampler"])
    assert stopped.value.code == 2
    assert "error: this benchmark only measures updates of tokens" in capsys.readouterr().err


def test_interleave_alternates_and_reads_both_clocks():
    order, now = [], iter(range(100))
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    times = timing.interleave(calls, 2, wall=lambda: next(now), cpu=lambda: 0)
    assert order == ["a", "b", "a", "b"]
    assert times["a"] == timing.Times([1, 1], [0, 0])


def test_ratio_pairs_neighbouring_timings():
    # The machine becomes ten times slower half-way; the ratio stays the same.
    a, b = timing.Times([1.0, 10.0], [2.0, 2.0]), timing.Times([2.0, 20.0], [1.0, 1.0])
    assert timing.ratio(a, b) == {"ratio": 0.5, "ratio_cpu": 2.0}


def test_pair_ratios_gives_median_and_extremes():
    found = timing.pair_ratios([1.0, 10.0, 6.0], [2.0, 20.0, 3.0])
    assert found == {"median": 0.5, "min": 0.5, "max": 2.0}


def test_summary_takes_the_median():
    one = timing.summary(timing.Times([4.0, 1.0, 2.0], [1.0, 1.0, 1.0]), 4e9)
    assert one == {
        "seconds": 2.0,
        "seconds_min": 1.0,
        "seconds_max": 4.0,
        "cpu_seconds": 1.0,
        "gflops": 2.0,
        "gflops_max": 4.0,
    }


def test_forward_flops_by_hand():
    # One layer over 3 tokens: 4 + 3 matrices of 2x2, and two products with 3x3 scores of width 2.
    found = timing.forward_flops(sequence=3, scored=1, width=2, layers=1, ff=2, vocab=5)
    assert found == 3 * 2 * (4 * 4 + 3 * 4) + 2 * (2 * 3 * 3 * 2) + 2 * 2 * 5


@pytest.mark.parametrize(("slots", "expected"), [(0, 5), (1, 11), (2, 8), (3, 6), (9, 5)])
def test_passes_counts_the_passes_of_a_queue(slots, expected):
    assert steps.passes([3, 1, 2, 5], slots) == expected
