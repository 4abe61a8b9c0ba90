"""Plans the small models on GPUs of 16, 24 and 80 GB, and prints the table of docs/models.md.

    pip install -e '.[cuda]'; python docs/memory_table.py

No GPU is needed; it takes ten minutes on two cores. tests/planning/test_memory_table.py checks the
table in the page as far as that goes without compiling.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from configs import gsm8k
from diffpo_jax.config import convert
from diffpo_jax.distributed.chips import GPUS
from diffpo_jax.planning import planner, text, topology

ADAFACTOR = {"rl.optimizer.kind": "adafactor"}
# (GPU, preset, other fields).  One GPU of 24 GB stands for all that have bfloat16 units.
ROWS = [
    ("t4", "qwen3_0_6b,t4", {}),
    ("t4", "qwen3_0_6b,lora", {}),
    ("t4", "qwen3_0_6b", ADAFACTOR),
    ("t4", "qwen3_0_6b", {}),
    ("t4", "qwen2_5_coder_0_5b,t4", {}),
    ("l4", "qwen3_0_6b,lora", {}),
    ("l4", "qwen3_0_6b", {}),
    ("l4", "qwen2_5_coder_0_5b,lora", {}),
    ("l4", "qwen2_5_coder_0_5b", {}),
]
SIZES = {"16 GB": "t4", "24 GB": "l4", "80 GB": "a100-80"}  # the columns of verdicts
HEADER = (
    f"| Compiled for | Preset | Held | Rollout | Score | Update | {' | '.join(SIZES)} |"
    "\n|---|---|---|---|---|---|---|---|---|"
)


def config_of(preset: str, fields: dict):
    """The configuration of a row."""
    values = gsm8k.get_config(preset)
    values.update_from_flattened_dict(fields)
    return convert.from_config_dict(values)


def name_of(preset: str, fields: dict) -> str:
    """The second column of a row."""
    given = "".join(f" --config.{name}={value}" for name, value in fields.items())
    return f"`{preset}{given}`"


def verdicts(largest: float) -> list[str]:
    """Whether so many GiB fit each size, with 95 % of it and with the 75 % that JAX takes."""
    out = []
    for gpu in SIZES.values():
        whole = GPUS[gpu].gib
        fits = "yes" if largest <= 0.75 * whole else "at 0.95" if largest <= 0.95 * whole else "no"
        out.append(fits)
    return out


def line(gpu: str, preset: str, fields: dict, held: float, sums: list[float]) -> str:
    """A row of the table, from GiB."""
    numbers = [f"{x:.2f}" for x in (held, *sums)]
    return f"| {' | '.join([gpu, name_of(preset, fields), *numbers, *verdicts(max(sums))])} |"


def main() -> None:
    print(HEADER)
    for gpu, preset, fields in ROWS:
        topology.prepare(f"{gpu}:1")
        plan = planner.plan(config_of(preset, fields), topology.find(f"{gpu}:1"))
        parts = {name: part["bytes"] for name, part in plan["programs"].items()}
        first = parts["rollout"]
        held = sum(first[name] for name in ("weights", "optimiser", "reference")) / 2**30
        sums = [parts[name]["sum"] / 2**30 for name in ("rollout", "score", "update")]
        print(line(gpu, preset, fields, held, sums), flush=True)
        print(text.format_plan(plan), file=sys.stderr)


if __name__ == "__main__":
    main()
