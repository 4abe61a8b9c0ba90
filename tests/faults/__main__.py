"""Injects faults into a small run, starts it again, and prints how many ended in which way.

    python -m tests.faults --tries=500

Needs Linux.  --seed=N takes other faults.
"""

import argparse
import collections
import math
import os
import pathlib
import sys
import tempfile
import textwrap
import time

_ROUND = 100  # tries
_LONGEST = 40000  # characters of what a run that ended badly has printed
_ROOT = pathlib.Path(__file__).parents[2]
# Of a hundred tries.
SHARES = {
    "kills": 16,
    "power_cuts": 22,
    "errors": 27,
    "size_limits": 4,
    "damage": 16,
    "damage_to_finished": 5,
    "overwrites": 7,
    "processes": 2,
    "pairs": 1,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="ends then at the latest")
    parser.add_argument("--only", choices=SHARES, help="faults of one kind")
    parser.add_argument("--dir", help="where to put the runs, instead of a temporary directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as root:
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
        cache = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{root}/cache")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        print(f"programs are cached in {cache}", flush=True)
        sys.path[:0] = [str(_ROOT), str(_ROOT / "tests")]
        os.chdir(_ROOT)
        from faults import results, tries, warm

        shares = {options.only: 100} if options.only else SHARES
        table, began, bad = collections.defaultdict(collections.Counter), time.monotonic(), 0
        with warm.programs():
            faults = tries.Faults(pathlib.Path(root, "tries"), options.seed)
            for one in _made(faults, shares, options.tries):
                table[one.kind][one.ended] += 1
                if one.ended in results.WORST:
                    bad += 1
                    print(f"{one.ended}: {one.kind}: {one.what}", flush=True)
                    print(textwrap.indent(one.why[-_LONGEST:], "    "), flush=True)
                if time.monotonic() - began > 60 * options.minutes:
                    break
        print(_text(table, (results.EQUAL, results.NAMED, results.REFUSED, *results.WORST)))
        print(
            f"{sum(map(lambda x: x.total(), table.values()))} faults, {bad} of them ended badly; "
            f"{time.monotonic() - began:.0f} s"
        )
    return bool(bad)


def _made(faults, shares, count):
    """The tries, of all kinds in turn, so that a run that is out of time has some of each."""
    rounds = max(1, count // _ROUND)
    for number in range(rounds):
        for kind, share in shares.items():
            total = round(count * share / 100)
            more = total * (number + 1) // rounds - total * number // rounds
            if kind == "damage_to_finished":
                yield from faults.damage(more, finished=True)
            else:
                yield from getattr(faults, kind)(more)


def _text(table, endings):
    """The table as Markdown."""
    lines = [["fault", "tries", *endings], ["---"] * (len(endings) + 2)]
    lines += [[k, row.total(), *(row[x] for x in endings)] for k, row in table.items()]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
