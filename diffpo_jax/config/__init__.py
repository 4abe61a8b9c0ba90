"""The configuration: its fields, how they are read, checked, and changed by name."""

from diffpo_jax.config.fields import *  # noqa: F403
