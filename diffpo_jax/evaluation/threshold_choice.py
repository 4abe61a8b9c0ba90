"""Which threshold a model decodes with: the one it learned, or the fixed dial of its rule."""

from diffpo_jax.config import Config


def is_learned(run: Config, rule: str, model: str = "trained") -> bool:
    """Whether a model of a run decodes with a threshold that the run learned.

    Args:
      run: the configuration of the run that made the model.
      rule: the commit rule to decode with; a threshold belongs to the rule it was learned with.
      model: "trained", "base" or "published"; only the trained model has learned one.
    """
    return model == "trained" and run.mode != "model" and rule == run.sampler.rule


def threshold_in_use(
    config: Config, *, run: Config | None = None, model: str = "trained", dial: float | None = None
) -> tuple[str, float]:
    """The threshold that a model decodes with, as `sampler.make_generate` takes it.

    Args:
      config: the rule, and its fixed dial.
      run: the configuration of the run that made the model; None for `config` itself.
      dial: a value that replaces whatever the model would use.

    Returns:
      ("median", 1.0) for the median of a learned threshold; otherwise ("fixed", dial).
    """
    if dial is None and is_learned(run or config, config.sampler.rule, model):
        return "median", 1.0
    return "fixed", config.dial if dial is None else dial
