"""What is published of each TPU, and how much of its memory a program may take."""

from typing import NamedTuple


class Chip(NamedTuple):
    """One chip; rates are peaks, which no program reaches."""

    flops: float  # bfloat16 FLOP/s
    hbm_gib: float  # a program may take
    hbm_rate: float  # bytes/s
    ici_rate: float  # bytes/s out of a chip, over all its links to other chips together
    axes: int  # of the torus or mesh its slices are cut from
    megacore: bool = False  # its two cores are one device only where that is asked for


# FLOP/s, HBM and ICI bandwidth: the tables "System architecture" of the Google Cloud TPU
# documentation, a page for each version (cloud.google.com/tpu/docs/v4, v5e, v5p, v6e); they give
# ICI in Gbit/s a chip: 2400, 1600, 4800, 3584.  HBM there is 32, 16, 95 and 32 GiB; here is what
# libtpu 0.0.42 says is available when it refuses a program.
CHIPS = {
    "v4": Chip(275e12, 30.75, 1228e9, 300e9, 3, megacore=True),
    "v5e": Chip(197e12, 15.75, 819e9, 200e9, 2),
    "v5p": Chip(459e12, 95.74, 2765e9, 600e9, 3),
    "v6e": Chip(918e12, 31.25, 1640e9, 448e9, 2),
}
