"""Writes a run's model in the published form, or its adapter alone."""

import dataclasses
import json
import pathlib

from diffpo_jax.config import Config, MeshConfig, convert
from diffpo_jax.data import tokenizers
from diffpo_jax.distributed import mesh as mesh_lib
from diffpo_jax.models import huggingface, lora, peft
from diffpo_jax.run import base_model, model_card, sampler_files, setup, torch_model
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import layout, provenance


def export(path: str, out: str, *, model: str, dtype: str = "", adapter: bool = False) -> str:
    """Writes the model of a run, with its sampler for PyTorch.

    Args:
      path: workdir of the run; it may have been trained on any mesh.
      model: "trained" or "base".
      dtype: of the files; "" for the parameters' own.
      adapter: whether to write the adapter alone, without a sampler.

    Returns:
      What was written for the sampler, or why nothing was; empty with `adapter`.

    Raises:
      UserError: there is no run, no checkpoint or no adapter; `out` exists.
    """
    # 1. Check, before the checkpoint is read.
    directory = pathlib.Path(out)
    if directory.exists():
        raise UserError(f"{out} exists already: choose another directory, or remove it.")
    paths = layout.Workdir(pathlib.Path(path))
    config = layout.read_config(paths)
    if adapter:
        _check_adapter(path, config, model)
    # 2. Read the model.
    mesh = mesh_lib.make_mesh(MeshConfig())
    # The attention kernel of the run's devices need not exist here.
    anywhere = dataclasses.replace(
        config, model=dataclasses.replace(config.model, attention="auto")
    )
    policy = setup.make_policy(anywhere, tokenizers.make_tokenizer(config.tokenizer), mesh)
    params = base_model.restore(path, model, policy, mesh)
    # 3. Write it, with its lineage.
    weights = base_model.weights_of(config)
    source = huggingface.locate(weights) if weights else None
    lineage = {
        "workdir": path,
        "model": model,
        "base": weights or config.init_from or "",
        "base_sha256": huggingface.fingerprint(source) if source else "",
        "commit": provenance.commit(),
        "config": json.loads(convert.to_json(config)),
    }
    if adapter:
        origin = {"base": lineage["base"], "lineage": lineage}
        peft.write(directory, params["adapter"], config.lora, config.model.family, **origin)
        return ""
    denoiser = params["denoiser"]
    if "adapter" in params:
        denoiser = lora.merge(denoiser, params["adapter"], config.lora, dtype)
    # Another network than the one it was made of needs a config.json of its own.
    converted = base_model.origin(config).model.autoregressive
    said: list[str] = []

    def also(directory: pathlib.Path) -> None:
        # Another network than the one it was made of needs a tokenizer of its own.
        torch_model.write_tokenizer(directory, config, copied=bool(source) and not converted)
        if config.model.family == "tiny":
            torch_model.write_code(directory)
        sampler = sampler_files.write(directory, config, model, params)
        facts = {"lineage": lineage, "source": source, "sampler": sampler}
        model_card.write(directory, config, model, paths, **facts)
        said.append(sampler.line)

    huggingface.write(
        directory,
        denoiser,
        dataclasses.replace(config.model, autoregressive=converted),
        lineage=lineage,
        source=source,
        also=also,
        dtype=dtype,
    )
    return said[0]


def _check_adapter(path: str, config: Config, model: str) -> None:
    """Raises `UserError` if there is no adapter, or nobody else has the base model it needs."""
    if model == "base":
        raise UserError("--adapter: the base model has none; leave --model out.")
    if not config.lora.rank or config.mode == "sampler":
        raise UserError(
            f"--adapter: {path} trained none (config.lora.rank={config.lora.rank}, "
            f"config.mode={config.mode!r}); without --adapter the whole model is written."
        )
    if base_model.weights_of(config) and not base_model.is_published(config):
        raise UserError(
            f"--adapter: {path} trained it over a base model that SFT had changed and that nobody "
            "else has; without --adapter the whole model is written."
        )
