"""The configuration: frozen dataclasses by section.

`configs/*.py` start from `config_io.as_config_dict(Config())`, change what they need and return
the ConfigDict, so that `--config.section.field=value` works on every field;
`config_io.from_config_dict` turns the result into these dataclasses and checks them.
`experiment`, its parts and the commands see the whole `Config`; everything else one section.

Where a comment says "our choice", the paper is silent.
"""

import dataclasses

MODES = ("model", "sampler", "joint")
SCHEDULES = ("uniform", "stratified", "even", "batch", "calls")
WEIGHTS = ("none", "token", "sequence", "normalised")
RATIOS = ("token", "sequence")
CLIPS = ("ppo", "unconditional")
COUNTS = ("sampled", "to_end")
KL_PLACES = ("loss", "reward")
KL_ESTIMATORS = ("k1", "k2", "k3")
SELECTIONS = ("none", "gamma_token", "exact")
SCOPES = ("prompt", "call")
AGGREGATIONS = ("sequence", "token", "constant")
OPTIMIZERS = ("adamw", "adafactor")
DECAYS = ("none", "linear")
QUANTIZED = ("int8", "nf4")
ATTENTIONS = ("auto", "plain", "cudnn", "splash")
GUARD_ACTIONS = ("warn", "stop", "lower", "off")
ADVANTAGES = ("mean", "group_std", "batch_std", "leave_one_out", "decoupled")
SPEED_FORMS = ("multiplicative", "additive")

# Commit rules: what the dial of each is, and what it may rank positions by, the default first.
DIALS = {
    "entropy_bounded": "gamma",
    "top_k": "steps",
    "random": "steps",
    "confidence": "confidence",
}
RANKINGS = {
    "entropy_bounded": ("entropy", "confidence", "margin"),
    "top_k": ("confidence", "entropy", "margin", "drawn"),
    "random": ("random",),
    "confidence": ("confidence",),
}
FALLBACKS = ("most_confident", "leftmost")
SUPPRESSION = ("none", "never", "while_open", "last")
CACHES = ("none", "prompt", "dual")
SUBSETS = ("first", "d1")
PROTOCOLS = ("default", "d1")
ANSWERS = ("text", "tags", "boxed")

# The projections of a block: attention's four, and gate, up, down of the SwiGLU.
PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")

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
class CountdownConfig:
    numbers_min: int = 3  # fewest numbers of an instance, 2 to 6; of train_file others are left out
    numbers_max: int = 3  # most numbers; every count in between is equally likely
    number_min: int = 1  # smallest number of a generated instance
    number_max: int = 9  # largest number
    target_min: int = 1  # smallest target of a generated instance
    target_max: int = 50  # largest target
    train_examples: int = 30_000  # generated instances to train on
    validation_examples: int = 256  # generated instances for evaluation during training
    test_examples: int = 768  # generated instances for the final evaluation
    data_seed: int = 0  # seed of the generator; not the run's seed: runs share instances


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    # The prompt's text, with the task's fields in braces, such as {question}; literal braces are
    # doubled.  words: the task's own instructions; @FILE: the text of a file.
    template: str = "{question}"
    answer: str = "text"  # how it is marked: text (nothing else), tags (<answer>), boxed (\boxed)
    chat: bool = False  # the prompt goes through the tokenizer's chat template, as a user's turn
    prefill: str = ""  # first words of every completion, given to the model


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    name: str = "sudoku"  # a key of diffpo_jax.tasks.TASKS
    protocol: str = "default"  # whose verdicts: ours, or those of "d1" with their quirks
    reward: str = ""  # which of the task's rewards is trained on; empty: the protocol's own
    data_dir: str = ""  # where generated data lives; empty: WORKDIR/data
    train_file: str = ""  # read training examples from this file instead
    test_file: str = ""  # read test examples from this file instead
    prompt: PromptConfig = PromptConfig()
    sudoku: SudokuConfig = SudokuConfig()
    countdown: CountdownConfig = CountdownConfig()
    validation_examples: int = 512  # of published data: training rows held out for validation
    grader_seconds: float = 5.0  # of algebra an answer may take; then it is given up, and wrong
    grader_processes: int = 0  # that do algebra side by side; 0: one for each core, at most 16


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    # "char": one token a character, built from `alphabet`; or a directory, or a hub name
    # (OWNER/NAME[@REVISION]), to load.
    name: str = "char"
    alphabet: str = "0123456789"  # the characters of the "char" tokenizer
    # Of a loaded one, where it does not say so itself: its class in transformers; some name one of
    # their own, which is never run.
    kind: str = ""
    mask: str = ""  # its mask token, where it does not say so itself
    pad: str = ""  # the token that fills prompts up, where it does not say so itself
    ends: tuple[str, ...] = ()  # tokens that end a text; the first fills the rest
    closing: str = ""  # token that closes the answer of a chat in SFT, before the rest is filled


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    family: str = "tiny"  # a key of diffpo_jax.models.families.FAMILIES
    width: int = 64  # D, hidden size
    layers: int = 3  # transformer blocks
    heads: int = 4  # H, attention heads
    kv_heads: int = 4  # Hk, key/value heads; divides `heads`
    ff: int = 192  # F, hidden size of the SwiGLU
    qkv_bias: bool = False  # biases of queries, keys and values (Dream has them)
    tied: bool = False  # the embedding also gives the logits (iLLaDA)
    weights: str = ""  # published weights to start from: a directory, or OWNER/NAME[@REVISION]
    vocab: int = 0  # V, rows of the embedding; 0: as many as the tokenizer has tokens
    rope_theta: float = 10_000.0  # base of the rotary embedding; short sequences want it small
    norm_eps: float = 1e-5  # epsilon of the RMSNorms
    embedding_std: float = 1.0  # initial scale; 0.02 makes RL steps destructive (our choice)
    positions: int = 0  # learned position embeddings beside RoPE, for so many tokens; 0: none
    dtype: str = "float32"  # activations: float32 or bfloat16
    param_dtype: str = "float32"  # parameters: float32 or bfloat16
    quantized: str = ""  # blocks' kernels, where no training changes them: int8, nf4, or "": no
    # plain: products and a softmax. Kernels that keep no scores: cudnn, on NVIDIA GPUs, bfloat16,
    # even lengths, heads of 8 to 128; splash, on TPUs, lengths and heads of whole 128s. auto: cudnn
    # where it is, else plain.
    attention: str = "auto"
    remat: bool = False  # recompute blocks in the backward pass: less memory, more time
    scan_unroll: int = 3  # blocks unrolled in the scan over layers; 1 compiles fastest


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """An adapter that is trained in place of the denoiser, by SFT and RL (arXiv 2106.09685)."""

    rank: int = 0  # r; 0: no adapter, the denoiser itself is trained
    alpha: float = 64.0  # its part of a product is scaled by alpha / r
    targets: tuple[str, ...] = PROJECTIONS  # the projections of a block that have one


@dataclasses.dataclass(frozen=True)
class ThresholdConfig:
    gamma: float = 0.1  # gamma_0, nats: fixed in mode "model", else the head's start (our choice)
    sigma: float = 0.7  # initial standard deviation of log gamma (our choice)
    learn_sigma: bool = False  # whether the head also gives sigma; learned, it collapses early
    sigma_min: float = 0.1  # lower bound on sigma (our choice)
    sigma_max: float = 1.5  # upper bound on sigma (our choice)
    hidden: int = 32  # hidden units of the head (our choice)
    scope: str = "prompt"  # one gamma a rollout; call: drawn afresh at each call (our choice)


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    # T of rollouts and of every log-probability. At 1 RL learned to be sure rather than right:
    # greedy accuracy fell while sampled accuracy rose (our choice; see docs/method.md).
    temperature: float = 0.5
    prompt_length: int = 16  # P, tokens; prompts are left-padded to it
    length: int = 16  # L, tokens of a completion
    block_length: int = 16  # semi-autoregressive block; L: fully parallel (our choice)
    rule: str = "entropy_bounded"  # what a call commits: a key of DIALS
    ranking: str | None = None  # what comes first: see RANKINGS; None: the rule's default
    steps: int = 16  # calls a completion takes by "top_k" and "random"
    confidence: float = 0.9  # probability from which "confidence" commits
    fallback: str = "most_confident"  # of "confidence", where none is: or "leftmost"
    max_calls: int = 0  # cap on denoiser calls, the last commits the rest; 0: no cap
    stop_at_end: bool = False  # a committed end of text ends the row, the rest is filled
    suppress_end: str = "none"  # or never, while_open, last: see diffusion.end_of_text
    slots: int = 64  # rows in flight of the continuous batch; 0: one static batch
    cache: str = "none"  # keys and values kept between calls: none, prompt, dual
    cache_refresh: int = 0  # calls between refreshes within a block; 1: exact, 0: once a block
    cache_rows: int = 0  # rows of a refresh pass; 0: all, where one is due
    vocabulary_chunk: int = 0  # positions of a row whose distributions are held at once; 0: all


@dataclasses.dataclass(frozen=True)
class DemonstrationsConfig:
    """Prompts and answers that the base model is trained on in place of the task's own."""

    source: str = ""  # a file or a data set of the hub; empty: the task's training examples
    # A template of its columns, such as {question}, or {attempts[0]} of a list; or @FILE.
    prompt: str = "{question}"
    answer: str = "{answer}"  # a template like it
    chat: bool = False  # prompts go through the tokenizer's chat template, as a user's turn
    prompt_length: int = 0  # most tokens of a prompt; 0: sampler.prompt_length
    length: int = 0  # tokens of an answer, filled up with the end of text; 0: sampler.length
    truncate: bool = False  # longer answers are cut there; False: refused


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    steps: int = 120  # optimiser steps of masked-diffusion SFT
    batch: int = 256  # sequences a step
    micro_batch: int = 0  # sequences a gradient micro-batch, over all devices; 0: all
    kind: str = "adamw"  # or adafactor, as in OptimizerConfig
    learning_rate: float = 2e-3  # whichever of the two
    warmup: int = 10  # steps of linear warm-up
    decay: str = "none"  # of the rate after it: none, or linear, to 0 after the last step
    weight_decay: float = 0.0  # on every parameter
    max_grad_norm: float = 1.0  # gradients of a larger norm are scaled down to it
    t_min: float = 1e-3  # smallest masking probability (LLaDA)
    demonstrations: DemonstrationsConfig = DemonstrationsConfig()


@dataclasses.dataclass(frozen=True)
class LikelihoodConfig:
    anchors: int | None = None  # K: 1 d1, 2 DiFFPO's 2-MF; 0: every call, exact; None: the method's
    schedule: str = "uniform"  # where the later anchors lie: see diffusion.anchors (our choice)
    calls: int = 0  # with anchors=0, score so many calls of a rollout, unbiased; 0: all
    remat: bool = False  # recompute each anchor's pass backwards; always so for more than two
    # Share of prompt tokens masked; None: from the method (our choice for K of 2 and more).
    prompt_masking: float | None = None
    temperature: float | None = None  # T of scores; None: the sampler's, as ratios need; d1: 1
    keep_mask: bool = False  # leave the mask token in the scored distributions, as d1 does


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    weights: str | None = None  # none, token, sequence, normalised; None: from the method
    truncation: float = 2.0  # C, cap of the importance weights (our choice)
    ratio: str = "token"  # or sequence: the geometric mean over a sequence's tokens (GSPO)
    clip: str = "ppo"  # the pessimistic minimum; or unconditional, whatever the advantage's sign
    clip_low: float = 0.2  # ratios are clipped to [1 - clip_low, 1 + clip_high] (our choice)
    clip_high: float = 0.2  # the same, upwards (our choice)
    aggregation: str = "sequence"  # mean over a sequence; token: over the batch; constant: / L
    count: str = "sampled"  # tokens that count; to_end: none after the first end of text (d1)
    kl: float = 0.0  # beta, weight of the KL to the reference, the base model (our choice)
    kl_in: str = "loss"  # or reward: each rollout pays beta times its sequence's estimate
    kl_estimator: str = "k3"  # k1, k2, k3
    advantage: str = "batch_std"  # see ADVANTAGES and rl.advantages (our choice)
    drop_forced: bool = False  # rollouts cut short by sampler.max_calls teach nothing
    drop_unended: bool = False  # rollouts whose text does not end within L tokens teach nothing
    # What stands for the sampler: nothing; gamma's density, as one more token (the paper); or the
    # exact probability of the sets that were committed, see diffusion.selection (our choice).
    selection: str = "gamma_token"
    gamma_weight: float = 1.0  # weight of that term (our choice)
    gamma_entropy: float = 0.0  # weight of the entropy of log gamma (our choice)


@dataclasses.dataclass(frozen=True)
class SpeedConfig:
    weight: float = 0.3  # lambda, the price of calls in the reward (our choice)
    # r (1 - lambda NFE/L), or additive: r - lambda NFE/L (our choice).
    form: str = "multiplicative"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    # Adam on the denoiser (our choice); held at 1e-4 it costs accuracy in few calls.
    denoiser_lr: float = 5e-5
    threshold_lr: float = 1e-2  # Adam on the threshold head: must be 10-200x faster (our choice)
    warmup: int = 5  # updates of linear warm-up, both groups
    decay: str = "none"  # of both rates after it: none, or linear, to 0 after the last update
    # The denoiser's: adamw, or adafactor, which keeps no first moment, and of the second its means
    # over rows and columns: next to nothing.  Their decay is its own (arXiv 1804.04235), not beta2.
    kind: str = "adamw"
    mu_dtype: str = "float32"  # of the denoiser's first moment: float32 or bfloat16
    beta1: float = 0.9  # decay of Adam's first moment
    beta2: float = 0.99  # and of its second
    weight_decay: float = 0.0  # on the denoiser only
    max_grad_norm: float = 1.0  # per group (denoiser, head)


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """Conditions of collapse, against the first `window` steps.

    Our choice: 60 runs that went well meet none, three made to collapse meet one within 20 steps
    (docs/recipe.md).
    """

    action: str = "warn"  # or stop; lower: cut the learning rates; off: no watch is kept
    window: int = 5  # steps that one look averages over
    entropy: float = 0.4  # collapsed: entropy at commit below this share of its start
    tokens_per_call: float = 1.3  # sliding: tokens per call above so many times the start ...
    accuracy: float = 0.08  # ... while accuracy of rollouts is so far below its start
    evaluation: float = 0.05  # validation accuracy so far below the best one seen
    lower: float = 0.3  # factor on the learning rates, once for each condition that is met


@dataclasses.dataclass(frozen=True)
class RLConfig:
    steps: int = 60  # rollout batches; each is followed by `inner_updates` updates
    prompts: int = 64  # prompts a step, over all hosts (our choice)
    # Prompts at hand for each one taken; the more, the likelier are those of difficulties whose
    # groups are mixed, see rl.focus (our choice).
    candidates: int = 1
    group: int = 8  # G, rollouts a prompt (our choice)
    inner_updates: int = 1  # mu, updates on the rollouts of a step (our choice)
    micro_batch: int = 0  # sequences a gradient micro-batch, over all devices; 0: all
    likelihood: LikelihoodConfig = LikelihoodConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    speed: SpeedConfig = SpeedConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    guard: GuardConfig = GuardConfig()


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    temperature: float = 0.0  # T of evaluations; 0: argmax (our choice)
    samples: int = 1  # completions of each prompt, for pass@k; more than one need a temperature
    block_length: int = 0  # of evaluations; 0: that of rollouts
    # The frontier's grid, nats (our choice).
    gammas: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
    steps: tuple[int, ...] = ()  # the grid of "top_k", "random"; empty: 1, 2, 4 ... a block
    confidences: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)  # the grid of "confidence"
    factors: tuple[float, ...] = ()  # on the learned γ, points of the final evaluation beside 1
    batch: int = 512  # sequences a device program
    examples: int = 1_024  # test prompts of the final frontiers; 0: all
    subset: str = "first"  # which: the first ones; or d1, those that d1's evaluation draws
    every: int = 20  # RL steps between evaluations on the validation split; 0: never
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
    slices: int = 1  # that the data-centre network joins; `data` is laid over them


@dataclasses.dataclass(frozen=True)
class LoggingConfig:
    every: int = 1  # steps between lines of metrics.jsonl
    samples_every: int = 25  # RL steps between files in samples/; 0: none
    tensorboard: bool = False  # also write TensorBoard events (needs tensorboardX)
    wandb: str = ""  # also a run in this project of Weights & Biases (needs wandb)
    trackio: str = ""  # also a run in this project of trackio (needs trackio)
    profile: tuple[int, ...] = ()  # RL steps that JAX's profiler traces, into WORKDIR/profile


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0  # everything random derives from (seed, stream, step, row)
    mode: str = "joint"  # trains: model (gamma fixed), sampler (denoiser frozen), joint
    method: str = "diffpo"  # d1, d1_is, diffpo_no_is, diffpo: see METHODS
    init_from: str = ""  # a workdir whose base model is taken instead of pretraining
    task: TaskConfig = TaskConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    lora: LoRAConfig = LoRAConfig()
    threshold: ThresholdConfig = ThresholdConfig()
    sampler: SamplerConfig = SamplerConfig()
    pretrain: PretrainConfig = PretrainConfig()
    rl: RLConfig = RLConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    mesh: MeshConfig = MeshConfig()
    logging: LoggingConfig = LoggingConfig()

    @property
    def dial(self) -> float:
        """The commit rule's number where nothing is learned: γ in nats, calls, or a probability."""
        dials = {
            "gamma": self.threshold.gamma,
            "steps": self.sampler.steps,
            "confidence": self.sampler.confidence,
        }
        return float(dials[DIALS[self.sampler.rule]])

    @property
    def demonstration_lengths(self) -> tuple[int, int]:
        """Tokens of prompts and answers in pretraining."""
        own = self.pretrain.demonstrations
        prompt = own.prompt_length or self.sampler.prompt_length
        return prompt, own.length or self.sampler.length

    @property
    def decoder(self) -> SamplerConfig:
        """The sampler of evaluations and of single completions."""
        size = self.evaluation.block_length or self.sampler.block_length
        return dataclasses.replace(self.sampler, block_length=size)

    @property
    def dials(self) -> tuple[float, ...]:
        """The grid of evaluations, of the same kind."""
        size = self.decoder.block_length
        blocks = self.sampler.length // size
        doubling = [blocks * 2**i for i in range(size.bit_length()) if 2**i <= size]
        grids = {
            "gamma": self.evaluation.gammas,
            "steps": self.evaluation.steps or doubling,
            "confidence": self.evaluation.confidences,
        }
        return tuple(float(x) for x in grids[DIALS[self.sampler.rule]])


@dataclasses.dataclass(frozen=True)
class Figure2Config:
    model: str = "base"  # base: the run before RL; or trained
    prompts: int = 100  # test prompts
    rollouts: int = 4  # of each prompt
    draws: int = 64  # of the anchors, for each K
    anchors: tuple[int, ...] = (1, 2, 4, 16)  # K
    batch: int = 100  # rollouts whose distributions are held at once


@dataclasses.dataclass(frozen=True)
class GridConfig:
    """Runs that are compared: every arm with every seed on every task."""

    title: str = ""  # of the tables and figures
    tasks: tuple[str, ...] = ()  # config files with their presets, as --config takes them
    seeds: tuple[int, ...] = (0, 1, 2)  # every arm is run with each, from one base model a seed
    # Each "LABEL: field=value field=value", set over the task's configuration; a line of the
    # figures.  A value with spaces stands in quotes.
    arms: tuple[str, ...] = ()
    common: tuple[str, ...] = ()  # "field=value", set in all of them, before the arm's own
    reference: str = ""  # label of the arm that others are compared with; empty: the first
    calls: tuple[float, ...] = (3.0, 4.0, 5.0, 6.0, 8.0)  # where the frontiers are compared
    processes: int = 1  # runs at a time on this machine; they share its cores out


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """Runs that are compared, where `grid` has arms; else the surrogates' KL on `run`."""

    figure2: Figure2Config = Figure2Config()
    run: Config = Config()
    grid: GridConfig = GridConfig()
