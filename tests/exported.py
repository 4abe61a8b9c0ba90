"""Loads the PyTorch code of exports as plain modules; needs torch."""

import importlib.util
import sys

from diffpo_jax.run import sampler_files, torch_model


def module(path):
    spec = importlib.util.spec_from_file_location(f"exported_{path.stem}", path)
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # dataclasses look their module up
    spec.loader.exec_module(found)
    return found


def generate(directory):
    return module(directory / sampler_files.CODE).generate


def tiny_model(directory):
    return module(directory / f"{torch_model.MODULE}.py").TinyModel.from_pretrained(directory)
