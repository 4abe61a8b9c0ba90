"""Checks of a whole configuration: each field by its annotation, then rules between fields."""

from diffpo_jax.config import (
    AUTO,
    DIALS,
    OPTIMIZERS,
    RANKINGS,
    Config,
    OptimizerConfig,
    PretrainConfig,
    SamplerConfig,
    StudyConfig,
)
from diffpo_jax.config.values import check_fields
from diffpo_jax.system.errors import UserError


def check(config: Config) -> None:
    """Raises `UserError` on the first fault: what is wrong, where, and what to do."""
    check_fields(config, "config")
    _check_sampler(config)
    _check_threshold(config)
    _check_model(config)
    _check_attention(config)
    _check_attention_blocks(config)
    _check_rl(config)
    betas = ("beta1", "beta2") if config.trains_threshold else ()  # its Adam reads them too
    _check_optimizer(config.rl.optimizer, "config.rl.optimizer", betas)
    _check_optimizer(config.pretrain, "config.pretrain")
    _check_batches(config)
    rows = config.pretrain.demonstrations
    if rows.source and rows.difficulty:
        raise UserError(
            f"config.pretrain.demonstrations.difficulty chooses among the task's own examples, but "
            f"config.pretrain.demonstrations.source={rows.source} replaces them. Leave one out."
        )


def check_training(config: Config) -> None:
    """Raises `UserError` if a run would train quantised kernels, or a sampler its rule lacks."""
    rule, dial = config.sampler.rule, DIALS[config.sampler.rule]
    _check_rollouts(config.sampler)
    if dial == "price" and config.mode == "model":
        raise UserError(
            f"config.sampler.rule={rule!r} commits what its head decides, which mode 'model' does "
            "not train. Use --config.mode=sampler or joint."
        )
    if config.sampler.temperature == 0 and config.mode != "sampler":
        raise UserError(
            "config.sampler.temperature=0 draws no tokens, so that mode "
            f"{config.mode!r} has nothing to learn from. Use a temperature above 0, or "
            "--config.mode=sampler."
        )
    if dial not in ("gamma", "price") and config.mode != "model":
        raise UserError(
            f"config.sampler.rule={rule!r} has no threshold to learn: mode {config.mode!r} needs "
            "'entropy_bounded', 'entropy_sum' or 'state'. Use --config.mode=model with it."
        )
    if config.model.quantized is None:
        return
    if config.pretrain.steps and not config.init_from:
        raise UserError(
            f"config.model.quantized={config.model.quantized!r} needs an existing base model, but "
            f"config.pretrain.steps={config.pretrain.steps} would train one. Train it in a run of "
            "its own, export it, and name the directory in config.model.weights."
        )
    if not config.lora.rank and config.mode != "sampler":
        raise UserError(
            f"config.model.quantized={config.model.quantized!r} and config.mode={config.mode!r}: "
            "quantised kernels cannot be trained. Train an adapter (config.lora.rank) or the "
            "sampler alone (config.mode=sampler), or leave config.model.quantized out."
        )


def check_study(study: StudyConfig) -> None:
    """Raises `UserError` on the first fault of a study outside its run and the arms' fields."""
    check_fields(study.figure2, "config.figure2")
    check_fields(study.headroom, "config.headroom")
    check_fields(study.grid, "config.grid")
    _check_rollouts(study.run.sampler)
    own = study.headroom.measured
    if own and study.grid.arms:
        raise UserError("config.headroom.measured=True is for a study without config.grid.arms.")
    if own and DIALS[study.run.base_rule] != "gamma":
        raise UserError(
            f"config.headroom.measured=True chooses thresholds, but the base decodes by the rule "
            f"{study.run.base_rule!r}. Use --config.run.sampler.rule=state or entropy_bounded."
        )
    if study.run.model.attention_block and not study.grid.arms:
        raise UserError(
            f"config.run.model.attention_block={study.run.model.attention_block}: this study "
            "measures states of whole completions, and has not been made for blocks."
        )
    on_base = not (study.grid.arms or own) and study.figure2.model == "base"
    if on_base and study.run.sampler.rule == "state":
        raise UserError(
            "config.run.sampler.rule='state' commits what its head decides, which a base has not. "
            "Use --config.run.sampler.rule=entropy_bounded, or --config.figure2.model=trained."
        )
    for name in ("tasks", "seeds", "arms") if study.grid.arms else ():
        values = getattr(study.grid, name)
        if not values or len(set(values)) < len(values):
            raise UserError(f"config.grid.{name}={values} must not be empty or repeat a value.")


def _check_rollouts(sampler: SamplerConfig) -> None:
    """Rollouts are scored without guidance, in the states of at most L calls."""
    if sampler.guidance:
        raise UserError(
            f"config.sampler.guidance={sampler.guidance}: guided tokens do not have the "
            "probabilities that training and studies score. Use 0; the commands evaluate and "
            "generate take guidance."
        )
    if sampler.schedule == "dream" and sampler.steps > sampler.length:
        raise UserError(
            f"config.sampler.steps={sampler.steps}: with config.sampler.schedule='dream' a rollout "
            f"takes as many calls, and at most config.sampler.length={sampler.length} can be "
            "scored. Use fewer steps, or schedule=even."
        )


def _check_sampler(config: Config) -> None:
    sampler, evaluation = config.sampler, config.evaluation
    length = ("config.sampler.length", sampler.length)
    _check_divides(("config.sampler.block_length", sampler.block_length), length)
    _check_divides(("config.evaluation.block_length", evaluation.block_length), length)
    if sampler.ranking not in (None, *RANKINGS[sampler.rule]):
        raise UserError(
            f"config.sampler.ranking={sampler.ranking!r} is not a ranking for config.sampler.rule="
            f"{sampler.rule!r}; use one of: {', '.join(RANKINGS[sampler.rule])}."
        )
    if sampler.schedule == "dream" and DIALS[sampler.rule] != "steps":
        raise UserError(
            "config.sampler.schedule='dream' shares positions among a number of calls, which "
            f"config.sampler.rule={sampler.rule!r} does not have. Use --config.sampler.rule=top_k, "
            "or schedule=even."
        )
    if sampler.guidance and (sampler.cache != "none" or sampler.rule == "state"):
        raise UserError(
            f"config.sampler.guidance={sampler.guidance} goes neither with a cache nor with "
            f"config.sampler.rule='state'; here config.sampler.cache={sampler.cache!r} and "
            f"rule={sampler.rule!r}. Set guidance to 0, or cache to none and another rule."
        )
    if DIALS[sampler.rule] == "steps":
        dial, size = ("config.sampler.steps", sampler.steps), config.decoder.block_length
        # Single evaluations use the dial of rollouts, so it must suit both block lengths.
        dials = [(dial, sampler.block_length), (dial, size)]
        grid = enumerate(evaluation.steps or ())
        dials += [((f"config.evaluation.steps[{i}]", steps), size) for i, steps in grid]
        for steps, block_length in dials:
            blocks = ("config.sampler.length / block_length", sampler.length // block_length)
            _check_divides(blocks, steps, "every block takes the same number of calls")
    if evaluation.samples > 1 and not evaluation.temperature:
        raise UserError(
            f"config.evaluation.samples={evaluation.samples}: at config.evaluation.temperature=0 "
            "all completions of a prompt are the same. Set the temperature above 0."
        )


def _check_threshold(config: Config) -> None:
    threshold, exact = config.threshold, config.rl.objective.selection == "exact"
    if config.mode != "model" and threshold.gamma == 0:
        raise UserError(
            f"config.threshold.gamma=0: the log-normal threshold of mode {config.mode!r} starts "
            "there, so it must be above 0."
        )
    if not threshold.sigma_min <= threshold.sigma <= threshold.sigma_max:
        raise UserError(
            f"config.threshold.sigma={threshold.sigma} is outside "
            f"[sigma_min, sigma_max]=[{threshold.sigma_min}, {threshold.sigma_max}]."
        )
    if exact and config.mode == "model":
        raise UserError(
            "config.rl.objective.selection='exact' needs a threshold that is drawn: with the fixed "
            "one of mode 'model' a set has no probability. Use mode 'joint' (and "
            "config.rl.optimizer.threshold_lr=0 to keep the head as it is)."
        )
    sampler = config.sampler
    if exact and (sampler.rule, sampler.ranking) != ("entropy_bounded", "entropy"):
        raise UserError(
            "config.rl.objective.selection='exact' needs config.sampler.rule='entropy_bounded' and "
            f"config.sampler.ranking='entropy', not {sampler.rule!r} and {sampler.ranking!r}."
        )
    if threshold.scope == "call" and config.mode != "model" and not exact:
        raise UserError(
            "config.threshold.scope='call' draws a threshold for each call, which only "
            "config.rl.objective.selection='exact' accounts for."
        )


def _check_model(config: Config) -> None:
    model = config.model
    lengths = {"sampler": (config.sampler.prompt_length, config.sampler.length)}
    lengths["pretrain.demonstrations"] = config.demonstration_lengths
    for section, (prompt, answer) in lengths.items():
        if model.positions and model.positions < prompt + answer:
            raise UserError(
                f"config.model.positions={model.positions} is less than the {prompt + answer} "
                f"tokens of config.{section}.prompt_length + length. Use at least that many, or "
                "None for no position embeddings."
            )
    if model.head_dim and model.head_dim % 2:
        raise UserError(
            f"config.model.head_dim={model.head_dim} must be even (rotary embeddings turn pairs)."
        )
    if not model.head_dim and (model.width % model.heads or (model.width // model.heads) % 2):
        raise UserError(
            f"config.model.width={model.width} must be an even multiple of "
            f"config.model.heads={model.heads} (rotary embeddings turn pairs), or set "
            "config.model.head_dim."
        )
    _check_divides(("config.model.kv_heads", model.kv_heads), ("config.model.heads", model.heads))
    _check_conversion(config)


def _check_conversion(config: Config) -> None:
    """Weights that write from left to right become those of a diffusion model by SFT alone."""
    if not config.model.autoregressive or config.init_from:
        return
    what = "config.model.autoregressive=True: such weights"
    if not config.model.weights:
        raise UserError(f"{what} have to be named in config.model.weights.")
    if not config.pretrain.steps:
        raise UserError(
            f"{what} write from left to right, and only SFT makes a diffusion model of them, but "
            "config.pretrain.steps=0. Train them with a preset *_from_ar (docs/models.md), and use "
            "that run."
        )
    if config.lora.rank:
        raise UserError(
            f"{what} are converted by training all of them, and config.lora.rank="
            f"{config.lora.rank} leaves the mask token's embedding as it is. Convert them first, "
            "with --base_only and without lora, and name that run in config.init_from."
        )


def _check_attention(config: Config) -> None:
    """A kernel that is asked for by name must take the whole rows of rollouts and updates."""
    model, tensor = config.model, config.mesh.tensor
    length, head = config.sampler.prompt_length + config.sampler.length, model.head_width
    unknown = model.weights is not None  # the sizes of published weights are read later
    divides = unknown or not (model.heads % tensor or model.kv_heads % tensor)
    cudnn = unknown or (head % 8 == 0 and head <= 128)
    cudnn = cudnn and model.dtype == "bfloat16" and length % 2 == 0
    splash = length % 128 == 0 and (unknown or head % 128 == 0)
    kernels = {
        "cudnn": (cudnn, "bfloat16, heads of 8, 16, ... 128, and an even number of tokens"),
        "splash": (splash, "heads and a number of tokens that are multiples of 128"),
    }
    fits, needs = kernels.get(model.attention, (True, ""))
    if needs and not (fits and divides):
        raise UserError(
            f"config.model.attention={model.attention!r} needs {needs}, and heads that divide over "
            f"config.mesh.tensor; this configuration has {model.dtype}, {model.heads} and "
            f"{model.kv_heads} heads of {head} over {tensor}, and {length} tokens "
            "(config.sampler.prompt_length + length). Change those, or use auto."
        )


def _check_attention_blocks(config: Config) -> None:
    """What goes with attention by blocks, and only with it."""
    model, sampler, size = config.model, config.sampler, config.model.attention_block
    if size is None:
        if sampler.cache == "block":
            raise UserError(
                "config.sampler.cache='block' keeps what attention by blocks never changes, but "
                "config.model.attention_block is not set. Use 'none', 'prompt' or 'dual'."
            )
        return
    where = f"config.model.attention_block={size}"
    whole = ("config.model.attention_block", size)
    _check_divides(("config.sampler.block_length", sampler.block_length), whole)
    _check_divides(("config.evaluation.block_length", config.decoder.block_length), whole)
    if model.attention_origin == "completion":
        reason = "completions begin with a block"
        _check_divides(whole, ("config.sampler.prompt_length", sampler.prompt_length), reason)
        shown = ("config.pretrain.demonstrations.prompt_length", config.demonstration_lengths[0])
        _check_divides(whole, shown, reason)
    if sampler.cache not in ("none", "block"):
        raise UserError(
            f"config.sampler.cache={sampler.cache!r} gets stale, and {where} needs no such cache. "
            "Use --config.sampler.cache=block, which is exact, or none."
        )
    if sampler.max_calls:
        raise UserError(
            f"config.sampler.max_calls={sampler.max_calls} commits all that is left in the last "
            f"call, but with {where} a block is written after those before it. Leave it out."
        )
    refused = {
        "config.sampler.guidance": (sampler.guidance, 0),
        "config.rl.likelihood.calls": (config.rl.likelihood.calls, None),
        "config.model.attention": (model.attention == "splash" and "splash", False),
    }
    for name, (value, usual) in refused.items():
        if value != usual:
            raise UserError(f"{name}={value!r} does not go with {where}. Leave it out.")


def _check_rl(config: Config) -> None:
    rl, head = config.rl, config.rl.head
    if config.mode == "joint" and rl.steps and not config.denoiser_steps:
        raise UserError(
            f"config.rl.head.alone_first={head.alone_first} and alone_last={head.alone_last} leave "
            f"none of config.rl.steps={rl.steps} for the denoiser. Lower them, or use "
            "--config.mode=sampler."
        )
    updates = len(config.denoiser_steps) * rl.inner_updates
    if rl.likelihood.calls and rl.likelihood.anchors != "all":
        raise UserError(
            f"config.rl.likelihood.calls={rl.likelihood.calls} scores some calls of the exact "
            f"likelihood: it needs config.rl.likelihood.anchors=all, not {rl.likelihood.anchors}."
        )
    if rl.likelihood.shrink > 1 and (rl.likelihood.anchors != "all" or rl.likelihood.calls):
        raise UserError(
            f"config.rl.likelihood.shrink={rl.likelihood.shrink} scores neighbouring calls of "
            "config.rl.likelihood.anchors=all in one state; here anchors="
            f"{rl.likelihood.anchors} and calls={rl.likelihood.calls}. Use shrink=1, or "
            "anchors=all without calls."
        )
    if rl.optimizer.decay == "linear" and updates and rl.optimizer.warmup >= updates:
        raise UserError(
            f"config.rl.optimizer.warmup={rl.optimizer.warmup} leaves none of the "
            f"{updates} updates for config.rl.optimizer.decay='linear'."
        )
    if rl.optimizer.kind == "schedule_free_adamw" and rl.guard.action == "lower":
        raise UserError(
            "config.rl.guard.action='lower' scales single steps down, which "
            "config.rl.optimizer.kind='schedule_free_adamw' averages with all others. Use warn or "
            "stop."
        )
    apart = rl.objective.advantage.startswith("decoupled")
    if apart and rl.objective.kl_in == "reward":
        raise UserError(
            "config.rl.objective.kl_in='reward' subtracts the KL from one reward, which "
            f"config.rl.objective.advantage={rl.objective.advantage!r} splits. Change one of the "
            "two."
        )
    if apart and config.sampler.rule == "state":
        raise UserError(
            f"config.rl.objective.advantage={rl.objective.advantage!r} weighs speed by "
            "config.rl.speed.weight, but under config.sampler.rule='state' each prompt has a price "
            "of its own. Use another advantage."
        )
    if rl.objective.right_likelihood and config.mode == "sampler":
        raise UserError(
            f"config.rl.objective.right_likelihood={rl.objective.right_likelihood} raises the "
            "probabilities of tokens, which mode 'sampler' does not train. Use 0, or "
            "--config.mode=joint."
        )
    if rl.speed.form == "multiplicative" and rl.speed.weight > 1:
        raise UserError(
            f"config.rl.speed.weight={rl.speed.weight}: the multiplicative form needs a "
            "weight in [0, 1], or a right answer could earn less than a wrong one."
        )


def _check_optimizer(
    own: OptimizerConfig | PretrainConfig, where: str, also: tuple[str, ...] = ()
) -> None:
    """No field is set that the optimiser does not read, apart from those in `also`."""
    read, usual = OPTIMIZERS[own.kind], type(own)()
    for name in dict.fromkeys(sum(OPTIMIZERS.values(), ())):
        value = getattr(own, name)
        if value != getattr(usual, name) and name not in (*read, *also):
            others = f"it reads {', '.join(read)}" if read else "it reads no such field"
            raise UserError(
                f"{where}.{name}={value!r} is not for {where}.kind={own.kind!r}: {others}. "
                "Leave it out, or choose another kind."
            )
    if own.kind != "schedule_free_adamw":
        return
    if own.decay != "none":
        raise UserError(
            f"{where}.kind='schedule_free_adamw' has an average in place of a decay. Use "
            f"--{where}.decay=none with it."
        )
    if not own.beta1:
        raise UserError(f"{where}.beta1=0: 'schedule_free_adamw' needs a beta1 above 0.")


def _check_batches(config: Config) -> None:
    """Batches must divide into micro-batches, and both over the devices."""
    mesh, rl, stage = config.mesh, config.rl, config.pretrain
    _check_divides(
        ("config.mesh.slices", mesh.slices),
        ("config.mesh.data", mesh.data),
        "each slice holds the same number of copies of the parameters",
    )
    devices = ("config.mesh.data * config.mesh.fsdp", mesh.batch_devices)
    shared = "the devices take equal parts of a batch"
    _check_divides(devices, ("config.evaluation.batch", config.evaluation.batch), shared)
    if config.sampler.rule == "state":
        minibatch = ("config.rl.head.minibatch", rl.head.minibatch)
        _check_divides(devices, minibatch, shared)
    rollouts = ("config.rl.prompts * config.rl.group", rl.prompts * rl.group)
    batches = [(rollouts, ("config.rl.micro_batch", _number(rl.micro_batch)))]
    if stage.steps:  # otherwise there is no such batch
        batch = ("config.pretrain.batch", stage.batch)
        batches.append((batch, ("config.pretrain.micro_batch", _number(stage.micro_batch))))
    for batch, micro_batch in batches:
        _check_divides(micro_batch, batch)
        _check_divides(devices, micro_batch, shared)
        _check_divides(devices, batch, shared)


def _number(size: int | str | None) -> int | None:
    """A size, or None if it is still to be chosen: `run.sizes` chooses one that divides."""
    return None if size == AUTO else size


def _check_divides(
    part: tuple[str, int | None], whole: tuple[str, int | None], reason: str = ""
) -> None:
    """Raises `UserError` if one named number does not divide another; None is no number."""
    if part[1] and whole[1] and whole[1] % part[1]:
        texts = [f"{name}={number}" for name, number in (part, whole)]
        raise UserError(" does not divide ".join(texts) + (f": {reason}." if reason else "."))
