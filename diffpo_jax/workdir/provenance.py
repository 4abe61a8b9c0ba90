"""What a result must be quoted with: the commit, the versions of packages and the machine."""

import os
import pathlib
import platform
import subprocess
import sys
from importlib import metadata
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "transformers", "grain")


def run_info(mesh_text: str) -> dict[str, Any]:
    """The contents of run_info.json: code, packages, machine, mesh and command line."""
    return {
        "commit": commit(),
        "versions": versions(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "mesh": mesh_text,
        "command": _command(),
    }


def _command() -> list[str]:
    """The command line, such that it can be given again."""
    program = pathlib.Path(sys.argv[0])
    package = pathlib.Path(__file__).parents[1]
    if program.resolve().parent == package:
        return ["python", "-m", f"{package.name}.{program.stem}", *sys.argv[1:]]
    return [program.name, *sys.argv[1:]]


def versions() -> dict[str, str]:
    """The installed versions of the packages that can change a run's numbers."""
    return {name: metadata.version(name) for name in PACKAGES}


def commit() -> str:
    """The commit of this code, with "+" if the package has uncommitted changes.

    Returns "unknown" outside a git checkout.
    """
    package = pathlib.Path(__file__).parents[1]

    def git(*words: str) -> str:
        out = subprocess.run(
            ["git", *words], cwd=package, capture_output=True, text=True, timeout=20
        )
        return out.stdout.strip() if out.returncode == 0 else ""

    try:
        head = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return (head + ("+" if changed else "")) or "unknown"
