"""JAX's cache of compiled programs on disk."""

import os

import jax


def keep_programs() -> None:
    """Programs compiled once are read back the next time.

    JAX_COMPILATION_CACHE_DIR moves them; JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS says which are
    not worth a file, those that take less than half a second where it is not set.
    """
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if cache is None:
        home = os.environ.get("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "diffpo_jax", "jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
