"""Plans for GPUs that are not there: their description, their limit, and what is printed."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from diffpo_jax.config import MeshConfig
from diffpo_jax.distributed import chips
from diffpo_jax.planning import gpu_target, programs, text, topology
from diffpo_jax.system.errors import UserError

VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    topology.prepare("t4:1")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_gpu_is_described_by_its_data_sheet_and_its_generation():
    lines = gpu_target.describe(chips.GPUS["rtx4090"]).splitlines()
    for line in (
        "  core_count: 128",
        "  fpus_per_core: 128",
        "  threads_per_core_limit: 1536",
        "  shared_memory_per_core: 102400",
        "  memory_bandwidth: 1008000000000",
        "  l2_cache_size: 75497472",
        "  cuda_compute_capability { major: 8 minor: 9 }",
        'device_description_str: "NVIDIA GeForce RTX 4090"',
    ):
        assert line in lines
    for gpu in chips.GPUS.values():
        assert chips.peak(gpu.kind) == gpu.flops
        assert gpu_target.describe(gpu)


@pytest.mark.parametrize("name", VARIABLES)
def test_jax_takes_three_quarters_of_a_gpu_unless_told(monkeypatch, name):
    assert gpu_target.pool_share() == 0.75
    monkeypatch.setenv(name, ".95")
    assert gpu_target.pool_share() == 0.95


def test_the_limit_is_the_share_of_what_cuda_reports(monkeypatch):
    asked = {}

    class Found:
        devices = ("a device", "another")

    monkeypatch.setattr(
        topologies, "get_topology_desc", lambda **given: asked.update(given) or Found
    )
    found = topology.find("a100-40:2")
    assert (asked["platform"], asked["topology"]) == ("cuda", "1x1x2")
    assert found.devices == Found.devices
    assert found.limit == 0.75 * 39.38 * 2**30
    assert found.share == 0.75


def test_without_the_compiler_a_plan_says_what_to_install(monkeypatch):
    def missing(**_):
        raise RuntimeError("Unknown backend cuda")

    monkeypatch.setattr(topologies, "get_topology_desc", missing)
    with pytest.raises(UserError, match=r"--topology=t4:1 needs .*\.\[cuda\]") as caught:
        topology.find("t4:1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["t4", "t4:1x1", "a100:1", "t4-16:1"])
def test_other_names_of_gpus_are_refused(name):
    with pytest.raises(UserError, match=r"the forms are|takes 1 number"):
        topology.find(name)


def test_small_and_absent_numbers_are_not_printed_as_zeros_with_units():
    part = {
        "times": 1,
        "compile_seconds": 1.5,
        "bytes": {"weights": 512, "reference": 0, "sum": 512, "over": None},
        "refusal": "",
        "fits": None,
        "flops": 0.0,
        "seconds": 0.0,
    }
    plan = {
        "topology": "t4:1",
        "devices": 1,
        "kind": "Tesla T4",
        "mesh": {"fsdp": 1},
        "limit": None,
        "share": 0.75,
        "parameters": 27_456,
        "trained": 12_000_000,
        "vocabulary": 13,
        "rows": 4,
        "micro_batch": 0,
        "prompt_length": 16,
        "length": 16,
        "calls": 16,
        "programs": {"head_update": part},
        "fits": None,
        "step": {"seconds": 2.0, "tokens_per_second": 1234.5, "samples_per_second": 0.0234},
    }
    lines = text.format_plan(plan).splitlines()
    assert lines[0].startswith("t4:1: 1 device (Tesla T4)")
    assert lines[1].startswith("27,456 parameters, 0.012e9 trained")
    cells = {line[:36].strip(): line[36:].strip() for line in lines}
    assert cells["weights"] == "512.00 B"
    assert cells["reference"] == "0"
    assert cells["operations per run and device"] == "-"
    assert "1,234 tokens/s and 0.0234 samples/s" in "\n".join(lines)
    assert "75% of the memory that JAX takes" in lines[-1]


@pytest.mark.skipif(
    importlib.util.find_spec("jax_plugins") is None
    or importlib.util.find_spec("jax_plugins.xla_cuda12") is None,
    reason="XLA's compiler for GPUs is not installed: pip install 'jax[cuda12]'",
)
def test_a_program_is_compiled_for_a_t4_that_is_not_there():
    found = topology.find("t4:1")
    assert chips.platform(found.devices[0]) == "gpu"  # for which plain attention is chosen
    placed = NamedSharding(topology.make_mesh(MeshConfig(), found), P())
    x = jax.ShapeDtypeStruct((512, 512), jnp.bfloat16, sharding=placed)
    product = jax.jit(lambda x: x @ x, out_shardings=placed)
    executable = programs.compile_program(programs.Program(product, (x,), 1)).executable
    assert executable.memory_analysis().argument_size_in_bytes == 2 * 512 * 512
    # There are no bfloat16 units: the operands are converted first.
    assert "f32[512,512]" in executable.as_text()
