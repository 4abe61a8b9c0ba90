"""The fields of the configuration: frozen dataclasses, one for each section.

A file in `configs/` starts from `convert.as_config_dict(Config())`, changes what it needs and
returns the ConfigDict, so that `--config.section.field=value` works on every field.
`convert.from_config_dict` turns the result into these dataclasses and checks them.  Functions take
the smallest section they need; CONTRIBUTING.md lists the parts that take the whole `Config`.

Annotations say which values a field may hold (see `values`).  "(our choice)" marks what the paper
leaves open.
"""

import dataclasses
import typing
from typing import Annotated, Literal

from diffpo_jax.config.values import Bound, Unlimited, Was

PositiveInt = Annotated[int, Bound("above 0", lambda x: x > 0)]
Count = Annotated[int, Bound("at least 0", lambda x: x >= 0)]
Positive = Annotated[float, Bound("above 0", lambda x: x > 0)]
NonNegative = Annotated[float, Bound("at least 0", lambda x: x >= 0)]
Nats = NonNegative
Share = Annotated[float, Bound("at least 0 and below 1", lambda x: 0 <= x < 1)]
Probability = Annotated[float, Bound("a probability above 0", lambda x: 0 < x <= 1)]
Fraction = Annotated[float, Bound("above 0 and at most 1", lambda x: 0 < x <= 1)]
# Bounds that infinity lifts.
Limit = Annotated[float, Bound("above 0", lambda x: x > 0), Unlimited()]
Margin = Annotated[float, Bound("at least 0", lambda x: x >= 0), Unlimited()]
# A day, which is more than any answer needs, and less than the system's timers take.
Seconds = Annotated[float, Bound("above 0 and at most 86400", lambda x: 0 < x <= 86_400)]
NON_EMPTY = Bound("non-empty", bool)
WITHOUT_REPEATS = Bound("without repeats", lambda x: len(set(x)) == len(x))
Calls = Annotated[tuple[Annotated[float, Bound("at least 1", lambda x: x >= 1)], ...], NON_EMPTY]
OptionalInt = Annotated[PositiveInt | None, Was(0)]  # older versions wrote 0 for None
AUTO = "auto"
# A size that changes speed and memory only: a number, None for no limit, or "auto" for one that
# suits the machine (run/sizes.py).
Size = Annotated[PositiveInt | Literal["auto"] | None, Was(0)]
OptionalText = Annotated[str | None, Was("")]  # older versions wrote "" for None
GroupSize = Annotated[int, Bound("at least 2: a group of one learns nothing", lambda x: x >= 2)]
Decay = Literal["none", "linear"]
ProtocolName = Literal["default", "d1"]
AnswerFormat = Literal["text", "tags", "boxed"]
FloatType = Literal["float32", "bfloat16"]

# Commit rules: the name of each rule's dial, and what it may rank positions by, the default first.
DIALS = {
    "entropy_bounded": "gamma",
    "entropy_sum": "gamma",
    "top_k": "steps",
    "random": "steps",
    "confidence": "confidence",
    "state": "price",
}
RuleName = Literal[*DIALS]
RANKINGS = {
    "entropy_bounded": ("entropy", "confidence", "margin"),
    "entropy_sum": ("entropy", "confidence", "margin"),
    "top_k": ("confidence", "entropy", "margin", "drawn"),
    "random": ("random",),
    "confidence": ("confidence",),
    "state": ("entropy", "confidence", "margin"),
}

# Optimisers by their names in optax, and the fields that each reads besides rate, warm-up, weight
# decay and gradient clip.
OPTIMIZERS = {
    "adamw": ("beta1", "beta2", "mu_dtype"),
    "adafactor": (),
    "lion": ("beta1", "beta2", "mu_dtype"),
    "muon": ("momentum", "nesterov", "beta1", "beta2", "mu_dtype"),
    "sgd": ("momentum", "nesterov", "mu_dtype"),
    "schedule_free_adamw": ("beta1", "beta2"),
}
OptimizerName = Literal[*OPTIMIZERS]

# The kernels of a block: the four of attention, and gate, up and down of the SwiGLU.
Projection = Literal["q", "k", "v", "o", "gate", "up", "down"]
PROJECTIONS = typing.get_args(Projection)

# The fields that a method decides. It decides no others: methods are compared with all else equal.
METHODS = {
    "d1": {"anchors": 1, "weights": "none", "prompt_masking": 0.15},
    "d1_is": {"anchors": 1, "weights": "token", "prompt_masking": 0.15},
    "diffpo_no_is": {"anchors": 2, "weights": "none", "prompt_masking": 0.0},
    "diffpo": {"anchors": 2, "weights": "token", "prompt_masking": 0.0},
}


@dataclasses.dataclass(frozen=True)
class SudokuConfig:
    size: Literal[4, 9] = 4  # Rows of the grid: 4 (2x2 boxes) or 9 (3x3 boxes)
    blanks_min: int = 4  # Fewest empty cells of a generated puzzle
    blanks_max: int = 14  # Most empty cells; every count in between is equally likely
    unique: bool = False  # Whether puzzles with more than one completion are left out
    train_examples: int = 30_000  # Generated puzzles to train on
    validation_examples: int = 512  # Generated puzzles for evaluation during training
    test_examples: int = 2_000  # Generated puzzles for the final evaluation
    data_seed: Count = 0  # Seed of the generator, apart from the run's so that runs share puzzles

    @property
    def characters(self) -> tuple[int, int]:
        """Characters of a question and of an answer."""
        return self.size**2, self.size**2


@dataclasses.dataclass(frozen=True)
class CountdownConfig:
    numbers_min: int = 3  # Fewest numbers of an instance, 2 to 6; train_file's others are skipped
    numbers_max: int = 3  # Most numbers of an instance; every count in between is equally likely
    number_min: int = 1  # Smallest number of a generated instance
    number_max: int = 9  # Largest number of a generated instance
    target_min: int = 1  # Smallest target of a generated instance
    target_max: int = 50  # Largest target of a generated instance
    train_examples: int = 30_000  # Generated instances to train on
    validation_examples: int = 256  # Generated instances for evaluation during training
    test_examples: int = 768  # Generated instances for the final evaluation
    data_seed: Count = 0  # Seed of the generator, apart from the run's so that runs share instances

    @property
    def characters(self) -> tuple[int, int]:
        """Characters of the longest question, and of the longest answer with an end of text."""
        numbers, digits = self.numbers_max, len(str(self.number_max))
        question = numbers * (digits + 1) + len(str(self.target_max))  # each "," or "=" is one
        operators, brackets = numbers - 1, 2 * max(0, numbers - 2)
        return question, numbers * digits + operators + brackets + 1


@dataclasses.dataclass(frozen=True)
class JsonlConfig:
    """Rows of your own in `config.task.train_file`, for the task "jsonl"."""

    # Column of the questions, or a template with columns such as {title}: {text}; or @FILE
    question: str = "question"
    answer: str = "answer"  # Column of the right answers, or a template like that of questions
    id: str | None = None  # Column that names the rows. None: they are numbered
    # Column of numbers that grow with the difficulty. None: all rows are alike
    difficulty: str | None = None
    # What is right: exact, number, math, choice, regex, or a function package.module:function; see
    # diffpo_jax/tasks/graders.py
    grader: str = "exact"
    regex: str | None = None  # Pattern of the grader "regex", whose first group is the answer
    # Share of train_file's questions held out for validation, and without a test_file again as many
    # for the test
    held_out: Annotated[float, Bound("above 0 and below 0.5", lambda x: 0 < x < 0.5)] = 0.1


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    # Text of the prompt, with the task's fields in braces, such as {question}; literal braces are
    # doubled. "words" stands for the task's own instructions, "@FILE" for the text of a file.
    template: str = "{question}"
    answer: AnswerFormat = "text"  # Answers: the whole text, in <answer> tags, or in LaTeX's \boxed
    chat: bool = False  # Whether the chat template makes the prompt a user's turn
    prefill: str = ""  # First words of every completion, given to the model


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    name: str = "sudoku"  # A key of diffpo_jax.tasks.TASKS, or a class package.module:Class
    protocol: ProtocolName = "default"  # Grading rules: our own, or those of d1 with their quirks
    # Reward to train on: the name of one of the task's, or a function package.module:function; see
    # docs/tasks.md. None: the protocol's
    reward: OptionalText = None
    data_dir: OptionalText = None  # Directory of generated data. None: WORKDIR/data
    train_file: OptionalText = None  # File of training examples that replaces the task's own
    test_file: OptionalText = None  # File of test examples that replaces the task's own
    prompt: PromptConfig = PromptConfig()
    sudoku: SudokuConfig = SudokuConfig()
    countdown: CountdownConfig = CountdownConfig()
    jsonl: JsonlConfig = JsonlConfig()
    validation_examples: Count = 512  # Training rows of published data held out for validation
    # Time limit for comparing one answer symbolically, and for functions with `parallel`, in
    # seconds; on timeout the answer is wrong
    grader_seconds: Seconds = 5.0
    grader_processes: OptionalInt = None  # Processes of the grader. None: one per core, at most 16


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    # "char" (a token per character), or a tokenizer to load: a directory or OWNER/NAME[@REVISION]
    name: str = "char"
    # Characters of the "char" tokenizer. None: those of init_from, or of the training examples
    alphabet: str | None = "0123456789"
    # Class name in transformers, for loaded tokenizers whose config does not name a usable one:
    # some name a class of their own, whose code is never run
    kind: OptionalText = None
    mask: OptionalText = None  # Mask token, for loaded tokenizers that do not name one
    # Id that the mask token must have. A mask token that the tokenizer lacks is added if that gives
    # it this id. None: any id, and the tokenizer must have it
    mask_id: Count | None = None
    pad: OptionalText = None  # Token that fills up prompts, for loaded tokenizers without one
    ends: tuple[str, ...] = ()  # End tokens; the first fills the rest. Empty: the tokenizer's own
    closing: OptionalText = None  # Token that closes chat answers in SFT, before the rest is filled
    # Arguments "name=value" of the chat template, such as "enable_thinking=False"
    chat_arguments: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    family: str = "tiny"  # A key of diffpo_jax.models.families.FAMILIES
    width: PositiveInt = 64  # Hidden size, D
    layers: PositiveInt = 3  # Transformer blocks
    heads: PositiveInt = 4  # Attention heads, H
    kv_heads: PositiveInt = 4  # Key/value heads, Hk; divides `heads`
    head_dim: PositiveInt | None = None  # Width of a head, Dh. None: `width` divided by `heads`
    ff: PositiveInt = 192  # Hidden size of the SwiGLU, F
    qkv_bias: bool = False  # Whether queries, keys and values have biases, as in Dream
    qk_norm: bool = False  # Whether queries and keys are normalised head by head, as in Qwen3
    tied: bool = False  # Whether the embedding also computes the logits, as in iLLaDA
    weights: OptionalText = None  # Published weights: a directory or OWNER/NAME[@REVISION]
    # Whether these weights write from left to right (Qwen2, Qwen3). SFT before RL then makes a
    # diffusion model of them, which sees the whole row; see docs/models.md
    autoregressive: bool = False
    # Position that logits predict: 0 their own, 1 the next one. None: as in the family
    logit_shift: Literal[0, 1] | None = None
    # Before RL and in evaluations, published weights are tried on ordinary sentences. What follows
    # if they cannot predict hidden words: an end in one line, or a warning; "off" tries nothing
    check_weights: Literal["stop", "warn", "off"] = "stop"
    vocab: OptionalInt = None  # Rows of the embedding, V. None: as many as the tokenizer has tokens
    # Base of the rotary embedding; short sequences need a small one
    rope_theta: Positive = 10_000.0
    norm_eps: Positive = 1e-5  # Epsilon of the RMSNorms
    embedding_std: NonNegative = 1.0  # Initial scale; 0.02 makes RL steps destructive (our choice)
    # Positions of a block, where attention is by blocks: a position sees its own block and those
    # before it, as in block diffusion models (arXiv 2503.09573). None: every position sees all
    attention_block: PositiveInt | None = None
    # Where blocks are counted from: the completion's first position (dllm's BD3LM models), or the
    # prompt's first token (SDAR, Fast-dLLM v2), so that the prompt's end and the completion may
    # share a block
    attention_origin: Literal["completion", "prompt"] = "completion"
    # Tokens with learned positions besides RoPE. None: only RoPE. "auto": those of the longest row
    positions: Size = None
    dtype: FloatType = "float32"  # Type of the activations
    param_dtype: FloatType = "float32"  # Type of the parameters
    # Quantisation of frozen block kernels
    quantized: Annotated[Literal["int8", "nf4"] | None, Was("")] = None
    # Implementation of attention. "plain" is two products and a softmax; "by_head" takes long
    # sequences one head at a time. Two kernels store no scores: "cudnn" (NVIDIA GPUs, bfloat16,
    # even lengths, heads of 8 to 128) and "splash" (TPUs, lengths and heads that are multiples of
    # 128). "auto" is "cudnn" if the devices support it, "by_head" on CPUs, and else "plain".
    attention: Literal["auto", "plain", "by_head", "cudnn", "splash"] = "auto"
    remat: bool = False  # Recompute blocks in the backward pass: less memory, more time
    # Blocks unrolled in the scan over layers; 1 compiles fastest. "auto": all of a small network, 1
    # of a large one
    scan_unroll: PositiveInt | Literal["auto"] = AUTO

    @property
    def head_width(self) -> int:
        """Dh."""
        return self.head_dim or self.width // self.heads


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """An adapter that SFT and RL train in place of the denoiser (arXiv 2106.09685)."""

    rank: OptionalInt = None  # Rank of the adapter, r. None: no adapter, the denoiser is trained
    alpha: Positive = 64.0  # The adapter's products are scaled by alpha / r
    # Projections of a block that have an adapter
    targets: Annotated[tuple[Projection, ...], NON_EMPTY, WITHOUT_REPEATS] = PROJECTIONS


@dataclasses.dataclass(frozen=True)
class ThresholdConfig:
    gamma: Nats = 0.1  # Threshold, nats: fixed in mode "model", else the head's start (our choice)
    sigma: Positive = 0.7  # Initial standard deviation of log gamma (our choice)
    learn_sigma: bool = False  # Whether the head also predicts sigma; learned, it collapses early
    sigma_min: Positive = 0.1  # Lower bound on sigma (our choice)
    sigma_max: Positive = 1.5  # Upper bound on sigma (our choice)
    hidden: PositiveInt = 32  # Hidden units of the head (our choice)
    scope: Literal["prompt", "call"] = "prompt"  # Gamma is drawn per rollout or call (our choice)


@dataclasses.dataclass(frozen=True)
class StateHeadConfig:
    """The head of the commit rule "state", beyond the paper: all fields are our choice."""

    width: PositiveInt = 32  # Hidden units of both layers
    hidden: bool = True  # Whether it reads the denoiser's hidden states
    pairs: Count = 4  # Learned weights of each pair of places, for clashes; 0 reads no clashes
    temperature: Positive = 0.3  # Exploration: the softmax's temperature per price of a call
    # Added to it, in units of the largest reward. With 0.003 a head stopped trying small steps and
    # no longer saw what they would have given.
    least_temperature: Positive = 0.02


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    # Temperature T of rollouts and log-probabilities (our choice; docs/method.md, section 2). 0,
    # the argmax, suits mode "sampler" only, where no token's probability is trained.
    temperature: NonNegative = 0.5
    # Tokens of a prompt, P; shorter ones are padded on the left. None: those of the longest
    # question of a generated task
    prompt_length: PositiveInt | None = None
    # Tokens of a completion, L. None: those of the longest answer of a generated task
    length: PositiveInt | None = None
    # Semi-autoregressive block size; "length", L, is fully parallel (our choice)
    block_length: PositiveInt | Literal["length"] = "length"
    rule: RuleName = "entropy_bounded"  # Commit rule: which positions a call commits
    # Criterion that orders positions; RANKINGS lists those of each rule. None: the rule's first
    ranking: Literal["entropy", "confidence", "margin", "drawn", "random"] | None = None
    # Calls per completion under the rules "top_k" and "random"; "length" is one for each token,
    # "half" one for two
    steps: PositiveInt | Literal["length", "half"] = "length"
    # How these calls share the positions: evenly (LLaDA), or by the ratios of Dream's times, where
    # a call may commit none
    schedule: Literal["even", "dream"] = "even"
    eps: Share = 1e-3  # Last of the times of schedule "dream", which begin at 1
    confidence: Probability = 0.9  # Least probability of a token that "confidence" commits
    # Price of L calls in units of the reward, lambda, by which the head by state ("state") decides
    price: Positive = 1.0
    # Position that the rule "confidence" commits if no probability is large enough
    fallback: Literal["most_confident", "leftmost"] = "most_confident"
    max_calls: OptionalInt = None  # Cap on denoiser calls; the last commits the rest. None: no cap
    stop_at_end: bool = False  # Whether a committed end of text ends the row; the rest is filled
    # Scale of classifier-free guidance, LLaDA's cfg_scale. Each call, as `steps` and `max_calls`
    # count them, then makes a second pass with the prompt masked, and NFE counts both. 0: none.
    # Not for training
    guidance: NonNegative = 0.0
    # When end-of-text tokens may not be committed; see diffusion/end_of_text.py
    suppress_end: Literal["none", "never", "while_open", "last"] = "none"
    # Rows in flight of the continuous batch, on each device; where devices split the parameters
    # (fsdp, tensor) the batch is static. None: one static batch. "auto": to suit the machine
    slots: Size = AUTO
    # Keys and values kept between calls: none, the prompt's, or all but the current block's, which
    # get stale; or "block", for models with model.attention_block: those of finished blocks, which
    # never change, so that it is exact
    cache: Literal["none", "prompt", "dual", "block"] = "none"
    cache_refresh: OptionalInt = None  # Calls between refreshes; 1 is exact. None: once per block
    cache_rows: OptionalInt = None  # Rows per refresh pass. None: all rows, if one is due
    # Positions of a row whose token distributions are held at once. None: all. "auto": to suit the
    # machine
    vocabulary_chunk: Size = AUTO


@dataclasses.dataclass(frozen=True)
class DemonstrationsConfig:
    """Prompts and answers that the base model is trained on in place of the task's own."""

    source: OptionalText = None  # File or hub data set. None: the task's training examples
    # Least and largest difficulty of the task's training examples that are shown: empty cells,
    # numbers, or a published level; RL trains on all. None: all are shown
    difficulty: Annotated[
        tuple[Annotated[float, Unlimited()], ...] | None,
        Bound("two rising numbers", lambda x: x is None or (len(x) == 2 and x[0] <= x[1])),
    ] = None
    # Demonstrations that are shown, the first ones; RL trains on all prompts. None: all are shown
    count: PositiveInt | None = None
    # Template of a prompt with columns such as {question} or, in lists, {attempts[0]}; or @FILE
    prompt: str = "{question}"
    answer: str = "{answer}"  # Template of an answer, written like that of a prompt
    chat: bool = False  # Whether the chat template makes the prompts a user's turns
    prompt_length: OptionalInt = None  # Most tokens of a prompt. None: sampler.prompt_length
    length: OptionalInt = None  # Tokens of an answer, filled with end of text. None: sampler.length
    truncate: bool = False  # Whether longer answers are cut; otherwise they are an error


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    steps: Count = 120  # Optimiser steps of masked-diffusion SFT
    batch: PositiveInt = 256  # Sequences per step
    # Sequences per micro-batch, over all devices. None: all. "auto": to suit the machine
    micro_batch: Size = AUTO
    # Optimiser; see rl.optimizer.kind. OPTIMIZERS has the fields that each reads
    kind: OptimizerName = "adamw"
    learning_rate: NonNegative = 2e-3  # Learning rate
    warmup: Count = 10  # Steps of linear warm-up
    decay: Decay = "none"  # Rate after the warm-up: constant, or falling to 0 after the last step
    mu_dtype: FloatType = "float32"  # Type of the first moment
    beta1: Share = 0.9  # Decay of the first moment; see rl.optimizer.beta1
    beta2: Share | None = None  # Decay of the second moment. None: 0.999, and 0.99 of lion
    momentum: Share = 0.95  # Momentum of sgd, and of muon for its kernels (our choice)
    nesterov: bool = True  # Whether this momentum is Nesterov's
    weight_decay: NonNegative = 0.0  # Weight decay on every parameter
    max_grad_norm: Limit = 1.0  # Largest norm of a gradient; larger ones are scaled down to it
    t_min: Fraction = 1e-3  # Smallest masking probability (LLaDA)
    demonstrations: DemonstrationsConfig = DemonstrationsConfig()


@dataclasses.dataclass(frozen=True)
class LikelihoodConfig:
    # Anchors K (1: d1, 2: DiFFPO), or "all" calls for the exact likelihood. None: by the method
    anchors: Annotated[PositiveInt | Literal["all"] | None, Was(0, "all")] = None
    # Distribution of the later anchors over a rollout; see diffusion/anchors.py (our choice)
    schedule: Literal["uniform", "stratified", "even", "batch", "calls"] = "uniform"
    calls: OptionalInt = None  # Calls scored by anchors="all", an unbiased draw. None: all calls
    # With anchors="all": neighbouring calls that are scored in one state, that of the first of them
    # (TraceRL's shrinkage). 1 is exact
    shrink: PositiveInt = 1
    remat: bool = False  # Recompute passes in the backward pass; always so for more than 2 anchors
    # Share of prompt tokens that are masked. None: by the method (our choice for K of 2 and more)
    prompt_masking: Share | None = None
    # Prompt tokens are masked for each rollout anew (d1), or alike for the rollouts of a prompt,
    # which then share a pass over the state without any token
    masked_per: Literal["rollout", "prompt"] = "rollout"
    # Temperature of log-probabilities; d1 has 1. None: the sampler's, as the ratios need
    temperature: Positive | None = None
    keep_mask: bool = False  # Whether scored distributions include the mask token, as in d1

    @property
    def starts_empty(self) -> bool:
        """Whether the first anchor is the state without any token."""
        return not (self.anchors == "all" and self.calls)

    @property
    def shares_first_state(self) -> bool:
        """Whether that state is the same for the rollouts of a prompt, so that one pass serves all.

        It is not if each rollout has prompt tokens of its own masked.
        """
        return self.starts_empty and (not self.prompt_masking or self.masked_per == "prompt")

    @property
    def reuses_first_call(self) -> bool:
        """Whether that state is the sampler's own, so that the old policy needs no pass over it."""
        return self.starts_empty and not self.prompt_masking


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    # Importance weights, surrogate over rollout: none, one per token, one per sequence, or one per
    # token over the sequence's mean; or inverted, rollout over surrogate, which corrects nothing.
    # None: by the method
    weights: Literal["none", "token", "sequence", "normalised", "inverted"] | None = None
    truncation: Limit = 2.0  # Cap on the importance weights, C (our choice)
    # Ratio of each token, or the geometric mean over a sequence's tokens (GSPO)
    ratio: Literal["token", "sequence"] = "token"
    # Clipping as in PPO, the pessimistic minimum; or whatever the sign of the advantage
    clip: Literal["ppo", "unconditional"] = "ppo"
    clip_low: Margin = 0.2  # Ratios are clipped from below at 1 - clip_low (our choice)
    clip_high: Margin = 0.2  # Ratios are clipped from above at 1 + clip_high (our choice)
    # Mean over each sequence's tokens, mean over the batch's tokens, or sum divided by L
    aggregation: Literal["sequence", "token", "constant"] = "sequence"
    # Tokens in the loss: all that were sampled, or (d1) none after the first end of text
    count: Literal["sampled", "to_end"] = "sampled"
    kl: NonNegative = 0.0  # Weight of the KL to the base model, beta (our choice)
    # Where the KL is subtracted: in the loss, or (beta times a sequence's estimate) in its reward
    kl_in: Literal["loss", "reward"] = "loss"
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"  # Estimator of the KL; see rl/objective.py
    # Normalisation of rewards into advantages; see rl/rewards.py (our choice)
    advantage: Literal[
        "mean", "group_std", "batch_std", "leave_one_out", "decoupled", "decoupled_group"
    ] = "batch_std"
    drop_forced: bool = False  # Leave rollouts cut short by sampler.max_calls out of the loss
    drop_unended: bool = False  # Leave rollouts without an end of text in L tokens out of the loss
    # Leave prompts that no rollout got a reward for out of the loss: an additive price of calls
    # would teach the denoiser to fail in fewer (our choice)
    drop_unsolved: bool = False
    # Leave prompts out of the loss whose rollouts' tokens per call differ by less than this, from
    # the least to the most (LightningRL). 0: none are
    least_spread: NonNegative = 0.0
    # Weight of the mean log-probability of the tokens of right rollouts, as the task judges them,
    # in the states that are scored anyway (our choice; LightningRL has 0.1)
    right_likelihood: NonNegative = 0.0
    # Likelihood of the sampler's choices: none; gamma's density, as one more token (the paper); or
    # the exact probability of the committed sets, see diffusion/commit_likelihood.py (our choice)
    selection: Literal["none", "gamma_token", "exact"] = "gamma_token"
    gamma_weight: NonNegative = 1.0  # Weight of the sampler's term in the objective (our choice)
    gamma_entropy: NonNegative = 0.0  # Weight of the entropy of log gamma (our choice)


@dataclasses.dataclass(frozen=True)
class SpeedConfig:
    # Price of denoiser calls in the reward, lambda, except under the rule "state" (our choice)
    weight: NonNegative = 0.3
    # Reward r (1 - lambda NFE/L), or r - lambda NFE/L (our choice)
    form: Literal["multiplicative", "additive"] = "multiplicative"
    # Range of lambda under the rule "state", in which each prompt has its own, evenly on a log
    # scale; the form is additive there (our choice)
    prices: Annotated[
        tuple[Positive, ...], Bound("two rising numbers", lambda x: len(x) == 2 and x[0] <= x[1])
    ] = (0.01, 4.0)
    # Share of a step's prompts that pay nothing under the rule "state" and write one token a call,
    # so that a model learns on which solves next to nothing in fewer calls (our choice)
    free: Share = 0.0


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    # Learning rate of the denoiser (our choice)
    denoiser_lr: NonNegative = 5e-5
    # Adam's rate for the threshold head; 10 to 200 times the denoiser's works (our choice).
    threshold_lr: NonNegative = 1e-2
    warmup: Count = 5  # Updates of linear warm-up of both learning rates
    decay: Decay = "none"  # Rates after warm-up: constant, or falling to 0 after the last update
    # Optimiser of the denoiser or its adapter; OPTIMIZERS has the fields that each reads.
    # "adafactor" stores no first moment and almost nothing of the second, its means over rows and
    # columns, with a decay of its own (arXiv 1804.04235). "lion", "muon" and "sgd" have a first
    # moment only; muon is for the kernels of blocks, layer by layer, with adamw for the rest.
    # "schedule_free_adamw" averages in place of a decay: rollouts are made with the parameters at
    # which gradients are taken, and their mean is evaluated, saved and exported
    # (rl/schedule_free.py)
    kind: OptimizerName = "adamw"
    mu_dtype: FloatType = "float32"  # Type of the denoiser's first moment
    # Decay of the first moment, of the threshold head's Adam too; in schedule_free_adamw the share
    # of the mean in the parameters at which gradients are taken
    beta1: Share = 0.9
    # Decay of the second moment, of the threshold head's Adam too; in lion, of its only one
    beta2: Share = 0.99
    momentum: Share = 0.95  # Momentum of sgd, and of muon for its kernels (our choice)
    nesterov: bool = True  # Whether this momentum is Nesterov's
    weight_decay: NonNegative = 0.0  # Weight decay on the denoiser only
    max_grad_norm: Limit = 1.0  # Largest gradient norm of each group (denoiser, head)


@dataclasses.dataclass(frozen=True)
class HeadUpdateConfig:
    """The update of the head by state, beyond the paper: all fields are our choice."""

    # Share of the RL steps, the first ones, in which mode "joint" trains the head alone
    alone_first: Share = 0.07
    # Share of the RL steps, the last ones, in which it does so again, over the denoiser as it then
    # is and on rollouts of argmax tokens, as evaluations write them
    alone_last: Share = 0.2
    recorded: PositiveInt = 8  # Calls of each rollout that the head learns from, R, drawn uniformly
    minibatches: PositiveInt = 8  # Updates of the head after each batch of rollouts
    minibatch: PositiveInt = 512  # Decisions in each of them
    learning_rate: Positive = 1e-2  # Adam's rate
    weight_decay: NonNegative = 1e-3  # Weight decay
    max_grad_norm: Limit = 1.0  # Largest norm of a gradient
    hindsight_weight: NonNegative = 0.25  # Weight of the loss on each position's hindsight
    calls_weight: NonNegative = 0.1  # Weight of the squared error of the calls that follow
    policy_weight: NonNegative = 0.1  # Weight of the policy gradient
    entropy: NonNegative = 0.01  # Weight of the policy's entropy
    clip: Limit = 0.2  # Ratios are clipped to 1 - clip and 1 + clip


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """Conditions of collapse, in units of the task's largest reward (our choice).

    They separate runs that collapsed from runs that did not (docs/recipe.md).  A falling entropy is
    none: where several tokens are written at once, it is what success looks like.
    """

    # Response to a condition: a warning, a stop, or lower learning rates; "off" checks nothing
    action: Literal["warn", "stop", "lower", "off"] = "warn"
    window: PositiveInt = 5  # Steps that each mean is taken over
    reward: Margin = 0.2  # Collapsed: mean reward of rollouts this far below its best
    tokens_per_call: Limit = 1.3  # Sliding: tokens per call above this multiple of its start
    accuracy: Margin = 0.08  # Sliding also needs accuracy of rollouts this far below its start
    # Collapsed: reward on validation prompts this far below its best
    evaluation: Margin = 0.15
    lower: Fraction = 0.3  # Factor on the learning rates for each condition that is met


@dataclasses.dataclass(frozen=True)
class RLConfig:
    steps: Count = 60  # Rollout batches; each is followed by `inner_updates` updates
    prompts: PositiveInt = 64  # Prompts per step, over all hosts (our choice)
    # Candidate prompts per prompt used. Above 1, prompts are drawn by how often their difficulty
    # gave both right and wrong rollouts (our choice).
    candidates: PositiveInt = 1
    group: GroupSize = 8  # Rollouts per prompt, G (our choice)
    inner_updates: PositiveInt = 1  # Updates on the rollouts of a step, mu (our choice)
    # Sequences per micro-batch, over all devices. None: all. "auto": to suit the machine
    micro_batch: Size = AUTO
    likelihood: LikelihoodConfig = LikelihoodConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    speed: SpeedConfig = SpeedConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    head: HeadUpdateConfig = HeadUpdateConfig()
    guard: GuardConfig = GuardConfig()


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    temperature: NonNegative = 0.0  # Temperature of evaluations; 0 is argmax (our choice)
    samples: PositiveInt = 1  # Completions per prompt, for pass@k; more than 1 needs a temperature
    # Block length of evaluations; "length" is fully parallel. None: that of rollouts
    block_length: Annotated[PositiveInt | Literal["length"] | None, Was(0)] = None
    # Frontier points of the rules "entropy_bounded" and "entropy_sum", in nats (our choice)
    gammas: Annotated[tuple[Nats, ...], NON_EMPTY] = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
    # Frontier points of the rules "top_k" and "random", in calls. "rollouts": sampler.steps alone.
    # None: 1, 2, 4 ... per block
    steps: Annotated[tuple[PositiveInt, ...] | Literal["rollouts"] | None, Was(())] = None
    # Frontier points of the rule "confidence"
    confidences: Annotated[tuple[Probability, ...], NON_EMPTY] = (
        0.2,
        0.5,
        0.7,
        0.8,
        0.9,
        0.95,
        0.99,
    )
    factors: tuple[Positive, ...] = ()  # Factors on the learned gamma for further final points
    # Frontier points of the rule "state": prices of L calls in units of the reward
    prices: Annotated[tuple[Positive, ...], NON_EMPTY] = (0.03, 0.1, 0.3, 0.6, 1.0, 1.8, 3.2, 6.0)
    # Commit rules under which the base is evaluated at the end, besides the run's own: a gain over
    # a weak rule is none (our choice)
    base_rules: Annotated[tuple[RuleName, ...], WITHOUT_REPEATS] = (
        "entropy_bounded",
        "entropy_sum",
        "confidence",
    )
    batch: PositiveInt = 512  # Sequences per batch on the devices
    examples: OptionalInt = 1_024  # Test prompts of the final frontiers. None: all
    # Functions package.module:function whose means evaluations report too; see docs/tasks.md
    metrics: Annotated[tuple[str, ...], WITHOUT_REPEATS] = ()
    subset: Literal["first", "d1"] = "first"  # Test prompts: the first, or those of d1's evaluation
    every: OptionalInt = 20  # RL steps between evaluations on the validation split. None: never
    validation_examples: OptionalInt = 512  # Validation prompts per evaluation. None: all


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every: PositiveInt = 25  # Steps between checkpoints; the last step is always saved
    keep: PositiveInt = 2  # Newest checkpoints kept
    keep_every: OptionalInt = None  # Steps between checkpoints kept for good. None: none kept


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    data: PositiveInt = 1  # Devices that hold copies of the parameters and split the batch
    fsdp: PositiveInt = 1  # Devices that split the parameters and the batch
    tensor: PositiveInt = 1  # Devices that split heads, feed-forward and vocabulary
    slices: PositiveInt = 1  # Slices joined by the data-centre network, which `data` spans

    @property
    def batch_devices(self) -> int:
        """Devices that split a batch."""
        return self.data * self.fsdp


@dataclasses.dataclass(frozen=True)
class LoggingConfig:
    every: PositiveInt = 1  # Steps between lines of metrics.jsonl
    samples_every: OptionalInt = 25  # RL steps between files in samples/. None: no files
    tensorboard: bool = False  # Whether TensorBoard events are written (needs tensorboardX)
    wandb: OptionalText = None  # Project of Weights & Biases that the run is sent to (needs wandb)
    trackio: OptionalText = None  # Project of trackio that the run is sent to (needs trackio)
    # RL steps that JAX's profiler traces, into WORKDIR/profile
    profile: tuple[PositiveInt, ...] = ()


@dataclasses.dataclass(frozen=True)
class Config:
    seed: Count = 0  # Everything random derives from (seed, stream, step, row)
    # Trained parts: the denoiser at a fixed gamma, the threshold head alone, or both
    mode: Literal["model", "sampler", "joint"] = "joint"
    method: Literal[*METHODS] = "diffpo"  # Setting of anchors, weights and masking; see METHODS
    init_from: OptionalText = None  # Workdir of a run whose base model replaces pretraining
    task: TaskConfig = TaskConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    lora: LoRAConfig = LoRAConfig()
    threshold: ThresholdConfig = ThresholdConfig()
    state_head: StateHeadConfig = StateHeadConfig()
    sampler: SamplerConfig = SamplerConfig()
    pretrain: PretrainConfig = PretrainConfig()
    rl: RLConfig = RLConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    mesh: MeshConfig = MeshConfig()
    logging: LoggingConfig = LoggingConfig()

    @property
    def dial(self) -> float:
        """The fixed number of the commit rule: gamma in nats, calls, a probability, or a price."""
        own = self.sampler
        dials = {"gamma": self.threshold.gamma, "steps": own.steps}
        dials |= {"confidence": own.confidence, "price": own.price}
        return float(dials[DIALS[own.rule]])

    @property
    def dials(self) -> tuple[float, ...]:
        """The dials of a frontier's points."""
        return self.dials_of(self.sampler.rule)

    def dials_of(self, rule: str) -> tuple[float, ...]:
        """The dials of a frontier's points under a commit rule."""
        own, size = self.evaluation, self.decoder.block_length
        blocks = self.sampler.length // size
        steps = own.steps or [blocks * 2**i for i in range(size.bit_length()) if 2**i <= size]
        grids = {"gamma": own.gammas, "steps": steps, "confidence": own.confidences}
        grids["price"] = own.prices
        return tuple(float(x) for x in grids[DIALS[rule]])

    @property
    def denoiser_steps(self) -> range:
        """The RL steps in which the denoiser is trained, of mode "joint" or "model"."""
        first, last, own = 1, self.rl.steps, self.rl.head
        if self.sampler.rule == "state":
            # Whole steps, of products such as 0.29 * 100 = 28.999...
            begin, end = (int(share * last + 1e-6) for share in (own.alone_first, own.alone_last))
            first, last = first + begin, last - end
        return range(first, last + 1)

    @property
    def trains_threshold(self) -> bool:
        """Whether RL trains the threshold head; the rule "state" has a head of its own."""
        return self.mode != "model" and self.sampler.rule != "state"

    @property
    def base_rule(self) -> str:
        """The commit rule of the base's own frontier: the run's, unless only RL makes its head."""
        if self.sampler.rule != "state":
            return self.sampler.rule
        return next(iter(self.evaluation.base_rules), "entropy_bounded")

    @property
    def largest_block(self) -> int:
        """Positions of the largest block in rollouts or evaluations."""
        return max(self.sampler.block_length, self.decoder.block_length)

    @property
    def decoder(self) -> SamplerConfig:
        """The sampler of evaluations and of single completions."""
        size = self.evaluation.block_length or self.sampler.block_length
        return dataclasses.replace(self.sampler, block_length=size)

    @property
    def demonstration_lengths(self) -> tuple[int, int]:
        """Tokens of a prompt and of an answer in pretraining."""
        own = self.pretrain.demonstrations
        prompt = own.prompt_length or self.sampler.prompt_length
        return prompt, own.length or self.sampler.length


@dataclasses.dataclass(frozen=True)
class Figure2Config:
    model: Literal["base", "trained"] = "base"  # The run's model before RL, or after it
    # Test prompts
    prompts: Annotated[int, Bound("at least 2: one has no error bar", lambda x: x >= 2)] = 100
    rollouts: PositiveInt = 4  # Rollouts per prompt
    draws: PositiveInt = 64  # Draws of the anchors for each K
    anchors: Annotated[tuple[PositiveInt, ...], NON_EMPTY] = (1, 2, 4, 16)  # Numbers of anchors, K
    batch: PositiveInt = 100  # Rollouts whose distributions are held at once


@dataclasses.dataclass(frozen=True)
class HeadroomConfig:
    """What choosing a threshold for each prompt could gain on a base (our choice)."""

    measured: bool = False  # Whether a study measures this on its run, and not the surrogates' KL
    # Training prompts on whose outcomes the choice is learned: the last, as SFT may see the first
    prompts: PositiveInt = 4_096
    width: PositiveInt = 64  # Width of the two hidden layers of the network that predicts outcomes
    steps: PositiveInt = 2_000  # Steps of Adam, on 512 prompts each
    learning_rate: Positive = 1e-3  # Adam's rate


@dataclasses.dataclass(frozen=True)
class GridConfig:
    """Runs that are compared: every arm with every seed on every task."""

    title: str = ""  # Title of the tables and figures
    tasks: tuple[str, ...] = ()  # Config files with their presets, as --config takes them
    seeds: tuple[Count, ...] = (0, 1, 2)  # Seeds; the arms of a seed start from one base model
    # Changes of a task's configuration, "LABEL: field=value ..."; each is a line of the figures.
    # "preset=NAME" applies a preset of the config file, before the arm's fields
    arms: tuple[str, ...] = ()
    common: tuple[str, ...] = ()  # "field=value", set in all arms first; quote values with spaces
    reference: OptionalText = None  # Label of the arm to compare with. None: the first
    calls: Calls = (1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # Denoiser calls at which frontiers are compared
    processes: PositiveInt = 1  # Runs at a time on this machine, which share its cores


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """A comparison of runs if `grid` has arms, else a measurement on `run`."""

    figure2: Figure2Config = Figure2Config()
    headroom: HeadroomConfig = HeadroomConfig()
    run: Config = Config()
    grid: GridConfig = GridConfig()
