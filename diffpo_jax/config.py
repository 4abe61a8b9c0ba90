"""The configuration: frozen dataclasses by section, and the way from a ConfigDict to them.

`configs/*.py` start from `as_config_dict(Config())`, change what they need and return the
ConfigDict, so that `--config.section.field=value` works on every field.  `from_config_dict`
turns the result into the dataclasses below: it names unknown fields, checks types and what
must hold between fields, and fills in what the method decides.  Only `experiment` sees the
whole `Config`; everything else receives one section.

Where a comment says "our choice", the paper is silent.
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from typing import Any

import ml_collections
from ml_collections import config_dict

from diffpo_jax.errors import UserError

MODES = ("model", "sampler", "joint")
WEIGHTS = ("none", "token")
ADVANTAGES = ("mean", "group_std", "batch_std")
SPEED_FORMS = ("multiplicative", "additive")

# What a method decides, and nothing else: methods are compared with all else equal.
METHODS = {
    "d1": {"anchors": 1, "weights": "none", "prompt_masking": 0.15},
    "d1_is": {"anchors": 1, "weights": "token", "prompt_masking": 0.15},
    "diffpo_no_is": {"anchors": 2, "weights": "none", "prompt_masking": 0.0},
    "diffpo": {"anchors": 2, "weights": "token", "prompt_masking": 0.0},
}


@dataclasses.dataclass(frozen=True)
class SudokuConfig:
    size: int = 4  # 4 (2x2 boxes) or 9 (3x3 boxes)
    blanks_min: int = 4  # fewest empty cells of a generated puzzle
    blanks_max: int = 14  # most empty cells; every count in between is equally likely
    unique: bool = False  # True: only puzzles with exactly one completion
    train_examples: int = 30_000  # generated puzzles to train on
    validation_examples: int = 512  # generated puzzles for evaluation during training
    test_examples: int = 2_000  # generated puzzles for the final evaluation
    data_seed: int = 0  # seed of the generator; not the run's seed: runs share puzzles


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    name: str = "sudoku"  # a key of diffpo_jax.tasks.TASKS
    reward: str = "valid_grid"  # which of the task's rewards is trained on (our choice)
    data_dir: str = ""  # where generated data lives; empty: WORKDIR/data
    train_file: str = ""  # read training examples from this file instead
    test_file: str = ""  # read test examples from this file instead
    sudoku: SudokuConfig = SudokuConfig()


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    name: str = "char"  # "char": one token a character, built from `alphabet`
    alphabet: str = "0123456789"  # the characters of the "char" tokenizer


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    family: str = "tiny"  # a key of diffpo_jax.models.families.FAMILIES
    width: int = 64  # D, hidden size
    layers: int = 3  # transformer blocks
    heads: int = 4  # H, attention heads
    kv_heads: int = 4  # Hk, key/value heads; divides `heads`
    ff: int = 192  # F, hidden size of the SwiGLU
    rope_theta: float = 10_000.0  # base of the rotary embedding; short sequences want it small
    norm_eps: float = 1e-5  # epsilon of the RMSNorms
    embedding_std: float = 1.0  # initial scale; 0.02 makes RL steps destructive (our choice)
    positions: int = 0  # learned position embeddings beside RoPE, for so many tokens; 0: none
    dtype: str = "float32"  # activations: float32 or bfloat16
    param_dtype: str = "float32"  # parameters: float32 or bfloat16
    remat: bool = False  # recompute blocks in the backward pass: less memory, more time
    scan_unroll: int = 3  # blocks unrolled in the scan over layers; 1 compiles fastest


@dataclasses.dataclass(frozen=True)
class ThresholdConfig:
    gamma: float = 0.1  # gamma_0, nats: fixed in mode "model", the head's start otherwise
    sigma: float = 0.7  # initial standard deviation of log gamma (our choice)
    learn_sigma: bool = False  # whether the head also gives sigma; learned, it collapses early
    sigma_min: float = 0.1  # bounds on sigma (our choice)
    sigma_max: float = 1.5
    hidden: int = 32  # hidden units of the head (our choice)


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    temperature: float = 1.0  # T of rollouts and of every log-probability
    prompt_length: int = 16  # P, tokens; prompts are left-padded to it
    length: int = 16  # L, tokens of a completion
    block_length: int = 16  # semi-autoregressive block; L: fully parallel
    max_calls: int = 0  # cap on denoiser calls, the last commits the rest; 0: no cap
    slots: int = 64  # rows in flight of the continuous batch; 0: one static batch


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    steps: int = 120  # optimiser steps of masked-diffusion SFT
    batch: int = 256  # sequences a step
    micro_batch: int = 0  # sequences a gradient micro-batch, over all devices; 0: all
    learning_rate: float = 2e-3  # Adam
    warmup: int = 10  # steps of linear warm-up; the rate is constant after it
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    t_min: float = 1e-3  # smallest masking probability (LLaDA)


@dataclasses.dataclass(frozen=True)
class LikelihoodConfig:
    anchors: int | None = None  # K: 1 d1, 2 DiFFPO's 2-MF; None: from the method
    remat: bool = False  # recompute each anchor's pass backwards: memory free of K, more time
    prompt_masking: float | None = None  # share of prompt tokens masked; None: from the method


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    weights: str | None = None  # importance weights: none, token; None: from the method
    truncation: float = 2.0  # C, cap of the importance weights (our choice)
    clip_low: float = 0.2  # ratios are clipped to [1 - clip_low, 1 + clip_high]
    clip_high: float = 0.2
    kl: float = 0.0  # beta, weight of the k3 KL to the reference (the base model)
    advantage: str = "batch_std"  # minus group mean; group_std, batch_std also divide (our choice)
    gamma_weight: float = 1.0  # weight of the threshold's own term (our choice)
    gamma_entropy: float = 0.0  # weight of the entropy of log gamma (our choice)


@dataclasses.dataclass(frozen=True)
class SpeedConfig:
    weight: float = 0.3  # lambda, the price of calls in the reward (our choice)
    form: str = "multiplicative"  # r (1 - lambda NFE/L), or additive r - lambda NFE/L


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    denoiser_lr: float = 5e-5  # Adam on the denoiser; at 1e-4 accuracy falls (our choice)
    threshold_lr: float = 1e-2  # Adam on the threshold head: must be 10-200x faster
    warmup: int = 5  # steps of linear warm-up, both groups
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0  # on the denoiser only
    max_grad_norm: float = 1.0  # per group (denoiser, head)


@dataclasses.dataclass(frozen=True)
class RLConfig:
    steps: int = 75  # rollout batches; each is followed by `inner_updates` updates
    prompts: int = 64  # prompts a step, over all hosts
    group: int = 8  # G, rollouts a prompt
    inner_updates: int = 1  # mu
    micro_batch: int = 0  # sequences a gradient micro-batch, over all devices; 0: all
    likelihood: LikelihoodConfig = LikelihoodConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    speed: SpeedConfig = SpeedConfig()
    optimizer: OptimizerConfig = OptimizerConfig()


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    temperature: float = 0.0  # 0: argmax
    gammas: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # the frontier's grid, nats
    batch: int = 512  # sequences a device program
    examples: int = 1_024  # test prompts of the final frontiers; 0: all
    every: int = 25  # RL steps between evaluations on the validation split; 0: never
    validation_examples: int = 512  # prompts of those evaluations; 0: all


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every: int = 25  # steps between checkpoints; the last step is always saved
    keep: int = 2  # newest checkpoints kept
    keep_every: int = 0  # also keep every n-th step for good; 0: none


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    data: int = 1  # devices that hold copies of the parameters and split the batch
    fsdp: int = 1  # devices that split the parameters and the batch
    tensor: int = 1  # devices that split heads, feed-forward and vocabulary


@dataclasses.dataclass(frozen=True)
class LoggingConfig:
    every: int = 1  # steps between lines of metrics.jsonl
    samples_every: int = 25  # RL steps between files in samples/; 0: none
    tensorboard: bool = False  # also write TensorBoard events (needs tensorboardX)


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0  # everything random derives from (seed, stream, step, row)
    mode: str = "joint"  # trains: model (gamma fixed), sampler (denoiser frozen), joint
    method: str = "diffpo"  # d1, d1_is, diffpo_no_is, diffpo: see METHODS
    init_from: str = ""  # a workdir whose base model is taken instead of pretraining
    task: TaskConfig = TaskConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    threshold: ThresholdConfig = ThresholdConfig()
    sampler: SamplerConfig = SamplerConfig()
    pretrain: PretrainConfig = PretrainConfig()
    rl: RLConfig = RLConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    mesh: MeshConfig = MeshConfig()
    logging: LoggingConfig = LoggingConfig()


# Fields that cannot change what a run computes: a workdir may be resumed with other values.
FREE_FIELDS = ("mesh.", "logging.", "checkpoint.", "task.data_dir")


def as_config_dict(config: Any) -> ml_collections.ConfigDict:
    """A dataclass section as a ConfigDict; a field that may be None becomes a placeholder."""
    result = ml_collections.ConfigDict()
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            result[field.name] = as_config_dict(value)
        elif value is None:
            result[field.name] = config_dict.placeholder(_plain_type(hints[field.name]))
        else:
            result[field.name] = value
    return result


def from_config_dict(values: ml_collections.ConfigDict) -> Config:
    """Builds and checks the configuration.

    Returns:
      The resolved configuration: no field that the method decides is left None.

    Raises:
      UserError: an unknown field (the nearest name is given), a wrong type, or values that
        contradict one another.
    """
    config = _build(Config, values.to_dict(), "config")
    _one_of("config.method", config.method, METHODS)
    config = resolve_method(config)
    check(config)
    return config


def from_json(text: str) -> Config:
    """The configuration saved by `to_json`.  Raises `UserError` like `from_config_dict`."""
    return from_config_dict(ml_collections.ConfigDict(json.loads(text)))


def to_json(config: Config) -> str:
    """The configuration as indented JSON, ending in a newline."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def resolve_method(config: Config) -> Config:
    """Fills the fields that are None with what the method says."""
    method = METHODS[config.method]

    def fill(section: Any) -> Any:
        chosen = {k: v for k, v in method.items() if getattr(section, k, 0) is None}
        return dataclasses.replace(section, **chosen)

    rl = dataclasses.replace(
        config.rl,
        likelihood=fill(config.rl.likelihood),
        objective=fill(config.rl.objective),
    )
    return dataclasses.replace(config, rl=rl)


def unknown_field(path: str) -> str | None:
    """A message where "config.section.field" names no field, None where it does."""
    section: Any = Config()
    where, *names = path.split(".")
    for name in names:
        fields = [f.name for f in dataclasses.fields(section)] if _is_section(section) else []
        if name not in fields:
            return _unknown(where, name, fields)
        section, where = getattr(section, name), f"{where}.{name}"
    return None


def differences(old: Config, new: Config) -> list[str]:
    """Lines "field: old -> new" for fields that change what a run computes.

    More RL steps than before are no difference: a finished run may be continued.
    """
    a, b = _flatten(dataclasses.asdict(old)), _flatten(dataclasses.asdict(new))
    lines = []
    for name in sorted(a.keys() | b.keys()):
        if name.startswith(FREE_FIELDS) or a.get(name) == b.get(name):
            continue
        if name == "rl.steps" and b[name] > a[name]:
            continue
        lines.append(f"config.{name}: {a.get(name)!r} -> {b.get(name)!r}")
    return lines


def check(config: Config) -> None:
    """What must hold within and between fields.  Raises `UserError` on the first breach."""
    _one_of("config.mode", config.mode, MODES)
    sampler, rl, model = config.sampler, config.rl, config.model
    _positive(config, "sampler.length", "sampler.prompt_length", "sampler.block_length")
    _positive(config, "model.width", "model.layers", "model.heads", "model.kv_heads", "model.ff")
    _positive(config, "model.scan_unroll", "threshold.hidden", "threshold.sigma")
    _positive(config, "threshold.sigma_min", "pretrain.batch", "evaluation.batch")
    _positive(config, "rl.prompts", "rl.group", "rl.inner_updates", "rl.likelihood.anchors")
    _positive(config, "rl.objective.truncation", "sampler.temperature", "checkpoint.every")
    _positive(config, "checkpoint.keep", "logging.every", "mesh.data", "mesh.fsdp", "mesh.tensor")
    _not_negative(config, "seed", "rl.speed.weight", "rl.objective.kl")
    _not_negative(config, "rl.objective.clip_low", "rl.objective.clip_high", "rl.steps")
    _not_negative(config, "pretrain.steps", "sampler.max_calls", "sampler.slots")
    _not_negative(config, "evaluation.temperature", "evaluation.every", "logging.samples_every")
    _not_negative(
        config,
        "pretrain.micro_batch",
        "rl.micro_batch",
        "rl.objective.gamma_entropy",
        "rl.likelihood.prompt_masking",
    )
    if not config.evaluation.gammas:
        raise UserError("config.evaluation.gammas is empty: a frontier needs at least one bound.")
    thresholds = {f"evaluation.gammas[{i}]": g for i, g in enumerate(config.evaluation.gammas)}
    for name, gamma in ({"threshold.gamma": config.threshold.gamma} | thresholds).items():
        if not 0 <= gamma < math.inf:
            raise UserError(
                f"config.{name}={gamma}: an entropy bound is a finite number of nats, 0 or more."
            )
    if sampler.length % sampler.block_length:
        raise UserError(
            f"config.sampler.block_length={sampler.block_length} does not divide "
            f"config.sampler.length={sampler.length}."
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
        _one_of(f"config.model.{name}", getattr(model, name), ("float32", "bfloat16"))
    _one_of("config.rl.objective.advantage", rl.objective.advantage, ADVANTAGES)
    _one_of("config.rl.objective.weights", rl.objective.weights, WEIGHTS)
    _one_of("config.rl.speed.form", rl.speed.form, SPEED_FORMS)
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
    sequences = rl.prompts * rl.group
    shards = config.mesh.data * config.mesh.fsdp
    for name, micro, batch in (
        ("rl", rl.micro_batch, sequences),
        ("pretrain", config.pretrain.micro_batch, config.pretrain.batch),
    ):
        if micro and batch % micro:
            raise UserError(
                f"config.{name}.micro_batch={micro} does not divide the {batch} sequences of "
                "a step."
            )
    for name, count in (
        ("config.rl.prompts * config.rl.group", sequences),
        ("config.rl.micro_batch", rl.micro_batch),
        ("config.pretrain.batch", config.pretrain.batch),
        ("config.pretrain.micro_batch", config.pretrain.micro_batch),
        ("config.evaluation.batch", config.evaluation.batch),
    ):
        if count % shards:
            raise UserError(
                f"{name}={count} does not divide over config.mesh.data * config.mesh.fsdp="
                f"{shards} devices."
            )


def _build(cls: type, values: dict[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for name in values:
        if name not in fields:
            raise UserError(_unknown(where, name, list(fields)))
    built = {}
    for name, value in values.items():
        hint, path = hints[name], f"{where}.{name}"
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise UserError(f"{path} is a section, not a value; set its fields one by one.")
            built[name] = _build(hint, value, path)
        else:
            built[name] = _coerce(hint, value, path)
    return cls(**built)


def _unknown(where: str, name: str, fields: list[str]) -> str:
    if not fields:
        return f"{where} is a value, not a section: {where}.{name} does not exist."
    near = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)[0]
    return f"{where}.{name} is not a field of the configuration; the nearest is {where}.{near}."


def _is_section(value: Any) -> bool:
    return dataclasses.is_dataclass(value)


def _coerce(hint: Any, value: Any, path: str) -> Any:
    """`value` as the type `hint`; ints become floats, lists tuples; nothing else changes."""
    optional = isinstance(hint, types.UnionType)
    if value is None and optional:
        return None
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        if isinstance(value, (list, tuple)):
            return tuple(_coerce(item, v, f"{path}[{i}]") for i, v in enumerate(value))
        raise UserError(f"{path}={value!r} must be a list of {item.__name__}.")
    plain = _plain_type(hint)
    if plain is float and type(value) is int:
        value = float(value)
    if type(value) is not plain:
        raise UserError(
            f"{path}={value!r} is of type {type(value).__name__}; it must be {plain.__name__}."
        )
    if plain is float and math.isnan(value):
        raise UserError(f"{path} is NaN.")
    return value


def _plain_type(hint: Any) -> type:
    if isinstance(hint, types.UnionType):
        return next(a for a in typing.get_args(hint) if a is not type(None))
    return hint


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix[:-1]: list(values) if isinstance(values, tuple) else values}
    flat = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.")
    return flat


def _one_of(path: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        raise UserError(f"{path}={value!r} is unknown; use one of: {', '.join(allowed)}.")


def _get(config: Config, path: str) -> Any:
    value = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _positive(config: Config, *paths: str) -> None:
    for path in paths:
        if not _get(config, path) > 0:
            raise UserError(f"config.{path}={_get(config, path)} must be above 0.")


def _not_negative(config: Config, *paths: str) -> None:
    for path in paths:
        if not _get(config, path) >= 0:
            raise UserError(f"config.{path}={_get(config, path)} must not be negative.")
