"""What holds in every test: eight virtual devices, and shapes checked at run time."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

# Before jax is imported.  Most of the suite's time is LLVM's: at level 0 it takes half, and what
# XLA makes of a program before LLVM sees it stays the same.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

# Whole runs compile many of the same programs; workers share them through the first process.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jax-cache-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    atexit.register(shutil.rmtree, cache, ignore_errors=True)

import hypothesis
import jaxtyping
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `import reference`

# Every annotated function of these checks its shapes and types while tests run.  Not the host's
# parts: their annotations are for readers, and tests give them whatever counts as a number.
CHECKED = ("arrays", "diffusion", "distributed", "models", "rl")
jaxtyping.install_import_hook([f"diffpo_jax.{name}" for name in CHECKED], "beartype.beartype")

# The first example of a test pays for its compilation.
hypothesis.settings.register_profile("compiled", deadline=None)
hypothesis.settings.load_profile("compiled")


MAPPINGS = Path("/proc/self/maps")
MOST = 25_000  # of the 65,530 that Linux allows a process


@pytest.fixture(autouse=True, scope="module")
def free_programs():
    """Frees compiled programs after a module if the process has many.

    Each maps pieces of memory.  All of a suite's are more than Linux allows a process, which then
    dies without a word.
    """
    yield
    if "jax" in sys.modules and MAPPINGS.exists():
        with MAPPINGS.open("rb") as lines:
            many = sum(1 for _ in lines) > MOST
        if many:
            sys.modules["jax"].clear_caches()
