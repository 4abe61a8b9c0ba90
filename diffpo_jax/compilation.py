"""JAX's cache of compiled programs on disk."""

import os

import jax


def keep_programs() -> None:
    """Programs compiled once are read back the next time; JAX_COMPILATION_CACHE_DIR moves them."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if cache is None:
        home = os.environ.get("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "diffpo_jax", "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
