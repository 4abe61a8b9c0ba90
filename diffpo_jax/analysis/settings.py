"""The configuration of a run by dotted names, and what it would be by default."""

import dataclasses
from typing import Any

from diffpo_jax.config import METHODS, RANKINGS, Config, convert, values


def defaults_of(config: dict[str, Any]) -> dict[str, Any]:
    """What every field would be of a run with this method and rule that sets nothing else."""
    plain = Config()
    if config.get("method") in METHODS:
        plain = dataclasses.replace(plain, method=config["method"])
    if config.get("sampler.rule") in RANKINGS:
        sampler = dataclasses.replace(plain.sampler, rule=config["sampler.rule"])
        plain = dataclasses.replace(plain, sampler=sampler)
    filled = convert.resolve_rule(convert.resolve_method(plain))
    return convert.flatten(dataclasses.asdict(filled))


def current_values(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with values that only older versions wrote as today's."""
    hints = values.all_annotations(Config)
    return {
        name: values.current(hints[name], value) if name in hints else value
        for name, value in config.items()
    }
