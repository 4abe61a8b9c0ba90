"""Meshes over slices, with stand-ins for a TPU's devices."""

import dataclasses

import numpy as np
import pytest
from least import least

from diffpo_jax.config import MeshConfig
from diffpo_jax.distributed import mesh
from diffpo_jax.system.errors import UserError


@dataclasses.dataclass(frozen=True)
class Device:
    """The attributes of a device that a mesh reads."""

    id: int
    process_index: int
    platform: str
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0

    @property
    def coords(self):
        return self.id % 2, self.id // 2, 0


class SliceDevice(Device):
    @property
    def slice_index(self):
        return self.process_index


def devices(*slices, platform="tpu", order=1):
    """The given number of devices in each slice, as jax lists them."""
    made = [
        SliceDevice(i, index, platform) for index, count in enumerate(slices) for i in range(count)
    ]
    return made[::order]


@pytest.mark.parametrize("order", [1, -1])
def test_data_spans_slices_and_the_other_axes_do_not(order):
    config = MeshConfig(data=4, fsdp=2, tensor=2, slices=2)
    grid = mesh.make_mesh(config, devices(8, 8, order=order)).devices
    assert grid.shape == (4, 2, 2)
    slices = np.vectorize(lambda device: device.slice_index)(grid)
    for data, index in enumerate([0, 0, 1, 1]):
        assert (slices[data] == index).all()
    assert len({(d.slice_index, d.id) for d in grid.flat}) == 16


@pytest.mark.parametrize(
    ("config", "given", "message"),
    [
        ({"data": 2, "fsdp": 4}, devices(4, 4), r"slices=1, but .* of 2 slices.*mesh\.slices=2"),
        ({"data": 4, "fsdp": 2, "slices": 4}, devices(4, 4), r"slices=4, but .* of 2 slices\. Set"),
        ({"data": 2, "fsdp": 4, "slices": 2}, devices(8), r"slices=2, but .* of 1 slice\. Set"),
        (
            {"data": 2, "fsdp": 4, "slices": 2},
            devices(4, 6),
            r"data 1 x fsdp 4 x tensor 1 = 4 devices over each of 2 slices; they have 4, 6\.",
        ),
        (
            {"data": 2, "slices": 2},
            [Device(i, 0, "cpu") for i in range(2)],
            r"slices=2, but these devices \(cpu\) have no slices",
        ),
    ],
)
def test_slices_that_do_not_match_the_devices_are_refused(config, given, message):
    with pytest.raises(UserError, match=message):
        mesh.make_mesh(MeshConfig(**config), given)


def test_a_part_of_one_slice_is_a_mesh():
    assert mesh.make_mesh(MeshConfig(fsdp=4), devices(4, 4)).devices.shape == (1, 4, 1)


def test_gpus_of_several_hosts_are_one_mesh():
    made = mesh.make_mesh(MeshConfig(data=8), devices(4, 4, platform="gpu"))
    assert made.devices.shape == (8, 1, 1)


def test_data_must_divide_over_slices():
    with pytest.raises(UserError, match=r"slices=2 does not divide config\.mesh\.data=3"):
        least(**{"mesh.data": 3, "mesh.slices": 2})
