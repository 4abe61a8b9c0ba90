"""What lets transformers load an exported model of the family "tiny": code, and a tokenizer."""

import pathlib
import shutil

from diffpo_jax.config import Config
from diffpo_jax.data import tokenizers
from diffpo_jax.models import huggingface, published_config
from diffpo_jax.run.sampler_files import TEMPLATES
from diffpo_jax.system import files

MODULE = "modeling_diffpo_jax_tiny"
_CONFIG, _MODEL = f"{MODULE}.TinyConfig", f"{MODULE}.TinyModel"
_AUTO_MAP = {"AutoConfig": _CONFIG} | dict.fromkeys(
    ("AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM"), _MODEL
)


def write_code(directory: pathlib.Path) -> None:
    """Adds the network of family "tiny" in PyTorch, and names it in config.json."""
    shutil.copyfile(TEMPLATES / f"{MODULE}.py.txt", directory / f"{MODULE}.py")
    path = directory / huggingface.CONFIG
    names = {"architectures": ["TinyModel"], "auto_map": _AUTO_MAP}
    files.write_json(path, published_config.read_json(path) | names)


def write_tokenizer(directory: pathlib.Path, config: Config, *, copied: bool) -> None:
    """Writes the tokenizer of a run, unless the export has a copy of it that will do.

    Args:
      copied: whether the export has the files of the weights that the run began from.
    """
    if config.tokenizer.name == "char":
        tokenizers.save_own(config.tokenizer, directory)
    elif not copied:
        tokenizers.save_with_mask(config.tokenizer, directory)
