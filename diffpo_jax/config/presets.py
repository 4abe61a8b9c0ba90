"""Named changes of a configuration, as in --config=configs/gsm8k.py:llada_8b,d1 .

There are three kinds.  A size sets the model and all numbers of steps and rows.  An algorithm sets
how rollouts are made and learned from.  s1k sets the training data of the base model.  Fields that
a publication does not give keep their values.

Sources: shapes come from the models' own config.json (of SDAR-1.7B from that of Qwen3-1.7B, and
from the size of its file, whose head is not tied); d1's training from arXiv 2504.12216 and the
repository dllm-reasoning/d1 (its batch scripts, which its authors call authoritative); DiFFPO's
from arXiv 2510.02212, and where that is silent, from d1 or our choice.

Weights and tokenizers of published models are named on the Hugging Face hub; directories work as
well.  d1 quantises frozen weights to 4 bits; here that takes config.model.quantized=nf4.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

from ml_collections import ConfigDict

from diffpo_jax.config import StudyConfig, convert
from diffpo_jax.system.errors import UserError

Change = Callable[[ConfigDict], None]

_SMALL = 2048  # the largest width of published models for one GPU


def joint_by_state(config: ConfigDict) -> None:
    """The recipe for small models: the denoiser, and a head that sees each state, together.

    docs/recipe.md has what was tried.
    """
    rl = config.rl
    config.sampler.rule, config.sampler.temperature = "state", 1.0
    config.method, rl.steps, rl.inner_updates = "diffpo_no_is", 150, 2
    rl.optimizer.denoiser_lr, rl.optimizer.decay = 3e-4, "linear"


def any_task(*, answer: str = "tags", prompt_length: int = 512) -> dict[str, Change]:
    """The sizes that go with every task: smoke, study, and the published models.

    Args:
      answer: the format of a published model's answers, for config.task.prompt.answer.
      prompt_length: the most tokens of a published model's prompts.
    """
    sizes = {"smoke": smoke, "study": study(80)}
    return sizes | published(answer=answer, prompt_length=prompt_length)


def smoke(config: ConfigDict) -> None:
    """All stages of a small task in about a minute on a core: enough to see a tiny model learn."""
    _shrink(config)
    examples = config.task.get(config.task.name, {})
    for split, count in (("train", 2_000), ("validation", 128), ("test", 256)):
        if f"{split}_examples" in examples:  # a generated task
            examples[f"{split}_examples"] = count
    config.pretrain.steps, config.pretrain.batch = 120, 64
    _show_all(config)
    config.rl.steps, config.rl.prompts, config.rl.inner_updates = 100, 32, 2
    config.rl.optimizer.denoiser_lr = 1e-3
    config.pretrain.decay = config.rl.optimizer.decay = "none"
    config.evaluation.batch, config.evaluation.every = 256, 25
    config.evaluation.examples = config.evaluation.validation_examples = 256
    config.checkpoint.every = config.logging.samples_every = 50


def study(steps: int) -> Change:
    """The paper's sampler in runs of a few minutes on one core, for studies of many runs.

    Steps of 256 rollouts.  All else is the task's default: its base and what that is shown, its
    rates and temperature.

    Args:
      steps: RL steps.
    """

    def change(config: ConfigDict) -> None:
        prompt(config)
        config.rl.prompts, config.rl.group = 32, 8
        config.rl.steps, config.evaluation.every = steps, max(1, steps // 5)
        config.evaluation.factors, config.evaluation.base_rules = (0.5, 2.0), ()
        config.checkpoint.every, config.logging.samples_every = 20, None

    return change


def characters(config: ConfigDict) -> None:
    """A tiny character model that answers a few rows of text: a test of the whole path."""
    _shrink(config)
    config.task.validation_examples = 2
    config.sampler.prompt_length, config.sampler.length = 256, 8
    config.sampler.stop_at_end, config.model.positions = True, "auto"
    config.pretrain.steps, config.pretrain.batch = 20, 16
    config.rl.steps, config.rl.prompts = 4, 4
    config.evaluation.batch, config.evaluation.every, config.evaluation.examples = 16, 2, 16
    config.checkpoint.every = config.logging.samples_every = 2


def _show_all(config: ConfigDict) -> None:
    config.pretrain.demonstrations.difficulty = config.pretrain.demonstrations.count = None


def _shrink(config: ConfigDict) -> None:
    config.model.width, config.model.layers, config.model.ff = 32, 2, 64
    config.model.heads = config.model.kv_heads = 2
    config.rl.group = 4
    config.evaluation.gammas = (0.0, 0.1, 1.0)


def published(*, answer: str, prompt_length: int) -> dict[str, Change]:
    """The sizes of published models for a task.

    Args:
      answer: the format of the task's answers, for config.task.prompt.answer.
      prompt_length: the most tokens of its prompts.
    """
    change = functools.partial(_published, answer=answer, prompt_length=prompt_length)
    shapes = (llada_8b, dream_7b, qwen3_0_6b, qwen2_5_coder_0_5b, open_dcoder_0_5b)
    shapes += (qwen3_0_6b_from_ar, qwen2_5_0_5b_from_ar)
    shapes += (qwen3_0_6b_bd, sdar_1_7b, sdar_8b, fast_dllm_v2_7b)
    return {shape.__name__: functools.partial(change, shape) for shape in shapes}


def llada_8b(config: ConfigDict) -> None:
    """LLaDA-8B-Instruct, 8.02e9 parameters.  config.model.weights takes other LLaDA weights."""
    model, tokenizer = config.model, config.tokenizer
    model.family = "llada"
    model.weights = tokenizer.name = "GSAI-ML/LLaDA-8B-Instruct"
    tokenizer.mask, tokenizer.pad = "<|mdm_mask|>", "<|endoftext|>"
    tokenizer.ends, tokenizer.closing = ("<|endoftext|>", "<|eot_id|>"), "<|eot_id|>"
    model.width, model.layers, model.heads, model.kv_heads, model.ff = 4096, 32, 32, 32, 12288
    model.vocab, model.rope_theta, model.norm_eps = 126_464, 500_000.0, 1e-5


def dream_7b(config: ConfigDict) -> None:
    """Dream-v0-Instruct-7B: shape and tokenizer of Qwen2.5-7B, with a mask token added."""
    model, tokenizer = config.model, config.tokenizer
    model.family, model.qkv_bias = "dream", True
    model.weights = tokenizer.name = "Dream-org/Dream-v0-Instruct-7B"
    tokenizer.kind = "Qwen2Tokenizer"  # its own class is code on the hub
    tokenizer.mask, tokenizer.pad = "<|mask|>", "<|endoftext|>"
    tokenizer.ends, tokenizer.closing = ("<|endoftext|>", "<|im_end|>"), "<|im_end|>"
    model.width, model.layers, model.heads, model.kv_heads, model.ff = 3584, 28, 28, 4, 18944
    model.vocab, model.rope_theta, model.norm_eps = 152_064, 1_000_000.0, 1e-6


def qwen3_0_6b(config: ConfigDict) -> None:
    """A conversion of Qwen3-0.6B, 0.60e9 parameters, for a single GPU."""
    model, tokenizer = config.model, config.tokenizer
    _qwen(config, "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1", family="a2d_qwen3")
    tokenizer.mask, tokenizer.mask_id = "<|mask|>", 151_669
    tokenizer.chat_arguments = ("enable_thinking=False",)
    model.qk_norm, model.head_dim = True, 128
    model.width, model.layers, model.heads, model.kv_heads, model.ff = 1024, 28, 16, 8, 3072


def qwen2_5_coder_0_5b(config: ConfigDict) -> None:
    """A conversion of Qwen2.5-Coder-0.5B-Instruct, 0.49e9 parameters, for a single GPU."""
    _qwen(config, "dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm", family="a2d_qwen2")
    config.tokenizer.mask, config.tokenizer.mask_id = "<|mask|>", 151_665
    _qwen2_5_0_5b(config)


def open_dcoder_0_5b(config: ConfigDict) -> None:
    """Open-dCoder, 0.49e9 parameters, for a single GPU; its tokenizer names the mask token."""
    _qwen(config, "fredzzp/open-dcoder-0.5B", family="open_dcoder")
    _qwen2_5_0_5b(config)


def qwen3_0_6b_from_ar(config: ConfigDict) -> None:
    """Qwen3-0.6B-Base as published, which writes from left to right; SFT converts it before RL."""
    qwen3_0_6b(config)
    config.model.weights = config.tokenizer.name = "Qwen/Qwen3-0.6B-Base"
    config.model.autoregressive = True


def qwen2_5_0_5b_from_ar(config: ConfigDict) -> None:
    """Qwen2.5-0.5B as published, which writes from left to right; SFT converts it before RL."""
    qwen2_5_coder_0_5b(config)
    config.model.weights = config.tokenizer.name = "Qwen/Qwen2.5-0.5B"
    config.model.autoregressive = True


def qwen3_0_6b_bd(config: ConfigDict) -> None:
    """A conversion of Qwen3-0.6B to block diffusion, 0.60e9 parameters, for a single GPU."""
    qwen3_0_6b(config)
    config.model.weights = config.tokenizer.name = "dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1"
    _by_blocks(config, 32)


def sdar_1_7b(config: ConfigDict) -> None:
    """SDAR-1.7B-Chat, a block diffusion model of Qwen3's shape, 2.03e9 parameters, for one GPU."""
    _sdar(config, "JetLM/SDAR-1.7B-Chat")
    model = config.model
    model.width, model.layers, model.heads, model.kv_heads, model.ff = 2048, 28, 16, 8, 6144


def sdar_8b(config: ConfigDict) -> None:
    """SDAR-8B-Chat, 8.19e9 parameters.  config.model.weights takes others of the family."""
    _sdar(config, "JetLM/SDAR-8B-Chat")
    model = config.model
    model.width, model.layers, model.heads, model.kv_heads, model.ff = 4096, 36, 32, 8, 12288


def fast_dllm_v2_7b(config: ConfigDict) -> None:
    """Fast-dLLM v2, of Qwen2.5-7B's shape, 7.62e9 parameters: blocks of 32, written 8 at a time."""
    _qwen(config, "Efficient-Large-Model/Fast_dLLM_v2_7B", family="fast_dllm_v2")
    model, tokenizer = config.model, config.tokenizer
    tokenizer.mask, tokenizer.mask_id = "|<MASK>|", 151_665
    model.tied, model.vocab, model.qkv_bias = False, 152_064, True
    model.width, model.layers, model.heads, model.kv_heads, model.ff = 3584, 28, 28, 4, 18944
    _by_blocks(config, 32, origin="prompt", written=8)


def _sdar(config: ConfigDict, name: str) -> None:
    _qwen(config, name, family="sdar")
    config.tokenizer.mask, config.tokenizer.mask_id = "<|MASK|>", 151_669
    config.model.tied, config.model.qk_norm, config.model.head_dim = False, True, 128
    _by_blocks(config, 4, origin="prompt")


def _by_blocks(
    config: ConfigDict, size: int, *, origin: str = "completion", written: int | None = None
) -> None:
    """Attention by blocks of a size, and rollouts that write so many positions at a time."""
    config.model.attention_block, config.model.attention_origin = size, origin
    config.sampler.block_length, config.sampler.cache = written or size, "block"


def _qwen(config: ConfigDict, name: str, *, family: str) -> None:
    """What conversions of Qwen share."""
    model, tokenizer = config.model, config.tokenizer
    model.family, model.weights, tokenizer.name = family, name, name
    # transformers does not know the conversions' model_type, by which it would find the class.
    tokenizer.kind, tokenizer.pad = "Qwen2Tokenizer", "<|endoftext|>"
    tokenizer.ends, tokenizer.closing = ("<|endoftext|>", "<|im_end|>"), "<|im_end|>"
    model.tied, model.vocab = True, 151_936
    model.rope_theta, model.norm_eps = 1_000_000.0, 1e-6


def _qwen2_5_0_5b(config: ConfigDict) -> None:
    model = config.model
    model.qkv_bias = True
    model.width, model.layers, model.heads, model.kv_heads, model.ff = 896, 24, 14, 2, 4864


def _published(shape: Change, config: ConfigDict, *, answer: str, prompt_length: int) -> None:
    """Settings of all published models: bfloat16, 96 rollouts of 256 tokens a step.

    The large ones take 8 devices.
    """
    shape(config)
    model, rl = config.model, config.rl
    model.dtype, model.remat, model.positions = "bfloat16", True, None
    model.embedding_std = 0.02
    prompt(config)
    _show_all(config)
    config.mesh.fsdp = 1 if model.width <= _SMALL else 8
    config.pretrain.steps = 0
    wording, sampler = config.task.prompt, config.sampler
    wording.template, wording.chat, wording.answer = "words", True, answer
    sampler.prompt_length, sampler.length = prompt_length, 256
    if not model.attention_block:
        sampler.block_length = 32
    sampler.temperature, sampler.stop_at_end = 0.9, True
    _set_d1_training(config)
    rl.optimizer.denoiser_lr, rl.optimizer.threshold_lr = 3e-6, 1e-3
    rl.optimizer.decay, config.method = "none", "diffpo"
    config.evaluation.gammas = (0.0, 0.01, 0.05, 0.1, 0.3, 1.0)
    config.evaluation.examples, config.evaluation.batch = None, 64
    config.evaluation.base_rules = ()  # each costs as much as the base's own frontier
    # d1's numbers of updates, as its authors give them, in whole rollout batches; for other tasks
    # as many as for Countdown (our choice).
    updates = {"gsm8k": 7_700, "math500": 6_600, "sudoku": 3_800}
    rl.steps = updates.get(config.task.name, 5_000) // rl.inner_updates
    # d1 saves and evaluates after every hundredth update.
    config.checkpoint.every = config.evaluation.every = 100 // rl.inner_updates
    if config.model.autoregressive:
        _convert(config)


def _convert(config: ConfigDict) -> None:
    """SFT that makes a diffusion model of a network that writes from left to right.

    The recipe is dllm's for its small conversions of Qwen (repository ZHZisZZ/dllm,
    examples/a2d/mdlm/sft.py and README.md): all weights are trained with attention over the whole
    row, answers alone are hidden, the end of text behind them too, each token's loss has the weight
    1/t, and logits stay at their position (config.model.logit_shift=1 is the other way, that of
    Dream and Open-dCoder).  AdamW at 1e-4 without weight decay, warm-up in a tenth of the steps.
    Batch 128 and 20 epochs, here those of GSM8K, are its example on one data set; the published
    models took 10 epochs of four data sets in batches of 2,048.  Our choices: the rate falls
    linearly in place of a cosine, and the mask token's embedding begins as the mean of the others,
    where dllm has an unused row of the checkpoint.
    """
    stage, rows = config.pretrain, config.pretrain.demonstrations
    stage.steps, stage.warmup, stage.decay = 1_170, 117, "linear"
    stage.batch, stage.learning_rate = 128, 1e-4
    # Solutions as the data set writes them, after the prompt that RL has.
    columns = {
        "gsm8k": ("openai/gsm8k:main:train", "question", "answer"),
        "math500": ("ankner/math-500::train", "problem", "solution"),
    }
    if config.task.name in columns:
        rows.source, question, answer = columns[config.task.name]
        config.task.prompt.template = "{question}"
        rows.prompt, rows.answer = f"{{{question}}}", f"{{{answer}}}"
        rows.chat, rows.truncate = True, True
    if config.task.name == "gsm8k":
        config.task.prompt.answer = "text"  # the last number, which its solutions end in


def s1k(config: ConfigDict) -> None:
    """SFT on s1K before RL, as in d1's *_sft runs (arXiv 2504.12216, simplescaling/s1K).

    d1 cuts prompt and answer together at 4,096 tokens and pads on the right; here prompts have
    1,024 of them and answers 3,072.  Put s1k behind the size, as in llada_8b,s1k, because a
    size may turn SFT off.  d1's instructions go into a template with {question}:
    config.pretrain.demonstrations.prompt=@FILE .
    """
    stage, rows = config.pretrain, config.pretrain.demonstrations
    _show_all(config)
    rows.source, rows.chat, rows.truncate = "simplescaling/s1K", True, True
    rows.answer = "<reasoning>{thinking_trajectories[0]}</reasoning>\n<answer>{attempt}</answer>"
    rows.prompt_length, rows.length = 1024, 3072
    # 20 epochs in batches of 8, the batch size that its authors trained with.
    stage.steps, stage.batch, stage.micro_batch = 2_460, 8, 8
    stage.learning_rate, stage.warmup, stage.decay = 1e-5, 0, "linear"
    stage.weight_decay, stage.max_grad_norm = 0.1, 1.0


def lora(config: ConfigDict) -> None:
    """An adapter of rank 128 on every projection, over frozen bfloat16 weights.

    Rank and alpha are d1's.  Its code names seven projections, four of which exist in LLaDA under
    those names; preset d1 has those four.
    """
    config.lora.rank, config.lora.alpha = 128, 64.0
    config.model.param_dtype = "bfloat16"


def t4(config: ConfigDict) -> None:
    """An adapter on one NVIDIA T4 (16 GB), as in free notebooks: behind a size, qwen3_0_6b,t4.

    Steps are short enough to see some of them in a session, and each of the last is saved.  A T4
    has no bfloat16 units: XLA converts the operands of such products to float32, which takes time
    and memory and gains none (seen in programs compiled for it).  So activations are float32 and
    frozen weights, which are converted a layer at a time, bfloat16.  float16 is not offered: its
    gradients need a scaled loss, and activations of Qwen's models are known to overflow in it.
    """
    lora(config)
    config.model.dtype = "float32"
    if not config.model.attention_block:  # by blocks the cache is exact
        config.sampler.cache = "dual"
    rl, evaluation = config.rl, config.evaluation
    rl.prompts, rl.micro_batch, rl.inner_updates, rl.steps = 4, rl.group, 4, 200
    config.checkpoint.every = 1
    evaluation.every, evaluation.examples, evaluation.validation_examples = 20, 64, 32
    evaluation.batch, evaluation.gammas = 32, (0.05, 0.3, 1.0)


def d1(config: ConfigDict) -> None:
    """diffu-GRPO as d1's code computes it (arXiv 2504.12216, repository dllm-reasoning/d1).

    Two tokens a call, those whose drawn token is the most probable at temperature 1; one anchor
    with prompt masking; scores at temperature 1 and with the mask token included, whatever the
    rollouts' temperature; tokens after the first end of text do not count; the mean is over
    tokens, not sequences.  Its accidents are left out: attention to padding, dropout in rollouts,
    repeated prompt masks.
    """
    prompt(config)
    config.method, config.mode = "d1", "model"
    config.sampler.rule, config.sampler.ranking = "top_k", "drawn"
    config.sampler.steps, config.evaluation.steps = "half", "rollouts"
    if config.task.name in ("sudoku", "countdown"):
        config.evaluation.subset, config.evaluation.examples = "d1", 256
    config.sampler.temperature, config.sampler.stop_at_end = 0.9, False
    config.rl.likelihood.temperature, config.rl.likelihood.keep_mask = 1.0, True
    config.rl.objective.count, config.rl.objective.aggregation = "to_end", "token"
    config.rl.speed.weight, config.rl.optimizer.beta2 = 0.0, 0.99
    _set_d1_training(config)
    if config.model.family != "tiny":
        lora(config)
        # d1 also names attn_out, ff_proj and ff_out, but LLaDA has no such projections.
        if config.model.family == "llada":
            config.lora.targets = ("q", "k", "v", "up")
        config.tokenizer.ends = config.tokenizer.ends[:1]  # an end of turn is an ordinary token


def _set_d1_training(config: ConfigDict) -> None:
    rl, objective, optimizer = config.rl, config.rl.objective, config.rl.optimizer
    # 12 rows of 768 tokens fill a GPU, and leave room on one of 16 GB.
    small = config.model.family != "tiny" and config.model.width <= _SMALL
    rl.prompts, rl.group, rl.micro_batch = 16, 6, 12 if small else 48
    rl.inner_updates = 12 if config.task.name in ("gsm8k", "math500") else 8
    objective.clip_low = objective.clip_high = 0.5
    objective.kl, objective.kl_estimator, objective.advantage = 0.04, "k3", "mean"
    optimizer.weight_decay, optimizer.max_grad_norm = 0.1, 0.2


def dream(config: ConfigDict) -> None:
    """Dream's published decoding (`diffusion_generate` of Dream-org/Dream-v0-Instruct-7B).

    All positions at once, on its grid of times, by `alg="entropy"`; the others are
    `--config.sampler.ranking=confidence` ("maskgit_plus") and margin ("topk_margin").  A call for
    each token, as in its examples, and none saved after the end of the text.  The order is Dream's
    at temperature 0, that of evaluations.  At higher ones Dream ranks by the tempered distribution;
    that, top-p, alg="origin" and alg_temp are not offered.
    """
    prompt(config)
    config.mode, sampler = "model", config.sampler
    sampler.rule, sampler.ranking, sampler.schedule = "top_k", "entropy", "dream"
    sampler.steps = sampler.block_length = "length"
    sampler.stop_at_end = False
    config.evaluation.steps = "rollouts"


def d2(config: ConfigDict) -> None:
    """Sixteen segments without weights, in the manner of d2-StepMerge (arXiv 2509.21474).

    Segments are even in committed tokens.  d2's are even in steps, which a sampler without a
    fixed number of steps cannot know in advance.
    """
    prompt(config)
    config.method = "diffpo_no_is"
    config.rl.likelihood.anchors, config.rl.likelihood.schedule = 16, "even"


def gspo(config: ConfigDict) -> None:
    """One ratio per sequence, the geometric mean of its tokens' (GSPO, arXiv 2507.18071)."""
    prompt(config)
    config.method, config.rl.inner_updates = "diffpo_no_is", 4
    objective = config.rl.objective
    objective.ratio, objective.advantage = "sequence", "group_std"
    objective.clip_low, objective.clip_high = 3e-4, 4e-4


def justgrpo(config: ConfigDict) -> None:
    """Rollouts from left to right, one token a call, with their exact likelihood (JustGRPO).

    The order is fixed in training only; evaluations decode in parallel.
    """
    prompt(config)
    config.method, config.mode = "diffpo_no_is", "model"
    config.evaluation.block_length = config.sampler.block_length
    config.sampler.block_length, config.sampler.temperature = 1, 1.0
    config.rl.likelihood.anchors = "all"
    config.rl.objective.advantage, config.rl.speed.weight = "group_std", 0.0


def lightning(config: ConfigDict) -> None:
    """LightningRL, as its repository SJTU-DENG-Lab/LightningRL computes it.

    The numbers are those of its configs/lightningrl.yaml.  Accuracy and tokens per call are
    normalised apart; the likelihood of right rollouts is raised; prompts are left out if no rollout
    was right, or all were about as fast.  Rollouts commit tokens of a confidence of 0.9, and only
    the denoiser is trained.  Its code scores each block once, all masked, behind the blocks before
    it, so that the preset belongs behind a model with attention by blocks: blocks,lightning.  Its
    code takes a rollout for right if its reward, of which speed is a part, is at least 0; here the
    task's verdict decides.
    """
    _own_sampler(config)
    likelihood, objective = config.rl.likelihood, config.rl.objective
    likelihood.anchors, config.rl.speed.weight = 1, 1.0
    objective.advantage, objective.count = "decoupled_group", "to_end"
    objective.drop_unsolved, objective.least_spread = True, 0.01
    objective.right_likelihood, objective.kl = 0.1, 0.01


def trace(config: ConfigDict) -> None:
    """TraceRL without its value model (arXiv 2509.06949; repository Gen-Verse/dLLM-RL).

    Tokens are scored in the rollout's own states.  With attention by blocks these are all, as in
    configs/rl_sdar.yaml and rl_trado.yaml, whose sampler this is; otherwise eight calls share one,
    as in rl_llada.yaml and rl_dream.yaml, or two where answers are short (our choice).  Accuracy
    alone is rewarded.  Not offered: its KL to the policy of the rollouts, and leaving out prompts
    that fewer than a fifth or more than four fifths of the rollouts got right.  The preset belongs
    behind those that change the model: blocks,trace.
    """
    _own_sampler(config)
    likelihood, objective = config.rl.likelihood, config.rl.objective
    likelihood.anchors, config.rl.speed.weight = "all", 0.0
    if config.model.attention_block is None:
        likelihood.shrink = 2 if config.model.family == "tiny" else 8
    objective.advantage, objective.aggregation, objective.kl = "group_std", "constant", 0.0


def _own_sampler(config: ConfigDict) -> None:
    """The fixed sampler of LightningRL and TraceRL: tokens of a confidence of 0.9."""
    prompt(config)
    config.method, config.mode, sampler = "diffpo_no_is", "model", config.sampler
    sampler.rule, sampler.confidence, sampler.temperature = "confidence", 0.9, 1.0
    config.rl.objective.clip_low = config.rl.objective.clip_high = 0.2


def blocks(config: ConfigDict) -> None:
    """Block diffusion: a position sees its own block of 4 and those before it (BD3LM)."""
    _by_blocks(config, 4)


def prompt(config: ConfigDict) -> None:
    """The paper's sampler: a head that reads the prompt and gives one threshold for all calls."""
    if config.sampler.rule == "state":
        config.sampler.rule = "entropy_bounded"


def paper(config: ConfigDict) -> None:
    """Importance weights, and the anchor at a fraction of each rollout's own number of calls.

    That number is known only at the end, so the surrogate does not sum to one (see
    `diffusion.anchors`).  The configuration keeps whatever the paper leaves open.
    """
    prompt(config)
    config.method = "diffpo"
    config.rl.likelihood.schedule = "calls"


def state(config: ConfigDict) -> None:
    """A sampler that sees each state, trained alone over a frozen denoiser (beyond the paper).

    A head decides at every call how many positions are committed, by the price of a call, so that
    one run gives a whole frontier.  `--config.mode=joint` also trains the denoiser; rollouts then
    need a temperature: `--config.sampler.temperature=1.0`.
    """
    config.sampler.rule, config.mode = "state", "sampler"
    rl, rules = config.rl, ("entropy_sum", "entropy_bounded", "confidence")
    config.evaluation.base_rules = rules
    if config.model.family != "tiny":
        config.evaluation.base_rules = rules[:1]  # each costs as much as the base's own frontier
        rl.head.minibatch = 128  # of the 96 rollouts of a step
        return
    # A frozen denoiser needs no exploration in its tokens.  As many rollouts of more prompts teach
    # the head more than larger groups do.
    config.sampler.temperature, rl.optimizer.decay, rl.objective.kl = 0.0, "linear", 0.0
    rl.steps = min(300, 2 * rl.steps)
    rl.prompts, rl.group = 2 * rl.prompts, max(2, rl.group // 2)


ALGORITHMS: Mapping[str, Change] = {
    change.__name__: change
    for change in (
        s1k,
        lora,
        t4,
        d1,
        dream,
        d2,
        gspo,
        justgrpo,
        lightning,
        trace,
        prompt,
        paper,
        state,
    )
}


def apply(config: ConfigDict, preset: str, sizes: Mapping[str, Change], file: str) -> ConfigDict:
    """Applies presets, separated by commas, from left to right; "default" changes nothing.

    Args:
      sizes: the sizes of the config file.
      file: its name, for the message.

    Raises:
      UserError: a name that is neither a size of the file nor an algorithm.
    """
    known = {"default": lambda config: None, **sizes, **ALGORITHMS}
    for name in preset.split(","):
        if name not in known:
            raise UserError(f"{file} has no preset {name!r}; there are: {', '.join(known)}.")
        known[name](config)
    return config


def comparison(
    file: str,
    preset: str,
    *,
    title: str,
    arms: Mapping[str, str],
    tasks: Sequence[str] = ("sudoku", "countdown"),
    reference: str | None = None,
    default: str = "study",
) -> ConfigDict:
    """A study that compares runs of this project's config files.

    Args:
      file: `__file__` of the study's config, in configs/studies/.
      preset: of the tasks' config files; "default" means `default`.
      arms: overrides by label, "field=value field=value".
      tasks: names of config files.
      reference: label of the arm that the others are compared with.
      default: the preset that the study is meant for; "study" has the paper's sampler, which
        other presets get too, because the arms are made for it.
    """
    config = convert.as_config_dict(StudyConfig())
    configs = os.path.relpath(pathlib.Path(file).parent.parent)
    if preset == "default":
        preset = default
    elif default == "study":
        preset = f"{preset},{prompt.__name__}"
    config.grid.title, config.grid.reference = title, reference
    config.grid.tasks = tuple(f"{configs}/{task}.py:{preset}" for task in tasks)
    config.grid.arms = tuple(f"{label}: {fields}" for label, fields in arms.items())
    return config


def measurement(file: str, preset: str, algorithm: str) -> ConfigDict:
    """A study that measures one run of Sudoku or, with "countdown" among the presets, of Countdown.

    Args:
      file: `__file__` of the study's config, in configs/studies/.
      preset: of the task's config file.
      algorithm: a preset that is applied last.
    """
    words = preset.split(",")
    task = "countdown" if "countdown" in words else "sudoku"
    rest = ",".join(word for word in words if word != task) or "default"
    config = convert.as_config_dict(StudyConfig())
    path = pathlib.Path(file).parent.parent / task
    config.run = convert.dict_from_file(f"{path}.py:{rest},{algorithm}")
    return config
