"""Published samplers and d1's loss, loaded from checkouts on this machine, with given weights.

Nothing of the published code is part of this project.  The packages around it are replaced by empty
ones, so that only the files that are needed run, not what their `__init__` imports.  Networks are
built from the weights of `params["denoiser"]`, see `weights_of_llada`.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffpo_jax.system.errors import UserError

Sample = Callable[[Tensor], Tensor]  # prompts [B P] -> completions [B L]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # prompts, completions, advantages [B] -> mean

# A file that each checkout has, to recognise it.
MARKS = {
    "llada": "generate.py",
    "fast_dllm": "llada/generate.py",
    "dllm": "dllm/core/samplers/mdlm.py",
    "d1": "diffu-grpo/diffu_grpo_trainer.py",
}


def check(name: str, directory: str) -> Path:
    """Returns the checkout's path.  Raises `UserError` if something else is there."""
    path = Path(directory).expanduser().resolve()
    if not (path / MARKS[name]).is_file():
        raise UserError(f"--{name}={directory}: {MARKS[name]} is not there; give the checkout.")
    return path


def llada_network(dllm: Path, denoiser: dict[str, Any], sizes: dict[str, Any]) -> nn.Module:
    """Returns LLaDA's network, in dllm's copy, which runs on current transformers.

    Args:
      sizes: see `_network`.
    """
    _load_dllm(dllm)
    package = "dllm.pipelines.llada.models"
    return _network(package, "LLaDAConfig", "LLaDAModelLM", denoiser, sizes)


def llada_sampler(llada: Path, network: nn.Module, mask_id: int, how: dict[str, Any]) -> Sample:
    """Returns `generate` of LLaDA.

    Args:
      how: the keys length, block, calls and temperature.
    """
    module = _load_file(llada / "generate.py", "llada_generate")
    return lambda prompts: module.generate(network, prompts, **_llada_names(how, mask_id))[
        :, -how["length"] :
    ]


def fast_dllm_sampler(
    fast_dllm: Path,
    denoiser: dict[str, Any],
    sizes: dict[str, Any],
    cache: str,
    how: dict[str, Any],
) -> Sample:
    """Returns Fast-dLLM's sampler with a cache, for one prompt at a time, on its own network.

    Args:
      cache: "prefix" or "dual".
    """
    _empty_package("model", fast_dllm / "llada" / "model")
    module = _load_file(fast_dllm / "llada" / "generate.py", "fast_dllm_generate")
    network = _network("model", "LLaDAConfig", "LLaDAModelLM", denoiser, sizes)
    run = getattr(module, f"generate_with_{cache}_cache")
    names = _llada_names(how, sizes["mask_id"])
    return lambda prompts: run(network, prompts, **names)[0][:, -how["length"] :]


def dllm_sampler(dllm: Path, network: nn.Module, mask_id: int, how: dict[str, Any]) -> Sample:
    """Returns dllm's sampler of masked diffusion models."""
    _load_dllm(dllm)
    module = importlib.import_module("dllm.core.samplers.mdlm")
    sampler = module.MDLMSampler(network, _tokenizer(mask_id))
    names = _dllm_names(how)
    return lambda prompts: sampler.sample(list(prompts), **names)[:, -how["length"] :]


def dllm_fast_sampler(
    dllm: Path, denoiser: dict[str, Any], sizes: dict[str, Any], cache: str, how: dict[str, Any]
) -> Sample:
    """Returns dllm's version of Fast-dLLM's sampler, which takes batches, on its own network.

    Args:
      cache: "prefix" or "dual".
    """
    _load_dllm(dllm)
    package = "dllm.pipelines.fastdllm.llada"
    names = "FastdLLMLLaDAConfig", "FastdLLMLLaDAModelLM"
    network = _network(f"{package}.models", *names, denoiser, sizes)
    module = importlib.import_module(f"{package}.sampler")
    sampler = module.FastdLLMLLaDASampler(network, _tokenizer(sizes["mask_id"]))
    options = _dllm_names(how) | {"use_cache": cache}
    return lambda prompts: sampler.sample(list(prompts), **options)[:, -how["length"] :]


def d1_loss(d1: Path, network: nn.Module, mask_id: int) -> Loss:
    """Returns d1's `compute_loss`, with one update per rollout and no KL.

    The method and those it calls run as they are.  The rest of the trainer is not needed: trl,
    accelerate and wandb, which it imports, are replaced by placeholders.  It draws which prompt
    tokens to hide, but with a share of 0, so that its gradient can be compared.
    """
    importlib.import_module("transformers").Trainer  # noqa: B018  before there are placeholders
    with _placeholders("trl", "accelerate", "wandb", "datasets"):
        module = _load_file(d1 / "diffu-grpo" / "diffu_grpo_trainer.py", "d1_trainer")
    trainer = module.DiffuGRPOTrainer.__new__(module.DiffuGRPOTrainer)
    trainer.args = types.SimpleNamespace(
        num_iterations=1, mask_id=mask_id, p_mask_prompt=0.0, cfg_scale=0.0
    )
    trainer.num_iterations, trainer.beta, trainer.epsilon, trainer._step = 1, 0.0, 0.2, 0
    trainer.control = types.SimpleNamespace(should_evaluate=False)
    trainer.accelerator = types.SimpleNamespace(gather_for_metrics=lambda x: x)
    trainer._metrics = {"train": {"clip_ratio": []}}

    def loss(prompts: Tensor, completion: Tensor, advantage: Tensor) -> Tensor:
        inputs = {
            "prompt_ids": prompts,
            "prompt_mask": torch.ones_like(prompts),
            "completion_ids": completion,
            "completion_mask": torch.ones_like(completion),
            "mask_seeds": [42],
            "advantages": advantage,
        }
        return trainer.compute_loss(network, inputs)

    return loss


def weights_of_llada(denoiser: dict[str, Any]) -> dict[str, Tensor]:
    """Returns weights under LLaDA's names, with kernels as [out, in].

    Args:
      denoiser: `params["denoiser"]` of `diffpo_jax.models`, without biases and learned positions.
    """
    blocks, kernels = denoiser["blocks"], {"q": "q_proj", "k": "k_proj", "v": "v_proj"}
    kernels |= {"o": "attn_out", "gate": "ff_proj", "up": "up_proj", "down": "ff_out"}
    top = "model.transformer"
    weights = {
        f"{top}.wte.weight": denoiser["embed"],
        f"{top}.ln_f.weight": denoiser["norm"]["scale"],
        f"{top}.ff_out.weight": denoiser["unembed"].T,
    }
    for i in range(blocks["gate"].shape[0]):
        for ours, theirs in kernels.items():
            weights[f"{top}.blocks.{i}.{theirs}.weight"] = blocks[ours][i].T
        for norm in ("attn_norm", "ff_norm"):
            weights[f"{top}.blocks.{i}.{norm}.weight"] = blocks[norm]["scale"][i]
    return {name: torch.from_numpy(np.array(x)) for name, x in weights.items()}


def _network(
    package: str, config_name: str, model_name: str, denoiser: dict[str, Any], sizes: dict[str, Any]
) -> nn.Module:
    """Builds a network of the classes in `package` and loads the weights.

    Args:
      sizes: the keys width, layers, heads, ff, vocab, mask_id, theta and eps.
    """
    # It warns about names that the published networks use.
    importlib.import_module("transformers").logging.set_verbosity_error()
    config_class = getattr(importlib.import_module(f"{package}.configuration_llada"), config_name)
    module = importlib.import_module(f"{package}.modeling_llada")
    model_class = getattr(module, model_name)
    config = config_class(**_llada_config(sizes))
    config.use_cache = False
    # Version 5 of transformers reads this of every class; the published ones do not set it.
    if not hasattr(model_class, "all_tied_weights_keys"):
        model_class.all_tied_weights_keys = {}
    inner_config = module.create_model_config_from_pretrained_config(config)
    inner_config.init_device = "cpu"
    (inner_name,) = (name for name in dir(module) if name.endswith("LLaDAModel"))
    inner = getattr(module, inner_name)(inner_config, init_params=False)
    network = model_class(config, model=inner)
    network.load_state_dict(weights_of_llada(denoiser))
    return network.eval()


def _llada_config(sizes: dict[str, Any]) -> dict[str, Any]:
    vocab, heads = sizes["vocab"], sizes["heads"]
    end = {"eos_token_id": vocab - 2, "pad_token_id": vocab - 2}
    absent = (
        "include_bias",
        "include_qkv_bias",
        "bias_for_layer_norm",
        "weight_tying",
        "attention_layer_norm",
        "input_emb_norm",
        "scale_logits",
        "flash_attention",
    )
    dropouts = ("attention_dropout", "residual_dropout", "embedding_dropout")
    return {
        **end,
        **dict.fromkeys(absent, False),
        **dict.fromkeys(dropouts, 0.0),
        "d_model": sizes["width"],
        "n_layers": sizes["layers"],
        "n_heads": heads,
        "n_kv_heads": heads,
        "mlp_hidden_size": sizes["ff"],
        "vocab_size": vocab,
        "embedding_size": vocab,
        "mask_token_id": sizes["mask_id"],
        "rope_theta": sizes["theta"],
        "rms_norm_eps": sizes["eps"],
        "rope": True,
        "rope_full_precision": True,
        "activation_type": "silu",
        "block_type": "llama",
        "layer_norm_type": "rms",
        "max_sequence_length": 2048,
        "init_device": "cpu",
    }


def _llada_names(how: dict[str, Any], mask_id: int) -> dict[str, Any]:
    return {
        "steps": how["calls"],
        "gen_length": how["length"],
        "block_length": how["block"],
        "temperature": how["temperature"],
        "mask_id": mask_id,
    }


def _dllm_names(how: dict[str, Any]) -> dict[str, Any]:
    return {
        "steps": how["calls"],
        "max_new_tokens": how["length"],
        "block_size": how["block"],
        "temperature": how["temperature"],
    }


def _tokenizer(mask_id: int) -> Any:
    """What dllm's samplers read of a tokenizer; prompts of equal length are never padded."""
    end = mask_id - 1
    return types.SimpleNamespace(mask_token_id=mask_id, eos_token_id=end, bos_token_id=end)


def _load_dllm(dllm: Path) -> None:
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # one of its models compiles attention
    pipelines = "dllm.pipelines"
    for name in (
        "dllm",
        "dllm.core",
        "dllm.core.samplers",
        pipelines,
        f"{pipelines}.llada",
        f"{pipelines}.llada.models",
        f"{pipelines}.fastdllm",
        f"{pipelines}.fastdllm.llada",
        f"{pipelines}.fastdllm.llada.models",
    ):
        _empty_package(name, dllm / name.replace(".", "/"))


def _empty_package(name: str, path: Path) -> None:
    """Makes a package whose modules lie in `path` and whose `__init__` does nothing."""
    if name not in sys.modules:
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package


def _load_file(path: Path, name: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Placeholder(types.ModuleType):
    """A package in which every name is an empty class, and every module another placeholder."""

    __path__: tuple[str, ...] = ()
    profiling_decorator = staticmethod(lambda function: function)
    set_seed = staticmethod(torch.manual_seed)

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _PlaceholderFinder:
    """Imports these packages, and all modules in them, as placeholders."""

    def __init__(self, packages: tuple[str, ...]):
        self.packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] not in self.packages:
            return None
        return importlib.util.spec_from_loader(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


@contextlib.contextmanager
def _placeholders(*packages: str) -> Iterator[None]:
    """Replaces packages by placeholders within the block, whether or not they are installed."""

    def of_packages() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] in packages]

    hidden = {name: sys.modules.pop(name) for name in of_packages()}
    finder = _PlaceholderFinder(packages)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in of_packages():
            del sys.modules[name]
        sys.modules.update(hidden)
