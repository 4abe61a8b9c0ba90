"""Runs a command in this process, as `python -m diffpo_jax.NAME` would."""

import contextlib
import runpy
import sys

from absl import flags

COMMANDS = ("main", "evaluate", "generate", "serve", "grade", "export", "study", "plan")
COMMANDS += ("doctor", "report")


def run(name, *words):
    """The exit status of a command with these flags; what it prints goes to pytest's capture."""
    before, sys.argv = sys.argv, [f"{name}.py", *map(str, words)]
    try:
        with _own_flags():
            runpy.run_module(f"diffpo_jax.{name}", run_name="__main__", alter_sys=False)
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.argv = before
    raise AssertionError("a command ends by sys.exit")


@contextlib.contextmanager
def _own_flags():
    """Takes the flags of commands that this process has imported away within the block.

    Commands have flags of the same names.  Those of modules that stay imported are kept.
    """
    known = flags.FLAGS._flags()
    modules = [f"diffpo_jax.{name}" for name in COMMANDS]
    by_module = flags.FLAGS.flags_by_module_dict()
    others = {flag.name: known[flag.name] for name in modules for flag in by_module.get(name, [])}
    for name in others:
        del known[name]
    kept = set(known)
    try:
        yield
    finally:
        imported = {
            flag.name
            for module, own in flags.FLAGS.flags_by_module_dict().items()
            if module in sys.modules and module != "__main__"
            for flag in own
            if flag.name.partition(".")[0] != "config"
        }
        for name in set(known) - kept - imported:
            del known[name]
        known.update(others)
