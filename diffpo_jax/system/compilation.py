"""JAX's persistent cache of compiled programs."""

import os

import jax


def enable_cache() -> None:
    """Turns on JAX's persistent compilation cache.

    It lies in ~/.cache/diffpo_jax/jax, or in JAX_COMPILATION_CACHE_DIR. Compilations under 0.5 s
    are not cached; JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS changes that limit.
    """
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if cache is None:
        home = os.environ.get("XDG_CACHE_HOME", os.path.join(os.path.expanduser("~"), ".cache"))
        jax.config.update("jax_compilation_cache_dir", os.path.join(home, "diffpo_jax", "jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
