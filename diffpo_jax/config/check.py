"""What must hold within and between the fields of a configuration."""

import math
from collections.abc import Collection
from typing import Any

from diffpo_jax.config import (
    ADVANTAGES,
    AGGREGATIONS,
    ANSWERS,
    ATTENTIONS,
    CACHES,
    CLIPS,
    COUNTS,
    DECAYS,
    DIALS,
    FALLBACKS,
    GUARD_ACTIONS,
    KL_ESTIMATORS,
    KL_PLACES,
    MODES,
    OPTIMIZERS,
    PROJECTIONS,
    PROTOCOLS,
    QUANTIZED,
    RANKINGS,
    RATIOS,
    SCHEDULES,
    SCOPES,
    SELECTIONS,
    SPEED_FORMS,
    SUBSETS,
    SUPPRESSION,
    WEIGHTS,
    Config,
    StudyConfig,
)
from diffpo_jax.system.errors import UserError


def check(config: Config) -> None:
    """Raises `UserError` on the first breach: what is wrong, where, and what would be right."""
    one_of("config.mode", config.mode, MODES)
    one_of("config.task.protocol", config.task.protocol, PROTOCOLS)
    one_of("config.task.prompt.answer", config.task.prompt.answer, ANSWERS)
    _ranges(config)
    _evaluation(config)
    _sampler(config)
    _thresholds(config)
    _model(config)
    _rl(config)
    _divisions(config)


def check_training(config: Config) -> None:
    """Raises `UserError` where a run would train what cannot be: kernels of a few bits."""
    if not config.model.quantized:
        return
    if config.pretrain.steps and not config.init_from:
        raise UserError(
            f"config.model.quantized={config.model.quantized!r} is for a base model that is there "
            f"already: config.pretrain.steps={config.pretrain.steps} would train it. Train it in a "
            "run of its own, export that, and name the directory in config.model.weights."
        )
    if not config.lora.rank and config.mode != "sampler":
        raise UserError(
            f"config.model.quantized={config.model.quantized!r} and config.mode={config.mode!r}: "
            "kernels of a few bits cannot be trained. Train an adapter (config.lora.rank), the "
            "sampler alone (config.mode=sampler), or leave config.model.quantized empty."
        )


def check_study(study: StudyConfig) -> None:
    """The same for what a study adds to its run; of a grid's runs `studies.grid` says more."""
    if study.grid.arms:
        _grid(study)
        return
    one_of("config.figure2.model", study.figure2.model, ("base", "trained"))
    _positive(study, "figure2.prompts", "figure2.rollouts", "figure2.draws", "figure2.batch")
    if not study.figure2.anchors or min(study.figure2.anchors) < 1:
        raise UserError(
            f"config.figure2.anchors={study.figure2.anchors} must be numbers K of 1 or more."
        )


def _grid(study: StudyConfig) -> None:
    for name in ("tasks", "seeds", "arms"):
        values = getattr(study.grid, name)
        if not values or len(set(values)) < len(values):
            raise UserError(f"config.grid.{name}={values} must name at least one, and each once.")
    _positive(study, "grid.processes")
    if not study.grid.calls or min(study.grid.calls) < 1:
        raise UserError(f"config.grid.calls={study.grid.calls} must be numbers of 1 or more.")


def _ranges(config: Config) -> None:
    _positive(config, "sampler.length", "sampler.prompt_length", "sampler.block_length")
    _positive(config, "model.width", "model.layers", "model.heads", "model.kv_heads", "model.ff")
    _not_negative(config, "model.positions", "model.vocab", "lora.rank")
    _positive(config, "lora.alpha")
    if not config.lora.targets or len(set(config.lora.targets)) < len(config.lora.targets):
        raise UserError(
            f"config.lora.targets={config.lora.targets} must name projections, each once, of: "
            f"{', '.join(PROJECTIONS)}."
        )
    for target in config.lora.targets:
        one_of("config.lora.targets", target, PROJECTIONS)
    _positive(config, "model.scan_unroll", "threshold.hidden", "threshold.sigma")
    _positive(config, "threshold.sigma_min", "pretrain.batch")
    _positive(config, "rl.prompts", "rl.group", "rl.inner_updates", "rl.candidates")
    _not_negative(config, "rl.likelihood.anchors", "rl.likelihood.calls")
    _positive(config, "rl.objective.truncation", "sampler.temperature", "checkpoint.every")
    _positive(config, "task.grader_seconds")
    _not_negative(config, "task.validation_examples", "task.grader_processes")
    _positive(config, "checkpoint.keep", "logging.every", "mesh.data", "mesh.fsdp", "mesh.tensor")
    _not_negative(config, "seed", "rl.speed.weight", "rl.objective.kl")
    _not_negative(config, "rl.objective.clip_low", "rl.objective.clip_high", "rl.steps")
    _not_negative(config, "pretrain.steps", "sampler.max_calls", "sampler.slots")
    _not_negative(config, "sampler.cache_refresh", "sampler.cache_rows", "sampler.vocabulary_chunk")
    _not_negative(config, "logging.samples_every", "pretrain.warmup", "rl.optimizer.warmup")
    one_of("config.pretrain.kind", config.pretrain.kind, OPTIMIZERS)
    one_of("config.pretrain.decay", config.pretrain.decay, DECAYS)
    _not_negative(config, "pretrain.demonstrations.prompt_length", "pretrain.demonstrations.length")
    _positive(config, "rl.guard.window", "rl.guard.tokens_per_call", "rl.guard.lower")
    _not_negative(config, "rl.guard.entropy", "rl.guard.accuracy", "rl.guard.evaluation")
    _not_negative(
        config,
        "pretrain.micro_batch",
        "rl.micro_batch",
        "rl.objective.gamma_entropy",
        "rl.likelihood.prompt_masking",
    )


def _evaluation(config: Config) -> None:
    evaluation = config.evaluation
    one_of("config.evaluation.subset", evaluation.subset, SUBSETS)
    _positive(config, "evaluation.batch", "evaluation.samples")
    _not_negative(config, "evaluation.temperature", "evaluation.every", "evaluation.block_length")
    if evaluation.samples > 1 and not evaluation.temperature:
        raise UserError(
            f"config.evaluation.samples={evaluation.samples}: at config.evaluation.temperature=0 "
            "the completions of a prompt are all the same. Set that above 0."
        )


def _sampler(config: Config) -> None:
    sampler = config.sampler
    one_of("config.sampler.rule", sampler.rule, DIALS)
    one_of("config.sampler.ranking", sampler.ranking, RANKINGS[sampler.rule])
    one_of("config.sampler.fallback", sampler.fallback, FALLBACKS)
    one_of("config.sampler.suppress_end", sampler.suppress_end, SUPPRESSION)
    one_of("config.sampler.cache", sampler.cache, CACHES)
    if sampler.length % sampler.block_length:
        raise UserError(
            f"config.sampler.block_length={sampler.block_length} does not divide "
            f"config.sampler.length={sampler.length}."
        )
    if config.evaluation.block_length and sampler.length % config.evaluation.block_length:
        raise UserError(
            f"config.evaluation.block_length={config.evaluation.block_length} does not divide "
            f"config.sampler.length={sampler.length}."
        )
    if sampler.rule != "entropy_bounded" and config.mode != "model":
        raise UserError(
            f"config.sampler.rule={sampler.rule!r} has no threshold to learn: mode "
            f"{config.mode!r} needs 'entropy_bounded'. Use --config.mode=model with it."
        )
    if DIALS[sampler.rule] == "steps":
        _steps(config)
    if DIALS[sampler.rule] == "confidence":
        grid = config.evaluation.confidences
        for name, level in _named(config, "sampler.confidence", "evaluation.confidences", grid):
            if not 0 < level <= 1:
                raise UserError(f"config.{name}={level} must be a probability above 0.")


def _steps(config: Config) -> None:
    sampler, size = config.sampler, config.sampler.block_length
    _whole_blocks("sampler.steps", sampler.steps, sampler.length // size)
    blocks = sampler.length // config.decoder.block_length
    grid = config.evaluation.steps or (blocks,)
    # The dial of a single evaluation is that of rollouts.
    for name, steps in _named(config, "sampler.steps", "evaluation.steps", grid):
        _whole_blocks(name, steps, blocks)


def _whole_blocks(name: str, steps: int, blocks: int) -> None:
    if steps < 1 or steps % blocks:
        raise UserError(
            f"config.{name}={steps} must be a multiple of the {blocks} blocks of a completion "
            "(config.sampler.length / block_length): every block takes as many calls."
        )


def _named(config: Config, field: str, grid_field: str, grid: tuple) -> list[tuple[str, Any]]:
    """A field and the entries of a grid, with their names.  Raises `UserError` on an empty grid."""
    if not grid:
        raise UserError(f"config.{grid_field} is empty: a frontier needs at least one point.")
    entries = [(f"{grid_field}[{i}]", value) for i, value in enumerate(grid)]
    return [(field, _get(config, field)), *entries]


def _thresholds(config: Config) -> None:
    if any(factor <= 0 for factor in config.evaluation.factors):
        raise UserError(f"config.evaluation.factors={config.evaluation.factors} must be above 0.")
    grid = config.evaluation.gammas
    for name, gamma in _named(config, "threshold.gamma", "evaluation.gammas", grid):
        if not 0 <= gamma < math.inf:
            raise UserError(
                f"config.{name}={gamma}: an entropy bound is a finite number of nats, 0 or more."
            )


def _model(config: Config) -> None:
    model = config.model
    for section, (prompt, answer) in (
        ("sampler", (config.sampler.prompt_length, config.sampler.length)),
        ("pretrain.demonstrations", config.demonstration_lengths),
    ):
        if 0 < model.positions < prompt + answer:
            raise UserError(
                f"config.model.positions={model.positions} is less than the {prompt + answer} "
                f"tokens of config.{section}.prompt_length + length. Use that many, or 0 for none."
            )
    if model.width % model.heads or (model.width // model.heads) % 2:
        raise UserError(
            f"config.model.width={model.width} must be an even multiple of "
            f"config.model.heads={model.heads} (rotary embeddings turn pairs)."
        )
    if model.heads % model.kv_heads:
        raise UserError(
            f"config.model.kv_heads={model.kv_heads} does not divide "
            f"config.model.heads={model.heads}."
        )
    for name in ("dtype", "param_dtype"):
        one_of(f"config.model.{name}", getattr(model, name), ("float32", "bfloat16"))
    one_of("config.model.attention", model.attention, ATTENTIONS)
    _attention(config)
    if model.quantized:
        one_of("config.model.quantized", model.quantized, QUANTIZED)


def _attention(config: Config) -> None:
    """A kernel that is named is wanted: it must take the whole rows of rollouts and updates."""
    model, tensor = config.model, config.mesh.tensor
    length, head = config.sampler.prompt_length + config.sampler.length, model.width // model.heads
    unknown = bool(model.weights)  # published weights have sizes of their own, read later
    divides = unknown or not (model.heads % tensor or model.kv_heads % tensor)
    kernels = {
        "cudnn": (
            model.dtype == "bfloat16"
            and length % 2 == 0
            and (unknown or (head % 8 == 0 and head <= 128)),
            "bfloat16, heads of 8, 16, ... 128, and an even number of tokens",
        ),
        "splash": (
            length % 128 == 0 and (unknown or head % 128 == 0),
            "heads and a number of tokens that are multiples of 128",
        ),
    }
    fits, wants = kernels.get(model.attention, (True, ""))
    if not wants or (fits and divides):
        return
    raise UserError(
        f"config.model.attention={model.attention!r} takes {wants}, and divides heads over "
        f"config.mesh.tensor; here are {model.dtype}, {model.heads} and {model.kv_heads} heads of "
        f"{head} over {tensor}, and {length} tokens (config.sampler.prompt_length and length "
        "together). Change those, or leave it auto."
    )


def _rl(config: Config) -> None:
    rl = config.rl
    one_of("config.rl.optimizer.kind", rl.optimizer.kind, OPTIMIZERS)
    one_of("config.rl.optimizer.mu_dtype", rl.optimizer.mu_dtype, ("float32", "bfloat16"))
    one_of("config.rl.objective.advantage", rl.objective.advantage, ADVANTAGES)
    one_of("config.rl.objective.weights", rl.objective.weights, WEIGHTS)
    one_of("config.rl.objective.ratio", rl.objective.ratio, RATIOS)
    one_of("config.rl.objective.clip", rl.objective.clip, CLIPS)
    one_of("config.rl.objective.aggregation", rl.objective.aggregation, AGGREGATIONS)
    one_of("config.rl.objective.count", rl.objective.count, COUNTS)
    one_of("config.rl.objective.kl_in", rl.objective.kl_in, KL_PLACES)
    one_of("config.rl.objective.kl_estimator", rl.objective.kl_estimator, KL_ESTIMATORS)
    one_of("config.rl.optimizer.decay", rl.optimizer.decay, DECAYS)
    updates = rl.steps * rl.inner_updates
    if rl.optimizer.decay == "linear" and updates and rl.optimizer.warmup >= updates:
        raise UserError(
            f"config.rl.optimizer.warmup={rl.optimizer.warmup} leaves none of the "
            f"{updates} updates for config.rl.optimizer.decay='linear'."
        )
    one_of("config.rl.guard.action", rl.guard.action, GUARD_ACTIONS)
    one_of("config.rl.likelihood.schedule", rl.likelihood.schedule, SCHEDULES)
    one_of("config.rl.objective.selection", rl.objective.selection, SELECTIONS)
    one_of("config.threshold.scope", config.threshold.scope, SCOPES)
    exact = rl.objective.selection == "exact"
    if exact and config.mode == "model":
        raise UserError(
            "config.rl.objective.selection='exact' needs a threshold that is drawn: with the fixed "
            "one of mode 'model' a set has no probability. Use mode 'joint' (and "
            "config.rl.optimizer.threshold_lr=0 to leave the head as it is)."
        )
    if exact and config.sampler.ranking != "entropy":
        raise UserError(
            f"config.rl.objective.selection='exact' is written for config.sampler.ranking="
            f"'entropy', not {config.sampler.ranking!r}."
        )
    if config.threshold.scope == "call" and config.mode != "model" and not exact:
        raise UserError(
            "config.threshold.scope='call' draws a threshold for each call, which only "
            "config.rl.objective.selection='exact' accounts for."
        )
    if rl.likelihood.calls and rl.likelihood.anchors:
        raise UserError(
            f"config.rl.likelihood.calls={rl.likelihood.calls} scores some calls of the exact "
            f"likelihood: it needs config.rl.likelihood.anchors=0, not {rl.likelihood.anchors}."
        )
    if rl.objective.kl_in == "reward" and rl.objective.advantage == "decoupled":
        raise UserError(
            "config.rl.objective.kl_in='reward' puts the KL into one reward, which "
            "config.rl.objective.advantage='decoupled' takes apart. Use another of the two."
        )
    if rl.likelihood.temperature is not None and not rl.likelihood.temperature > 0:
        raise UserError(
            f"config.rl.likelihood.temperature={rl.likelihood.temperature} must be above 0."
        )
    one_of("config.rl.speed.form", rl.speed.form, SPEED_FORMS)
    if rl.group < 2:
        raise UserError(
            "config.rl.group=1: advantages are taken against the mean of the group, so a "
            "group of one learns nothing. Use 2 or more."
        )
    if rl.speed.form == "multiplicative" and rl.speed.weight > 1:
        raise UserError(
            f"config.rl.speed.weight={rl.speed.weight}: the multiplicative form needs a "
            "weight in [0, 1], or a right answer could earn less than a wrong one."
        )
    if config.mode != "model" and not config.threshold.gamma > 0:
        raise UserError(
            f"config.threshold.gamma={config.threshold.gamma}: mode {config.mode!r} starts "
            "its log-normal threshold there, so it must be above 0."
        )
    if not config.threshold.sigma_min <= config.threshold.sigma <= config.threshold.sigma_max:
        raise UserError(
            f"config.threshold.sigma={config.threshold.sigma} is outside "
            f"[sigma_min, sigma_max]=[{config.threshold.sigma_min}, {config.threshold.sigma_max}]."
        )
    if rl.likelihood.prompt_masking >= 1:
        raise UserError(
            f"config.rl.likelihood.prompt_masking={rl.likelihood.prompt_masking} must be below 1."
        )


def _divisions(config: Config) -> None:
    """Batches over micro-batches and devices."""
    rl = config.rl
    sequences = rl.prompts * rl.group
    _positive(config, "mesh.slices")
    if config.mesh.data % config.mesh.slices:
        raise UserError(
            f"config.mesh.data={config.mesh.data} does not divide over config.mesh.slices="
            f"{config.mesh.slices}: each slice holds as many copies of the parameters."
        )
    shards = config.mesh.data * config.mesh.fsdp
    stage = config.pretrain
    batches = [("rl", rl.micro_batch, sequences)]
    counts = [
        ("config.rl.prompts * config.rl.group", sequences),
        ("config.rl.micro_batch", rl.micro_batch),
        ("config.evaluation.batch", config.evaluation.batch),
    ]
    if stage.steps:  # else there is no such batch
        batches.append(("pretrain", stage.micro_batch, stage.batch))
        counts.append(("config.pretrain.batch", stage.batch))
        counts.append(("config.pretrain.micro_batch", stage.micro_batch))
    for name, micro, batch in batches:
        if micro and batch % micro:
            raise UserError(
                f"config.{name}.micro_batch={micro} does not divide the {batch} sequences of "
                "a step."
            )
    for name, count in counts:
        if count % shards:
            raise UserError(
                f"{name}={count} does not divide over config.mesh.data * config.mesh.fsdp="
                f"{shards} devices."
            )


def one_of(path: str, value: Any, allowed: Collection[str]) -> None:
    """Raises `UserError` with the allowed values where `value` is none of them."""
    if value not in allowed:
        raise UserError(f"{path}={value!r} is unknown; use one of: {', '.join(allowed)}.")


def _get(config: Any, path: str) -> Any:
    value = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _positive(config: Any, *paths: str) -> None:
    for path in paths:
        if not _get(config, path) > 0:
            raise UserError(f"config.{path}={_get(config, path)} must be above 0.")


def _not_negative(config: Any, *paths: str) -> None:
    for path in paths:
        if not _get(config, path) >= 0:
            raise UserError(f"config.{path}={_get(config, path)} must not be negative.")
