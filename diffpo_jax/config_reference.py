"""Writes docs/config.md: every field of the configuration, and what each config file changes.

python -m diffpo_jax.config_reference --configs=configs --out=docs/config.md
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from diffpo_jax import cli, config_page
from diffpo_jax.errors import UserError

_CONFIGS = flags.DEFINE_string("configs", None, "Directory of the config files.")
_OUT = flags.DEFINE_string("out", None, "File for the page.")


def main(argv: Sequence[str]) -> None:
    cli.require(argv, ("configs", "out"), __doc__.splitlines()[2].strip())
    text = config_page.page(pathlib.Path(_CONFIGS.value))
    try:
        pathlib.Path(_OUT.value).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out={_OUT.value} cannot be written: {error}.") from error


if __name__ == "__main__":
    cli.entry(main)
