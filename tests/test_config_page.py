"""docs/config.md is the output of its script, which describes the source."""

import dataclasses
import pathlib

import pytest

from diffpo_jax.config import Config, convert
from diffpo_jax.system.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
config_page = convert.load_module(ROOT / "docs/config_page.py")

SOURCE = '''
class A:
    """Numbers; all are our choice.

    More."""

    x: int = 1  # how many

class B:
    # Above,
    # and on
    y: tuple[int, ...] = (
        1,
    )  # and behind (our choice)
    z: float | None = None  # or nothing

    w: int = 2  # after a blank line, "a # b"
'''


def test_the_page_is_the_output_of_the_script():
    written = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    assert written == config_page.page(ROOT / "configs"), "run python docs/config_page.py"


def test_every_field_is_on_the_page():
    lines = config_page.page(ROOT / "configs").splitlines()

    def check(section, path):
        start = lines.index(f"### `{path}`")
        own = "\n".join(lines[start : start + 60]).partition("\n### ")[0]
        for field in dataclasses.fields(section):
            value = getattr(section, field.name)
            if dataclasses.is_dataclass(value):
                check(value, f"{path}.{field.name}")
            else:
                assert f"| `{field.name}` |" in own

    check(Config(), "config")


def test_comments_are_read_from_the_source():
    found = config_page.sections(SOURCE)
    assert found["A"].text == "Numbers; all are our choice."
    assert found["A"].fields == {"x": ("how many", True)}
    assert found["B"].fields == {
        "y": ("Above, and on and behind", True),
        "z": ("or nothing", False),
        "w": ('after a blank line, "a # b"', False),
    }


def test_a_field_without_a_comment_is_refused():
    with pytest.raises(UserError, match=r"B\.w has no comment"):
        config_page.sections(SOURCE.partition("  # after")[0])


def test_changes_of_nested_values_are_listed():
    values = {"a": 1, "b": {"c": [2, 3], "d": "x"}}
    assert config_page.changes(values, values) == []
    other = {"a": 1, "b": {"c": [2], "d": "y"}}
    assert config_page.changes(values, other) == ["b.c=(2, 3)", "b.d='x'"]


def test_a_directory_without_config_files_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no config files"):
        config_page.page(tmp_path)


def test_choices_and_bounds_are_in_the_type_column():
    text = config_page.page(ROOT / "configs")
    assert "| `clip` | ppo or unconditional | `'ppo'` |" in text
    assert "| `slots` | int (above 0), auto or None | `'auto'` |" in text
    assert "| `gammas` | list of float (finite and at least 0) (non-empty) |" in text
