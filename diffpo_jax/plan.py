"""Says whether a run fits devices that need not be present, and bounds the time of a step.

    python -m diffpo_jax.plan --config=configs/sudoku.py:llada_8b --topology=v5e:4x4 \\
        --config.mesh.fsdp=16

Compiles the programs of an RL step for the devices, with shapes in place of weights, and prints
their memory by the compiler's numbers, their operations and a lower bound on their time. A TPU
slice needs libtpu (pip install 'jax[tpu]'), but no TPU; a GPU by name, as in `--topology=t4:1`,
needs the extra .[cuda], but no GPU; `--topology=cpu:8` and `gpu:8` use this machine's own devices
and compiler. `--slices=2` takes two of a TPU slice, which share the axis `data`, as in
--config.mesh.data=2 --config.mesh.fsdp=16 for v5e:4x4. `--search` also finds the largest
micro-batch and the most prompts that fit; `--json=FILE` writes the numbers. Exit status: 0 if the
run fits or the memory limit is not known, 1 if it does not fit, 2 for a mistake in a flag.
"""

import dataclasses
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from diffpo_jax.config import command
from diffpo_jax.system import files

config_flags.DEFINE_config_file("config", None, "The experiment, configs/NAME.py[:preset].")
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "v5e:4x4, v5p:2x2x2, t4:1, l4:1, a100-80:1, cpu:8, ..."
)
_SLICES = flags.DEFINE_integer(
    "slices", 0, "Number of such slices, joined by a data-centre network; 0: config.mesh.slices.", 0
)
_CALLS = flags.DEFINE_integer(
    "calls", 0, "Denoiser calls per rollout to count; 0: the most that are possible.", 0
)
_SEARCH = flags.DEFINE_bool("search", False, "Also find the largest batch that fits.")
_JSON = flags.DEFINE_string("json", None, "Also write the numbers to this file.")


def main(argv: Sequence[str]) -> None:
    example = " ".join(line.strip(" \\") for line in __doc__.splitlines()[2:4])
    config = command.read_config(argv, ("config", "topology"), example)
    if _JSON.value:
        files.check_target(_JSON.value, "--json")
    from diffpo_jax.config import check
    from diffpo_jax.planning import topology

    topology.prepare(_TOPOLOGY.value)  # before jax looks for devices
    from diffpo_jax.planning import planner, search, text

    if _SLICES.value:
        mesh = dataclasses.replace(config.mesh, slices=_SLICES.value)
        config = dataclasses.replace(config, mesh=mesh)
        check.check(config)
    check.check_training(config)
    devices = topology.find(_TOPOLOGY.value, config.mesh.slices)
    plan = planner.plan(config, devices, _CALLS.value)
    print(text.format_plan(plan), flush=True)
    if _SEARCH.value:
        plan["largest"] = search.search(config, devices)
        print(text.format_search(plan["largest"]))
    if _JSON.value:
        with files.explained(_JSON.value, "--json"):
            files.write_json(_JSON.value, plan)
    sys.exit(1 if plan["fits"] is False else 0)


if __name__ == "__main__":
    command.run(main)
