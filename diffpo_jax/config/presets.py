"""Changes of a configuration by name: --config=configs/gsm8k.py:llada_8b,d1 .

A size decides the model and how much of everything there is; an algorithm how rollouts are made
and what is learned from them; s1k what the base model is trained on.  What the publications leave
open stays the configuration's.

Where numbers come from: shapes from the models' own config.json; d1's training from arXiv
2504.12216 and the repository dllm-reasoning/d1 (its batch scripts, which its authors call
authoritative); DiFFPO's from arXiv 2510.02212, and where that is silent, d1's or our choice.

The presets of published models name weights and tokenizers of the Hugging Face hub; a directory
does as well (config.model.weights, config.tokenizer.name).  d1's frozen weights are of 4 bits; here
they are bfloat16 unless config.model.quantized=nf4.
"""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

from ml_collections import ConfigDict

from diffpo_jax.config import StudyConfig, convert
from diffpo_jax.system.errors import UserError

Change = Callable[[ConfigDict], None]

# Sizes.


def smoke(config: ConfigDict) -> None:
    """All stages in about a minute, of a task with generated examples; its numbers mean nothing."""
    config.model.width, config.model.layers, config.model.ff = 32, 2, 64
    config.model.heads = config.model.kv_heads = 2
    examples = config.task[config.task.name]
    examples.train_examples, examples.validation_examples, examples.test_examples = 512, 64, 64
    config.pretrain.steps, config.pretrain.batch, config.pretrain.micro_batch = 12, 32, 0
    config.rl.steps, config.rl.prompts, config.rl.group, config.rl.micro_batch = 8, 8, 4, 16
    config.rl.inner_updates = 2
    config.pretrain.decay = config.rl.optimizer.decay = "none"
    config.evaluation.gammas = (0.0, 0.1, 1.0)
    config.evaluation.batch, config.evaluation.every = 64, 4
    config.checkpoint.every = 3
    config.logging.samples_every = 4


def study(steps: int) -> Change:
    """A run of at most about five minutes on a core, of which a study has many.

    Args:
      steps: of RL.
    """

    def change(config: ConfigDict) -> None:
        config.rl.steps, config.evaluation.every = steps, max(1, steps // 6)
        config.evaluation.factors = (0.5, 2.0)
        config.checkpoint.every, config.logging.samples_every = 20, 0

    return change


def characters(config: ConfigDict) -> None:
    """A character model that writes bare answers to a few rows of text: it proves the path."""
    config.task.validation_examples = 2
    config.sampler.prompt_length = 256
    config.sampler.length = config.sampler.block_length = config.sampler.steps = 8
    config.sampler.stop_at_end = True
    config.model.width, config.model.layers, config.model.ff = 32, 2, 64
    config.model.heads = config.model.kv_heads = 2
    config.model.positions = config.sampler.prompt_length + config.sampler.length
    config.pretrain.steps, config.pretrain.batch = 20, 16
    config.rl.steps, config.rl.prompts, config.rl.group, config.rl.micro_batch = 4, 4, 4, 16
    config.evaluation.gammas = (0.0, 0.1, 1.0)
    config.evaluation.batch, config.evaluation.every, config.evaluation.examples = 16, 2, 16
    config.checkpoint.every = config.logging.samples_every = 2


def published(*, answer: str, prompt_length: int) -> dict[str, Change]:
    """The sizes of published models, for a task.

    Args:
      answer: how the task's answers are marked.
      prompt_length: tokens that its prompts take at most.
    """

    def of(shape: Change) -> Change:
        def change(config: ConfigDict) -> None:
            shape(config)
            _published(config)
            config.task.prompt.answer, config.sampler.prompt_length = answer, prompt_length

        return change

    return {"llada_8b": of(llada_8b), "dream_7b": of(dream_7b)}


def llada_8b(config: ConfigDict) -> None:
    """LLaDA-8B-Instruct: 8.02e9 parameters.  Other LLaDA weights by config.model.weights."""
    model, tokenizer = config.model, config.tokenizer
    model.family = "llada"
    model.weights = tokenizer.name = "GSAI-ML/LLaDA-8B-Instruct"
    tokenizer.mask, tokenizer.pad = "<|mdm_mask|>", "<|endoftext|>"
    tokenizer.ends, tokenizer.closing = ("<|endoftext|>", "<|eot_id|>"), "<|eot_id|>"
    model.vocab = 126_464
    model.width, model.layers, model.heads, model.kv_heads, model.ff = 4096, 32, 32, 32, 12288
    model.rope_theta, model.norm_eps = 500_000.0, 1e-5


def dream_7b(config: ConfigDict) -> None:
    """Dream-v0-Instruct-7B: the shape of Qwen2.5-7B, whose tokenizer it has, with a mask token."""
    model, tokenizer = config.model, config.tokenizer
    model.family, model.qkv_bias = "dream", True
    model.weights = tokenizer.name = "Dream-org/Dream-v0-Instruct-7B"
    tokenizer.kind = "Qwen2Tokenizer"  # its own class is code on the hub
    tokenizer.mask, tokenizer.pad = "<|mask|>", "<|endoftext|>"
    tokenizer.ends, tokenizer.closing = ("<|endoftext|>", "<|im_end|>"), "<|im_end|>"
    model.vocab = 152_064
    model.width, model.layers, model.heads, model.kv_heads, model.ff = 3584, 28, 28, 4, 18944
    model.rope_theta, model.norm_eps = 1_000_000.0, 1e-6


def _published(config: ConfigDict) -> None:
    """What models of that size share: bfloat16, eight devices, 96 rollouts of 256 tokens a step."""
    model, rl = config.model, config.rl
    model.dtype, model.remat, model.scan_unroll, model.positions = "bfloat16", True, 1, 0
    model.embedding_std = 0.02
    config.mesh.fsdp = 8
    config.pretrain.steps = 0
    config.task.prompt.template, config.task.prompt.chat = "words", True
    sampler = config.sampler
    sampler.length, sampler.block_length, sampler.temperature = 256, 32, 0.9
    sampler.stop_at_end = True
    rl.prompts, rl.group, rl.micro_batch, rl.inner_updates = 16, 6, 48, _inner_updates(config)
    rl.objective.clip_low = rl.objective.clip_high = 0.5
    rl.objective.kl, rl.objective.kl_estimator, rl.objective.advantage = 0.04, "k3", "mean"
    rl.optimizer.denoiser_lr, rl.optimizer.threshold_lr = 3e-6, 1e-3
    rl.optimizer.weight_decay, rl.optimizer.max_grad_norm = 0.1, 0.2
    rl.optimizer.decay, config.method = "none", "diffpo"
    config.evaluation.gammas = (0.0, 0.01, 0.05, 0.1, 0.3, 1.0)
    config.evaluation.examples, config.evaluation.batch = 0, 64
    # d1's updates, as its authors give them, in whole rollout batches.
    updates = {"gsm8k": 7_700, "math500": 6_600, "countdown": 5_000, "sudoku": 3_800}
    rl.steps = updates[config.task.name] // rl.inner_updates
    # d1 saves, and looks at, every hundredth update.
    config.checkpoint.every = config.evaluation.every = 100 // rl.inner_updates


def s1k(config: ConfigDict) -> None:
    """SFT on s1K before RL, as d1's *_sft runs have it (arXiv 2504.12216, simplescaling/s1K).

    d1 cuts prompt and answer together at 4,096 tokens and pads on the right; here prompts have
    1,024 of them and answers 3,072.  Named after a size, which may do without pretraining.  Its
    instructions are to be given as a template: --config.pretrain.demonstrations.prompt=@FILE, where
    {question} has its place.
    """
    stage = config.pretrain
    rows = stage.demonstrations
    rows.source, rows.chat, rows.truncate = "simplescaling/s1K", True, True
    rows.answer = "<reasoning>{thinking_trajectories[0]}</reasoning>\n<answer>{attempt}</answer>"
    rows.prompt_length, rows.length = 1024, 3072
    # 20 epochs in batches of 8, the batch that its authors trained with.
    stage.steps, stage.batch, stage.micro_batch = 2_460, 8, 8
    stage.learning_rate, stage.warmup, stage.decay = 1e-5, 0, "linear"
    stage.weight_decay, stage.max_grad_norm = 0.1, 1.0
    if config.model.positions:
        config.model.positions = max(config.model.positions, rows.prompt_length + rows.length)


def lora(config: ConfigDict) -> None:
    """An adapter of rank 128 on every projection, over frozen bfloat16 weights.

    d1's rank and alpha.  Its code names seven projections of which LLaDA has four under those
    names; preset d1 has those four.
    """
    config.lora.rank, config.lora.alpha = 128, 64.0
    config.model.param_dtype = "bfloat16"


def _inner_updates(config: ConfigDict) -> int:
    return 12 if config.task.name in ("gsm8k", "math500") else 8


# What any size is combined with: algorithms, lora, and s1k.


def d1(config: ConfigDict) -> None:
    """diffu-GRPO as d1's code computes it (arXiv 2504.12216, repository dllm-reasoning/d1).

    Two tokens a call by confidence; one anchor with prompt masking; scores at temperature 1 and
    with the mask token left in, whatever the rollouts' temperature; tokens after the first end
    of text do not count; the mean is over tokens, not sequences.  Its accidents are left out:
    padding that is attended to, dropout in rollouts, prompt masks that repeat.
    """
    config.method, config.mode = "d1", "model"
    config.sampler.rule, config.sampler.steps = "top_k", config.sampler.length // 2
    config.evaluation.steps = (config.sampler.steps,)
    if config.task.name in ("sudoku", "countdown"):
        config.evaluation.subset, config.evaluation.examples = "d1", 256
    config.sampler.temperature, config.sampler.stop_at_end = 0.9, False
    config.rl.likelihood.temperature, config.rl.likelihood.keep_mask = 1.0, True
    objective = config.rl.objective
    objective.count, objective.aggregation, objective.advantage = "to_end", "token", "mean"
    objective.clip_low = objective.clip_high = 0.5
    objective.kl, objective.kl_estimator = 0.04, "k3"
    config.rl.speed.weight = 0.0
    config.rl.prompts, config.rl.group, config.rl.micro_batch = 16, 6, 48
    config.rl.inner_updates = _inner_updates(config)
    optimizer = config.rl.optimizer
    optimizer.beta2, optimizer.weight_decay, optimizer.max_grad_norm = 0.99, 0.1, 0.2
    if config.model.family != "tiny":
        lora(config)
        # Of its target names LLaDA has these; what it calls attn_out, ff_proj, ff_out is missed.
        if config.model.family == "llada":
            config.lora.targets = ("q", "k", "v", "up")
        config.tokenizer.ends = config.tokenizer.ends[:1]  # the end of a turn is a token like any


def d2(config: ConfigDict) -> None:
    """Sixteen segments without weights, in the manner of d2-StepMerge (arXiv 2509.21474).

    Segments are even in tokens committed; d2's are even in steps, which a sampler without a
    fixed number of steps does not know in advance.
    """
    config.method = "diffpo_no_is"
    config.rl.likelihood.anchors, config.rl.likelihood.schedule = 16, "even"


def gspo(config: ConfigDict) -> None:
    """One ratio a sequence, the geometric mean of its tokens' (GSPO, arXiv 2507.18071)."""
    config.method = "diffpo_no_is"
    objective = config.rl.objective
    objective.ratio, objective.advantage = "sequence", "group_std"
    objective.clip_low, objective.clip_high = 3e-4, 4e-4
    config.rl.inner_updates = 4


def justgrpo(config: ConfigDict) -> None:
    """Rollouts from left to right, a token a call, and their exact likelihood (JustGRPO).

    The order is given up in training alone; evaluations decode in parallel.
    """
    config.method, config.mode = "diffpo_no_is", "model"
    config.evaluation.block_length = config.sampler.block_length
    config.sampler.block_length, config.sampler.temperature = 1, 1.0
    config.rl.likelihood.anchors = 0
    config.rl.objective.advantage = "group_std"
    config.rl.speed.weight = 0.0


def paper(config: ConfigDict) -> None:
    """Importance weights, and the anchor at a fraction of each rollout's own calls.

    That number is known only at the end, so the surrogate does not sum to one; see
    `diffusion.anchors`.  What the paper leaves open stays the configuration's.
    """
    config.method = "diffpo"
    config.rl.likelihood.schedule = "calls"


ALGORITHMS: Mapping[str, Change] = {
    "s1k": s1k,
    "lora": lora,
    "d1": d1,
    "d2": d2,
    "gspo": gspo,
    "justgrpo": justgrpo,
    "paper": paper,
}


def apply(config: ConfigDict, preset: str, sizes: Mapping[str, Change], file: str) -> ConfigDict:
    """Applies presets, separated by commas, from left to right; "default" changes nothing.

    Args:
      sizes: the sizes the config file has.
      file: its name, for the message.

    Raises:
      UserError: a name that is neither of the file nor an algorithm.
    """
    known = {**sizes, **ALGORITHMS}
    for name in preset.split(","):
        if name == "default":
            continue
        if name not in known:
            names = ", ".join(["default", *known])
            raise UserError(f"{file} has no preset {name!r}; there are: {names}.")
        known[name](config)
    return config


def comparison(
    file: str,
    preset: str,
    *,
    title: str,
    arms: Mapping[str, str],
    tasks: Sequence[str] = ("sudoku", "countdown"),
    reference: str = "",
) -> ConfigDict:
    """A study that compares runs of config files of this project.

    Args:
      file: `__file__` of the study's config, in configs/studies/.
      preset: of the tasks' config files; "default" stands for "study".
      arms: overrides by label, "field=value field=value".
      tasks: names of config files.
      reference: label of the arm that the others are compared with.
    """
    config = convert.as_config_dict(StudyConfig())
    configs = os.path.relpath(pathlib.Path(file).parent.parent)
    preset = "study" if preset == "default" else preset
    config.grid.title = title
    config.grid.tasks = tuple(f"{configs}/{task}.py:{preset}" for task in tasks)
    config.grid.arms = tuple(f"{label}: {fields}" for label, fields in arms.items())
    config.grid.reference = reference
    return config
