"""Names of the arrays in a pytree."""

from typing import Any

import jax


def path_name(key_path: Any) -> str:
    """The names of a pytree path, joined by "/"."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")
