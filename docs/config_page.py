"""Writes docs/config.md: every field of the configuration, and what each config file changes.

    python docs/config_page.py

A field's description is its comment in `diffpo_jax/config/fields.py`.  Nothing is written by hand:
a test fails where the page is not what this script writes.
"""

import ast
import dataclasses
import inspect
import io
import os
import pathlib
import sys
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from diffpo_jax.config import Config, StudyConfig, convert, fields, presets
from diffpo_jax.system.errors import UserError

OURS = "our choice"
HEAD = f"""\
# The configuration: every field

`python docs/config_page.py` writes this page from `diffpo_jax/config/fields.py` and the files in
`configs/`; edit those. Any field is set on the command line, as in `--config.rl.objective.kl=0.04`.
The default is that of the dataclass; the second part says what each config file and preset makes of
it. "{OURS}" marks where the paper is silent, or where its value is another. `None` stands for what
the method or the rule decides.
"""


class Field(NamedTuple):
    """A field as its source has it."""

    type: str
    text: str  # its comment
    ours: bool  # whether the comment calls it our choice


class Section(NamedTuple):
    """A dataclass as its source has it."""

    text: str  # the first paragraph of its docstring; empty: none
    fields: Mapping[str, Field]


def page(configs: pathlib.Path) -> str:
    """The whole page.

    Args:
      configs: the directory of the config files.

    Raises:
      UserError: there are none; a field has no comment.
    """
    files = sorted(configs.rglob("*.py"))
    if not files:
        raise UserError(f"--configs={configs} holds no config files.")
    parsed = sections(inspect.getsource(fields))
    parts = [HEAD, "## Fields\n"]
    parts += _of_section(Config(), "config", parsed)
    parts.append(
        "A study's configuration has a whole run's in `config.run`, and these sections beside it:\n"
    )
    study = StudyConfig()
    for field in dataclasses.fields(study):
        if field.name != "run":
            parts += _of_section(getattr(study, field.name), f"config.{field.name}", parsed)
    parts += ["## Names in capitals\n", _names()]
    parts.append("## Config files and presets\n")
    parts.append(
        "`default` is compared with the dataclasses, a preset with its file's `default`. Presets "
        "go together: `--config=FILE:llada_8b,d1`; some then change more or less than here.\n"
    )
    for path in files:
        parts += _of_file(path, path.relative_to(configs.parent).as_posix())
    return "\n".join(parts)


def sections(source: str) -> dict[str, Section]:
    """The dataclasses of a module's source by name, with the comments of their fields.

    A field's comment is what stands on lines of its own right above it, then what follows it on
    its own line.

    Raises:
      UserError: a field has none.
    """
    comments, alone = _comments(source)
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            text = (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")
            fields = dict(_fields(node, comments, alone, OURS in text))
            found[node.name] = Section(text, fields)
    return found


def changes(values: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines "section.field=value" where nested `values` are not those of `other`."""
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += changes(value, other[name], f"{prefix}{name}.")
        elif value != other[name]:
            lines.append(f"{prefix}{name}={_shown(value)}")
    return lines


def _comments(source: str) -> tuple[dict[int, str], set[int]]:
    """Comments by line, and the lines that have nothing else."""
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            comments[row] = token.string.lstrip("#").strip()
            if not token.line[:column].strip():
                alone.add(row)
    return comments, alone


def _fields(
    node: ast.ClassDef, comments: Mapping[int, str], alone: set[int], all_ours: bool
) -> Iterator[tuple[str, Field]]:
    for item in node.body:
        if not isinstance(item, ast.AnnAssign):
            continue
        above, row = [], item.lineno - 1
        while row in alone:
            above.insert(0, comments[row])
            row -= 1
        text = " ".join(" ".join([*above, comments.get(item.end_lineno, "")]).split())
        kind = ast.unparse(item.annotation)
        if not text and not kind.endswith("Config"):
            raise UserError(f"{node.name}.{item.target.id} has no comment that says what it does.")
        ours = all_ours or OURS in text
        yield item.target.id, Field(kind, text.replace(f" ({OURS})", ""), ours)


def _of_section(value: Any, path: str, parsed: Mapping[str, Section]) -> list[str]:
    """The section's table, then those of the sections in it."""
    section = parsed[type(value).__name__]
    rows, inner = [], []
    for name, field in section.fields.items():
        one = getattr(value, name)
        if dataclasses.is_dataclass(one):
            inner += _of_section(one, f"{path}.{name}", parsed)
        else:
            code = _code(name), _code(field.type), _code(_shown(one))
            rows.append((*code, _cell(field.text), OURS if field.ours else ""))
    table = _table(("Field", "Type", "Default", "What it does", "Paper"), rows)
    text = [f"{section.text}\n"] if section.text else []
    return [f"### `{path}`\n", *text, *([table] if rows else []), *inner]


def _names() -> str:
    """What comments refer to by a name in capitals."""
    named = {name: value for name, value in vars(fields).items() if name.isupper()}
    rows = [(_code(name), ", ".join(map(_code, value))) for name, value in named.items()]
    return _table(("Name", "Values"), rows)


def _of_file(path: pathlib.Path, name: str) -> list[str]:
    module = convert.load_module(path)
    plain = module.get_config().to_dict()
    start = StudyConfig() if "run" in plain else Config()
    rows = [("`default`", _listed(changes(plain, convert.as_config_dict(start).to_dict())))]
    sizes = getattr(module, "SIZES", {})
    # A study's presets are its run's.
    for preset in [*sizes, *presets.ALGORITHMS] if sizes else []:
        changed: ml_collections.ConfigDict = module.get_config(preset)
        rows.append((_code(preset), _listed(changes(changed.to_dict(), plain))))
    return [f"### {name}\n", _table(("Preset", "What it changes"), rows)]


def _listed(lines: Sequence[str]) -> str:
    return ", ".join(map(_code, lines)) or "nothing"


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return repr(tuple(value))
    return repr(value)


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    root = pathlib.Path(__file__).parents[1]
    os.chdir(root)
    (root / "docs/config.md").write_text(page(root / "configs"), encoding="utf-8")
