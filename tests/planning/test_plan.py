"""Plans: bytes and operations by hand, refusals, and the text against the JSON."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from diffpo_jax.config import Config, MeshConfig, convert
from diffpo_jax.planning import memory, planner, programs, search, text, topology, vocabulary
from diffpo_jax.system import files
from diffpo_jax.system.errors import UserError

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))
from configs import sudoku

ROOT = pathlib.Path(__file__).parent.parent.parent


def config(preset="smoke,prompt", **overrides) -> Config:
    values = sudoku.get_config(preset)
    values.update_from_flattened_dict(overrides)
    return convert.from_config_dict(values)


SMALL = {
    "model.layers": 1,
    "rl.micro_batch": 16,
    "sampler.vocabulary_chunk": None,
    "rl.inner_updates": 1,
    "mesh.data": 2,
    "mesh.fsdp": 4,
}


@pytest.fixture(scope="module")
def plan():
    return planner.plan(config(**SMALL), topology.find("cpu:8"))


def test_resident_bytes_match_a_count_by_hand(plan):
    """Width 32, feed-forward 64, one layer, 13 tokens, 32 places, a head of 32 hidden units."""
    split = 13 * 32 * 2 + 32 * 32 + 4 * 32 * 32 + 3 * 32 * 64  # over four devices
    whole = 3 * 32 + (32 * 32 + 32) + (32 * 2 + 2)  # norms, and the head
    assert plan["parameters"] == split + whole
    weights = 4 * (split / 4 + whole)
    for part in plan["programs"].values():
        assert part["bytes"]["weights"] == weights
        assert part["bytes"]["reference"] == 0
        # Two moments per weight, and five counters: the state's and two in each of two optimisers.
        assert part["bytes"]["optimiser"] == 2 * weights + 4 * 5


def test_with_an_adapter_only_adapter_and_head_have_moments():
    changed = config(
        **SMALL | {"lora.rank": 4, "lora.targets": ("q", "down"), "rl.objective.kl": 1}
    )
    step = programs.make_step(changed, topology.make_mesh(changed.mesh, topology.find("cpu:8")))
    resident = memory.resident_bytes(step)
    # A and B of q [32 32] and of down [64 32], each split over four devices.
    adapter = 4 * (32 * 4 + 4 * 32 + 64 * 4 + 4 * 32) / 4
    head = 4 * ((32 * 32 + 32) + (32 * 2 + 2))
    assert resident["optimiser"] == 2 * (adapter + head) + 4 * 5
    assert step.frozen.keys() == {"denoiser"}
    assert resident["reference"] == head  # the frozen denoiser is shared


# Bytes per parameter: of the kernels of blocks, and of all else that is trained but the head.
OPTIMISER_BYTES = {
    "adamw": (8, 8),
    "lion": (4, 4),
    "muon": (4, 8),
    "sgd": (4, 4),
    "schedule_free_adamw": (12, 12),  # z, the second moment, and where gradients are taken
}


@pytest.mark.parametrize("kind", OPTIMISER_BYTES)
def test_each_optimiser_has_its_bytes(kind):
    changed = config(**SMALL | {"rl.optimizer.kind": kind})
    step = programs.make_step(changed, topology.make_mesh(changed.mesh, topology.find("cpu:8")))
    kernels, others = (4 * 32 * 32 + 3 * 32 * 64) / 4, (13 * 32 * 2 + 32 * 32) / 4 + 3 * 32
    head = 2 * 4 * ((32 * 32 + 32) + (32 * 2 + 2))
    of_kernels, of_others = OPTIMISER_BYTES[kind]
    got = memory.resident_bytes(step)["optimiser"] - head
    # Besides a few counters and coefficients.
    assert 0 < got - kernels * of_kernels - others * of_others <= 4 * 12


def test_the_reference_has_the_type_of_the_activations():
    changed = config(**SMALL | {"rl.objective.kl": 1, "model.dtype": "bfloat16"})
    step = programs.make_step(changed, topology.make_mesh(changed.mesh, topology.find("cpu:8")))
    resident = memory.resident_bytes(step)
    kernels = (13 * 32 + 4 * 32 * 32 + 3 * 32 * 64) / 4  # unembed and the block's
    assert resident["reference"] == resident["weights"] - 2 * kernels


def test_parts_add_up_to_the_sum(plan):
    for part in plan["programs"].values():
        numbers = dict(part["bytes"])
        assert numbers.pop("over") is None  # the memory of a CPU device has no limit
        assert numbers.pop("sum") == sum(numbers.values())
        assert part["fits"] is None
        assert part["flops"] > 0
        assert part["seconds"] is None  # the peak rate of a CPU is not known
    assert plan["step"] is None


def test_operations_match_a_count_by_hand():
    """As in a run's `time/mfu`: a call of prompt and completion of which 16 are read, K = 2.

    Eight devices leave two rollouts of each prompt to share the first call and the first anchor.
    """
    changed = config(**SMALL | {"rl.inner_updates": 2, "rl.objective.kl": 0.1})
    planned = planner.plan(changed, topology.find("cpu:8"), calls=5)["programs"]
    sampler, rows = changed.sampler, changed.rl.prompts * changed.rl.group
    tokens = sampler.prompt_length + sampler.length
    products = tokens * (4 * 32 * 32 + 3 * 32 * 64) + sampler.length * 32 * 13
    call = 2 * (products + 2 * tokens * tokens * 32) * rows / 8
    assert planned["rollout"]["flops"] == (1 / 2 + 4) * call
    assert planned["score"]["flops"] == (1 / 2 + 1) * call
    assert planned["update"]["flops"] == (1 / 2 + 1) * 3 * call


def test_operations_with_a_cache_count_a_refresh_per_block():
    cached = config(**SMALL | {"sampler.cache": "dual", "sampler.block_length": 4})
    planned = planner.program_flops(cached, 8), planner.program_flops(cached, 4)
    plain = config(**SMALL | {"sampler.block_length": 4})
    whole = [planner.program_flops(plain, calls)["rollout"] for calls in (4, 5)]
    per_call = (planned[0]["rollout"] - planned[1]["rollout"]) / 4
    refreshes = planned[1]["rollout"] - 4 * per_call
    # A refresh is a call without logits; every block of 4 tokens is entered once.
    rows, sampler = cached.rl.prompts * cached.rl.group, cached.sampler
    logits = 2 * rows * sampler.length * 32 * 13
    assert refreshes == 4 * (whole[1] - whole[0] - logits)


def test_times_are_operations_over_the_published_peak(monkeypatch):
    monkeypatch.setattr(planner.chips, "peak", lambda kind: 1e9)
    changed = config(**SMALL | {"mode": "sampler"})
    timed = planner.plan(changed, topology.find("cpu:8"))
    rollout, update = timed["programs"]["rollout"], timed["programs"]["update"]
    assert rollout["seconds"] == rollout["flops"] / 1e9
    assert update["flops"] == 0  # it trains the head alone, which is not counted
    assert timed["step"]["seconds"] == rollout["seconds"]
    rows = changed.rl.prompts * changed.rl.group
    assert timed["step"]["samples_per_second"] == rows / rollout["seconds"]
    assert "an RL step takes at least" in text.format_plan(timed)


def test_operations_of_a_rollout_grow_with_its_calls(plan):
    small = config(**SMALL)
    few = planner.plan(dataclasses.replace(small, mode="sampler"), topology.find("cpu:8"), calls=4)
    assert (plan["calls"], few["calls"]) == (16, 4)
    most_flops, few_flops = (p["programs"]["rollout"]["flops"] for p in (plan, few))
    assert most_flops / (15 + 1 / 2) == few_flops / (3 + 1 / 2)
    assert "score" not in few["programs"]


def test_the_text_of_a_plan_read_from_json_is_the_same(plan, tmp_path):
    path = tmp_path / "plan.json"
    files.write_json(path, plan)
    assert text.format_plan(json.loads(path.read_text())) == text.format_plan(plan)


def test_the_text_names_every_program_and_part(plan):
    printed = text.format_plan(plan)
    for word in (
        "rollout",
        "update",
        "weights",
        "reference",
        "operations",
        "no verdict",
        "no time",
    ):
        assert word in printed
    weights = plan["programs"]["rollout"]["bytes"]["weights"]
    assert f"{weights / 1024:.2f} KiB" in printed


def test_how_often_each_program_runs_in_a_step():
    """Old values are scored for every update but the first, the reference's for all."""
    devices = topology.find("cpu:8")

    def times(**overrides):
        changed = config(**SMALL | overrides)
        step = programs.make_step(changed, topology.make_mesh(changed.mesh, devices))
        return {name: program.times for name, program in step.programs.items()}

    assert times() == {"rollout": 1, "update": 1}
    assert times(**{"rl.inner_updates": 3}) == {"rollout": 1, "score": 2, "update": 3}
    with_kl = {"rl.inner_updates": 3, "rl.objective.kl": 0.1}
    assert times(**with_kl) == {"rollout": 1, "score": 5, "update": 3}
    priced = with_kl | {"rl.objective.kl_in": "reward"}
    assert times(**priced) == {"rollout": 1, "score": 4, "update": 3}


def test_a_mesh_of_another_size_than_the_topology_is_refused():
    with pytest.raises(UserError, match=r"1 x 3 x 1 = 3 devices .* has 8\..*mesh.fsdp=8"):
        topology.make_mesh(MeshConfig(fsdp=3), topology.find("cpu:8"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "the forms are"),
        ("h300:8", "the forms are"),
        ("v5e:4by4", "the forms are"),
        ("v5e:2x2x2", "takes 2 numbers"),
        ("v5p:2x2", "takes 3 numbers"),
        ("cpu:64", "this machine has 8 CPU devices"),
    ],
)
def test_an_unknown_topology_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        topology.find(name)


def test_published_families_need_no_tokenizer():
    assert vocabulary.make_vocabulary(config()).size == 13
    published = vocabulary.make_vocabulary(config("llada_8b"))
    assert published == (126_464, 126_336, (126_081,))
    assert vocabulary.make_vocabulary(config("dream_7b")).mask == 151_666
    with pytest.raises(UserError, match=r"tokenizer\.alphabet must not be empty"):
        vocabulary.make_vocabulary(config(**{"tokenizer.alphabet": ""}))


def test_published_models_have_the_parameters_of_their_names():
    """Counted from the shapes; the models' names round them."""
    published = {"llada_8b": 8.02, "dream_7b": 7.62, "qwen3_0_6b": 0.596}
    published |= {"qwen2_5_coder_0_5b": 0.494, "open_dcoder_0_5b": 0.494, "qwen3_0_6b_bd": 0.596}
    # SDAR's file has 16,381,470,720 bytes of bfloat16.
    published |= {"sdar_1_7b": 2.03, "sdar_8b": 16.381470720 / 2, "fast_dllm_v2_7b": 7.62}
    for preset, billions in published.items():
        changed = config(preset, **{"mesh.fsdp": 8, "rl.micro_batch": 48})
        step = programs.make_step(changed, topology.make_mesh(changed.mesh, topology.find("cpu:8")))
        count = sum(math.prod(x.shape) for x in jax.tree.leaves(step.state.params["denoiser"]))
        assert count / 1e9 == pytest.approx(billions, abs=0.01 if billions > 1 else 0.001)
        assert memory.resident_bytes(step)["weights"] == pytest.approx(4 * count / 8, rel=0.01)


def test_requested_bytes_are_read_from_a_refusal():
    refusal = "... required for HLO temporaries (21.25G) exceeds available HBM (15.75G)."
    assert memory.requested_temporaries(refusal, 100) == 21.25 * 2**30
    refusal = (
        "Ran out of memory in memory space hbm. Used 20.5G of 15.75G hbm. Exceeded hbm by 4.75G."
    )
    assert memory.requested_temporaries(refusal, 2**30) == 19.5 * 2**30
    assert memory.requested_temporaries("something else", 0) is None


@pytest.mark.parametrize("limit", range(12))
def test_bisection_finds_the_largest_that_fits(limit):
    tried = []

    def fits(value):
        tried.append(value)
        return value <= limit

    candidates = [1, 2, 3, 5, 7, 9, 10]
    expected = max((c for c in candidates if c <= limit), default=None)
    assert search.largest(candidates, fits) == expected
    assert len(tried) == len(set(tried))  # no program is compiled twice


def test_candidates_divide_into_whole_micro_batches():
    changed = config(**SMALL | {"rl.prompts": 8, "rl.group": 6})
    assert search.micro_batches(changed) == [8, 16, 24, 48]
    assert search.prompts(changed, 16)[:3] == [8, 16, 24]  # 8 x 6 = 3 x 16


def test_a_search_fits_the_micro_batch_and_then_the_prompts(monkeypatch):
    """Updates decide the micro-batch, and rollouts with it the number of prompts."""

    def fits(changed, found, names):
        if "update" in names:
            return changed.rl.micro_batch <= 30
        assert (names, changed.rl.micro_batch) == (("rollout",), 24)
        return changed.rl.prompts <= 21

    monkeypatch.setattr(planner, "programs_fit", fits)
    changed = config(**SMALL | {"rl.prompts": 8, "rl.group": 6})
    found = search.search(changed, topology.find("cpu:8"))
    assert found == {"micro_batch": 24, "prompts": 20}
    assert text.format_search(found).splitlines()[0].endswith("--config.rl.micro_batch=24")
    monkeypatch.setattr(planner, "programs_fit", lambda *_: False)
    none = search.search(changed, topology.find("cpu:8"))
    assert none == {"micro_batch": None, "prompts": None}
    assert "no config.rl.micro_batch fits" in text.format_search(none)


def test_the_limit_is_compared_with_the_sum_of_all_parts(plan):
    needs = plan["programs"]["rollout"]["bytes"]["sum"]
    found = topology.find("cpu:8")
    for limit, fits in ((needs, True), (needs - 1, False)):
        limited = found._replace(limit=limit)
        assert planner.programs_fit(config(**SMALL), limited, ("rollout",)) is fits


# The following tests need TPU's compiler.


def test_the_update_of_the_head_by_state_gets_rollouts_and_no_weights():
    """Its own parameters and moments are held by the run; the record of the rollouts is not."""
    found = planner.plan(
        config("smoke,state", **{"model.layers": 1, "mesh.data": 8, "rl.head.minibatch": 64}),
        topology.find("cpu:8"),
    )
    parts = {name: part["bytes"] for name, part in found["programs"].items()}
    assert set(parts) == {"rollout", "head_update"}
    rows, size, recorded, width = 64 * 2 // 8, 16, 8, 32
    record = 4 * rows * recorded * (size * width + size * size)  # hidden states and clashes alone
    assert record < parts["head_update"]["batch"] < 1.5 * record
    assert 0 < parts["rollout"]["batch"] < record


needs_libtpu = pytest.mark.skipif(
    not topology.has_libtpu(), reason="libtpu is not installed: pip install 'jax[tpu]'"
)


@needs_libtpu
def test_a_program_too_large_for_a_tpu_is_refused():
    topology.prepare("v5e:2x2")
    found = topology.find("v5e:2x2")
    mesh = topology.make_mesh(MeshConfig(fsdp=4), found)
    x = jax.ShapeDtypeStruct((2**18, 2**13), jnp.float32, sharding=NamedSharding(mesh, P("fsdp")))
    function = jax.jit(lambda x: jnp.tanh(x @ x.T), out_shardings=NamedSharding(mesh, P()))
    compiled = programs.compile_program(programs.Program(function, (x,), 1))
    assert compiled.executable is None
    assert memory.requested_temporaries(compiled.refusal, 2**31) > found.limit


@needs_libtpu
@pytest.mark.slow
def test_a_small_model_fits_a_tpu_slice(tmp_path):
    path = tmp_path / "plan.json"
    flags = ["--config=configs/sudoku.py:smoke,prompt", "--topology=v5e:2x2"]
    flags.append("--config.mesh.fsdp=4")
    out = subprocess.run(
        [sys.executable, "-m", "diffpo_jax.plan", *flags, f"--json={path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"XLA_FLAGS": ""},
    )
    assert out.returncode == 0, out.stderr
    plan = json.loads(path.read_text())
    assert out.stdout.strip() == text.format_plan(plan)
    assert (plan["devices"], plan["fits"]) == (4, True)
    for part in plan["programs"].values():
        assert 0 < part["bytes"]["sum"] < plan["limit"] == 15.75 * 2**30
        assert part["seconds"] == part["flops"] / 197e12
    assert plan["step"]["seconds"] > 0
