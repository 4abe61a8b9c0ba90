"""Published settings that presets in configs/ share: 8B models, DiFFPO's and d1's training.

Where their numbers come from: the shapes from the models' own config.json; d1's training from
arXiv 2504.12216 and the repository dllm-reasoning/d1 (its batch scripts, which its authors call
authoritative); DiFFPO's from arXiv 2510.02212, and where that is silent, d1's or our choice.

Loading published weights and tokenizers is not there yet, nor are LoRA and 4-bit weights, which d1
trains with.  So these settings are what a run of that size is to have; the tokenizer is left
without an alphabet, and a run stops there with a message before it makes a model.
"""

from ml_collections import ConfigDict


def llada_8b(config: ConfigDict) -> None:
    """The shape of LLaDA-8B (8.02e9 parameters), in bfloat16 over eight devices."""
    model = config.model
    model.width, model.layers, model.heads, model.kv_heads, model.ff = 4096, 32, 32, 32, 12288
    model.rope_theta, model.norm_eps = 500_000.0, 1e-5
    _large(config)


def dream_7b(config: ConfigDict) -> None:
    """The shape of Dream-7B, which is Qwen2.5-7B's.

    What our network does not have is missing: biases of queries, keys and values, and logits that
    belong to the next position.
    """
    model = config.model
    model.width, model.layers, model.heads, model.kv_heads, model.ff = 3584, 28, 28, 4, 18944
    model.rope_theta, model.norm_eps = 1_000_000.0, 1e-6
    _large(config)


def diffpo(config: ConfigDict, *, inner_updates: int, updates: int) -> None:
    """DiFFPO's training of an 8B model: mode and method stay the configuration's own.

    Args:
      inner_updates: updates of each rollout batch.
      updates: updates in all, rounded down to whole rollout batches.
    """
    rl, sampler = config.rl, config.sampler
    sampler.length, sampler.block_length, sampler.temperature = 256, 32, 0.9
    sampler.stop_at_end = True
    rl.prompts, rl.group, rl.micro_batch = 16, 6, 48
    rl.inner_updates, rl.steps = inner_updates, updates // inner_updates
    rl.objective.clip_low = rl.objective.clip_high = 0.5
    rl.objective.kl, rl.objective.kl_estimator, rl.objective.advantage = 0.04, "k3", "mean"
    rl.optimizer.denoiser_lr, rl.optimizer.threshold_lr = 3e-6, 1e-3
    rl.optimizer.weight_decay, rl.optimizer.max_grad_norm = 0.1, 0.2
    config.evaluation.gammas = (0.0, 0.01, 0.05, 0.1, 0.3, 1.0)
    config.evaluation.examples, config.evaluation.batch = 0, 64
    # d1 saves, and looks at, every hundredth update.
    config.checkpoint.every = config.evaluation.every = max(1, 100 // inner_updates)


def d1(config: ConfigDict, *, inner_updates: int, updates: int) -> None:
    """d1's own protocol: two tokens a call, most confident first, no reward for speed.

    Not d1's: it scores tokens without the sampling temperature and with the mask among them, and
    attends to padding.
    """
    diffpo(config, inner_updates=inner_updates, updates=updates)
    config.method, config.mode, config.task.protocol = "d1", "model", "d1"
    config.sampler.rule, config.sampler.steps, config.evaluation.steps = "top_k", 128, (128,)
    config.sampler.stop_at_end = False
    config.rl.objective.aggregation = "token"
    config.rl.speed.weight = 0.0
    config.seed = 42


def _large(config: ConfigDict) -> None:
    model = config.model
    model.dtype, model.remat, model.scan_unroll, model.positions = "bfloat16", True, 1, 0
    model.embedding_std = 0.02
    config.mesh.fsdp = 8
    config.pretrain.steps = 0
    config.tokenizer.alphabet = ""  # see the module's head
