"""The plan: bytes by hand, refusals, and that what is printed is what is written."""

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


def config(preset="smoke", **overrides) -> Config:
    values = sudoku.get_config(preset)
    values.update_from_flattened_dict(overrides)
    return convert.from_config_dict(values)


SMALL = {"model.layers": 1, "rl.inner_updates": 1, "mesh.data": 2, "mesh.fsdp": 4}


@pytest.fixture(scope="module")
def plan():
    return planner.plan(config(**SMALL), topology.find("cpu:8"))


def test_weights_by_hand(plan):
    """Width 32, feed-forward 64, one layer, 13 tokens, 32 places, a head of 32 hidden units."""
    split = 13 * 32 * 2 + 32 * 32 + 4 * 32 * 32 + 3 * 32 * 64  # over four devices
    whole = 3 * 32 + (32 * 32 + 32) + (32 * 2 + 2)  # norms, and the head
    assert plan["parameters"] == split + whole
    weights = 4 * (split / 4 + whole)
    for part in plan["programs"].values():
        assert part["bytes"]["weights"] == weights
        assert part["bytes"]["reference"] == 0
        # Two moments of each, and five counters: the state's, and two in each of two optimisers.
        assert part["bytes"]["optimiser"] == 2 * weights + 4 * 5


def test_an_adapter_is_what_has_moments():
    changed = config(
        **SMALL | {"lora.rank": 4, "lora.targets": ("q", "down"), "rl.objective.kl": 1}
    )
    step = programs.make_step(changed, topology.make_mesh(changed.mesh, topology.find("cpu:8")))
    staying = memory.staying(step)
    # A and B of q [32 32] and of down [64 32], each split over four devices.
    adapter = 4 * (32 * 4 + 4 * 32 + 64 * 4 + 4 * 32) / 4
    head = 4 * ((32 * 32 + 32) + (32 * 2 + 2))
    assert staying["optimiser"] == 2 * (adapter + head) + 4 * 5
    assert step.frozen.keys() == {"denoiser"}
    assert staying["reference"] == head  # the denoiser is there already


def test_a_reference_is_in_the_type_of_the_products():
    changed = config(**SMALL | {"rl.objective.kl": 1, "model.dtype": "bfloat16"})
    step = programs.make_step(changed, topology.make_mesh(changed.mesh, topology.find("cpu:8")))
    staying = memory.staying(step)
    kernels = (13 * 32 + 4 * 32 * 32 + 3 * 32 * 64) / 4  # unembed and the block's
    assert staying["reference"] == staying["weights"] - 2 * kernels


def test_parts_add_up(plan):
    for part in plan["programs"].values():
        numbers = dict(part["bytes"])
        assert numbers.pop("over") is None  # this machine's memory has no limit of a device
        assert numbers.pop("sum") == sum(numbers.values())
        assert part["fits"] is None
        assert part["cost"]["flops"] > 0
        assert part["cost"]["moved"]
    assert plan["programs"]["rollout"]["cost"]["open_loops"] == 1


def test_the_rollout_grows_with_its_calls(plan):
    small = config(**SMALL)
    few = planner.plan(dataclasses.replace(small, mode="sampler"), topology.find("cpu:8"), calls=4)
    assert (plan["calls"], few["calls"]) == (16, 4)
    of_plan, of_few = (p["programs"]["rollout"]["cost"]["flops"] for p in (plan, few))
    assert of_plan == pytest.approx(4 * of_few, rel=1e-6)
    assert "score" not in few["programs"]


def test_what_is_printed_is_what_is_written(plan, tmp_path):
    path = tmp_path / "plan.json"
    files.write_json(path, plan)
    assert text.of_plan(json.loads(path.read_text())) == text.of_plan(plan)


def test_the_text_names_every_program_and_part(plan):
    said = text.of_plan(plan)
    for word in ("rollout", "update", "weights", "reference", "sent, all-reduce", "no verdict"):
        assert word in said
    weights = plan["programs"]["rollout"]["bytes"]["weights"]
    assert f"{weights / 1024:.2f} KiB" in said


def test_programs_of_a_step():
    """How often each runs: old of every update but the first, the reference's of all."""
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


def test_a_mesh_of_another_size_is_refused():
    with pytest.raises(UserError, match=r"1 x 3 x 1 = 3 devices .* has 8\..*mesh.fsdp=8"):
        topology.make_mesh(MeshConfig(fsdp=3), topology.find("cpu:8"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "has the form of"),
        ("h100:8", "has the form of"),
        ("v5e:4by4", "has the form of"),
        ("v5e:2x2x2", "given by 2 numbers"),
        ("v5p:2x2", "given by 3 numbers"),
        ("cpu:64", "this machine has 8 CPU devices"),
    ],
)
def test_topologies_that_are_none(name, message):
    with pytest.raises(UserError, match=message):
        topology.find(name)


def test_vocabularies():
    assert vocabulary.of_config(config()).size == 13
    published = vocabulary.of_config(config("llada_8b"))
    assert published == (126_464, 126_336, (126_081,))
    assert vocabulary.of_config(config("dream_7b")).mask == 151_666
    with pytest.raises(UserError, match=r"tokenizer\.alphabet is empty"):
        vocabulary.of_config(config(**{"tokenizer.alphabet": ""}))


def test_parameters_of_published_models():
    """From the shapes alone; the models' names have them rounded."""
    for preset, billions in (("llada_8b", 8.02), ("dream_7b", 7.62)):
        changed = config(preset)
        step = programs.make_step(changed, topology.make_mesh(changed.mesh, topology.find("cpu:8")))
        count = sum(math.prod(x.shape) for x in jax.tree.leaves(step.state.params["denoiser"]))
        assert count / 1e9 == pytest.approx(billions, abs=0.01)
        assert memory.staying(step)["weights"] == pytest.approx(4 * count / 8, rel=0.01)


def test_refusals_are_read():
    said = "... required for HLO temporaries (21.25G) exceeds available HBM (15.75G)."
    assert memory.asked_for(said, 100) == 21.25 * 2**30
    said = "Ran out of memory in memory space hbm. Used 20.5G of 15.75G hbm. Exceeded hbm by 4.75G."
    assert memory.asked_for(said, 2**30) == 19.5 * 2**30
    assert memory.asked_for("something else", 0) is None


@pytest.mark.parametrize("limit", range(12))
def test_the_largest_that_fits(limit):
    tried = []

    def fits(value):
        tried.append(value)
        return value <= limit

    candidates = [1, 2, 3, 5, 7, 9, 10]
    expected = max((c for c in candidates if c <= limit), default=None)
    assert search.largest(candidates, fits) == expected
    assert len(tried) == len(set(tried))  # no program is compiled twice


def test_candidates_of_a_search():
    changed = config(**SMALL | {"rl.prompts": 8, "rl.group": 6, "rl.micro_batch": 16})
    assert search.micro_batches(changed) == [8, 16, 24, 48]
    assert search.prompts(changed, 16)[:3] == [8, 16, 24]  # 8 x 6 = 3 x 16


def test_a_search(monkeypatch):
    """The micro-batch by the update, then the prompts by the rollout with that micro-batch."""

    def judge(changed, found, names):
        if "update" in names:
            return changed.rl.micro_batch <= 30
        assert (names, changed.rl.micro_batch) == (("rollout",), 24)
        return changed.rl.prompts <= 21

    monkeypatch.setattr(planner, "judge", judge)
    changed = config(**SMALL | {"rl.prompts": 8, "rl.group": 6, "rl.micro_batch": 16})
    found = search.search(changed, topology.find("cpu:8"))
    assert found == {"micro_batch": 24, "prompts": 20}
    assert text.of_search(found).splitlines()[0].endswith("--config.rl.micro_batch=24")
    monkeypatch.setattr(planner, "judge", lambda *_: False)
    none = search.search(changed, topology.find("cpu:8"))
    assert none == {"micro_batch": None, "prompts": None}
    assert "none fits" in text.of_search(none)


def test_a_program_is_judged_by_what_stays_beside_it(plan):
    needs = plan["programs"]["rollout"]["bytes"]["sum"]
    found = topology.find("cpu:8")
    for limit, fits in ((needs, True), (needs - 1, False)):
        limited = found._replace(limit=limit)
        assert planner.judge(config(**SMALL), limited, ("rollout",)) is fits


# With TPU's compiler.

needs_libtpu = pytest.mark.skipif(
    not topology.has_libtpu(), reason="libtpu is not installed: pip install 'jax[tpu]'"
)


@needs_libtpu
def test_a_program_that_is_too_large_for_a_tpu():
    topology.prepare("v5e:2x2")
    found = topology.find("v5e:2x2")
    mesh = topology.make_mesh(MeshConfig(fsdp=4), found)
    x = jax.ShapeDtypeStruct((2**18, 2**13), jnp.float32, sharding=NamedSharding(mesh, P("fsdp")))
    function = jax.jit(lambda x: jnp.tanh(x @ x.T), out_shardings=NamedSharding(mesh, P()))
    compiled = programs.compile_program(programs.Program(function, (x,), 1))
    assert compiled.executable is None
    assert memory.asked_for(compiled.refusal, 2**31) > found.limit


@needs_libtpu
@pytest.mark.slow
def test_a_small_model_on_a_tpu_slice(tmp_path):
    path = tmp_path / "plan.json"
    flags = ["--config=configs/sudoku.py:smoke", "--topology=v5e:2x2", "--config.mesh.fsdp=4"]
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
    assert out.stdout.strip() == text.of_plan(plan)
    assert (plan["devices"], plan["fits"]) == (4, True)
    for part in plan["programs"].values():
        assert 0 < part["bytes"]["sum"] < plan["limit"] == 15.75 * 2**30
        assert part["bound"] == max(part["seconds"], key=part["seconds"].get)
    assert plan["step"]["seconds"] > 0
