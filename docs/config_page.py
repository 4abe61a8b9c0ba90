"""Writes docs/config.md: every field of the configuration, and the changes of each config file.

    python docs/config_page.py

Descriptions are the comments in `diffpo_jax/config/fields.py`, types its annotations.  Nothing on
the page is written by hand: a test fails if the page differs from the output of this script.
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

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from diffpo_jax.config import Config, StudyConfig, convert, fields, presets, values
from diffpo_jax.system.errors import UserError

OURS = "our choice"
HEAD = f"""\
# The configuration: every field

`python docs/config_page.py` writes this page from `diffpo_jax/config/fields.py` and the files in
`configs/`; edit those. Every field can be set on the command line, as in
`--config.rl.objective.kl=0.04`. Defaults are those of the dataclasses; the second part lists what
each config file and preset changes. "{OURS}" marks what the paper leaves open, or a value that
differs from the paper's. Where the type has `None`, configurations of older versions may have `0`
or an empty text instead, which still read as `None` (or as `all`).
"""


class Field(NamedTuple):
    """The description of a field in the source."""

    text: str  # its comment
    ours: bool  # whether the comment says that it is our choice


class Section(NamedTuple):
    """The description of a dataclass in the source."""

    text: str  # the first paragraph of its docstring, or ""
    fields: Mapping[str, Field]


def page(configs: pathlib.Path) -> str:
    """The whole page.

    Args:
      configs: the directory of the config files.

    Raises:
      UserError: the directory has no config files, or a field has no comment.
    """
    files = sorted(configs.rglob("*.py"))
    if not files:
        raise UserError(f"--configs={configs} holds no config files.")
    parsed = sections(inspect.getsource(fields))
    parts = [HEAD, "## Fields\n"]
    parts += _format_section(Config(), "config", parsed)
    parts.append(
        "A study has the configuration of a whole run in `config.run`, and these sections:\n"
    )
    study = StudyConfig()
    for field in dataclasses.fields(study):
        if field.name != "run":
            parts += _format_section(getattr(study, field.name), f"config.{field.name}", parsed)
    parts += ["## Names in capitals\n", _format_names()]
    parts.append("## Config files and presets\n")
    parts.append(
        "`default` is compared with the dataclasses, a preset with its file's `default`. Presets "
        "can be combined, as in `--config=FILE:llada_8b,d1`; some then change more or less than "
        "listed here.\n"
    )
    for path in files:
        parts += _format_file(path, path.relative_to(configs.parent).as_posix())
    return "\n".join(parts)


def sections(source: str) -> dict[str, Section]:
    """The dataclasses of a module's source by name, with the comments of their fields.

    The comment of a field consists of the comment lines right above it and the comment at the end
    of its last line.

    Raises:
      UserError: a field has no comment.
    """
    comments, alone = _read_comments(source)
    result = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            text = (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")
            own = dict(_read_fields(node, comments, alone, OURS in text))
            result[node.name] = Section(text, own)
    return result


def changes(given: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines "section.field=value" for the nested values that differ from `other`."""
    lines = []
    for name, value in given.items():
        if isinstance(value, Mapping):
            lines += changes(value, other[name], f"{prefix}{name}.")
        elif value != other[name]:
            lines.append(f"{prefix}{name}={_format_value(value)}")
    return lines


def _read_comments(source: str) -> tuple[dict[int, str], set[int]]:
    """The comments by line, and the lines that have nothing but a comment."""
    comments, alone = {}, set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            comments[row] = token.string.lstrip("#").strip()
            if not token.line[:column].strip():
                alone.add(row)
    return comments, alone


def _read_fields(
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
        if not text and not ast.unparse(item.annotation).endswith("Config"):
            raise UserError(f"{node.name}.{item.target.id} has no comment that describes it.")
        ours = all_ours or OURS in text
        yield item.target.id, Field(text.replace(f" ({OURS})", ""), ours)


def _format_section(section: Any, path: str, parsed: Mapping[str, Section]) -> list[str]:
    """The table of a section, then those of the sections in it."""
    description = parsed[type(section).__name__]
    hints = values.annotations(type(section))
    rows, inner = [], []
    for name, field in description.fields.items():
        value = getattr(section, name)
        if dataclasses.is_dataclass(value):
            inner += _format_section(value, f"{path}.{name}", parsed)
        else:
            kind, default = values.describe(hints[name]), _code(_format_value(value))
            rows.append((_code(name), kind, default, _cell(field.text), OURS if field.ours else ""))
    table = _table(("Field", "Type", "Default", "What it does", "Paper"), rows)
    text = [f"{description.text}\n"] if description.text else []
    return [f"### `{path}`\n", *text, *([table] if rows else []), *inner]


def _format_names() -> str:
    """The tables that comments refer to by a name in capitals."""
    tables = {name: x for name, x in vars(fields).items() if name.isupper() and isinstance(x, dict)}
    rows = [
        (_code(name), _code(key), _code(_format_value(value)))
        for name, table in tables.items()
        for key, value in table.items()
    ]
    return _table(("Name", "Key", "Value"), rows)


def _format_file(path: pathlib.Path, name: str) -> list[str]:
    plain = convert.dict_from_file(str(path)).to_dict()
    start = StudyConfig() if "run" in plain else Config()
    rows = [("`default`", _join(changes(plain, convert.as_config_dict(start).to_dict())))]
    sizes = getattr(convert.load_module(path), "SIZES", {})
    # The presets of a study are those of its run.
    for preset in [*sizes, *presets.ALGORITHMS] if sizes else []:
        changed = convert.dict_from_file(f"{path}:{preset}").to_dict()
        rows.append((_code(preset), _join(changes(changed, plain))))
    return [f"### {name}\n", _table(("Preset", "What it changes"), rows)]


def _join(lines: Sequence[str]) -> str:
    return ", ".join(map(_code, lines)) or "nothing"


def _format_value(value: Any) -> str:
    return repr(tuple(value) if isinstance(value, list) else value)


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
    try:
        text = page(root / "configs")
    except UserError as fault:
        print(f"error: {fault}", file=sys.stderr)
        sys.exit(2)
    (root / "docs/config.md").write_text(text, encoding="utf-8")
