"""Which threshold a model decodes with: the one it learned, or the fixed dial of its rule."""

from diffpo_jax.config import DIALS, Config
from diffpo_jax.system.errors import UserError


def is_learned(run: Config, rule: str, model: str = "trained") -> bool:
    """Whether a model of a run decodes with a threshold that the run learned.

    Args:
      run: the configuration of the run that made the model.
      rule: the commit rule to decode with; a threshold belongs to the rule it was learned with.
      model: "trained", "base" or "published"; only the trained model has learned one.
    """
    learns = run.mode != "model" and rule == run.sampler.rule
    return model == "trained" and learns and DIALS[rule] == "gamma"


def threshold_in_use(
    config: Config, *, run: Config | None = None, model: str = "trained", dial: float | None = None
) -> tuple[str, float]:
    """The threshold that a model decodes with, as `sampler.make_generate` takes it.

    Args:
      config: the rule, and its fixed dial.
      run: the configuration of the run that made the model; None for `config` itself.
      dial: a value that replaces whatever the model would use.

    Returns:
      ("median", 1.0) for the median of a learned threshold; ("price", dial) for the head by state;
      otherwise ("fixed", dial).

    Raises:
      UserError: the model has no head by state, and its rule needs one.
    """
    rule = config.sampler.rule
    check_head(run or config, rule, model)
    if dial is None and is_learned(run or config, rule, model):
        return "median", 1.0
    kind = "price" if rule == "state" else "fixed"
    return kind, config.dial if dial is None else dial


def check_head(run: Config, rule: str, model: str) -> None:
    """Raises `UserError` if the rule needs a head by state, and the model has none."""
    if rule == "state" and (model != "trained" or run.sampler.rule != "state"):
        raise UserError(
            f"config.sampler.rule='state' needs a head that RL trained, and the {model} model of "
            f"this run (config.sampler.rule={run.sampler.rule!r}) has none. Name another rule, "
            "such as --config.sampler.rule=entropy_sum."
        )
