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
    assert "| `gammas` | list of float (at least 0) (non-empty) |" in text


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("", "configs/mine.py: AttributeError: .*has no attribute 'get_config'"),
        ("def get_config(): {}['reverse']", "mine.py, line 1: KeyError: 'reverse'"),
        ("import nothing_like_it", "mine.py, line 1: ModuleNotFoundError: No module named 'noth"),
    ],
)
def test_a_config_file_that_fails_is_named_in_one_line(tmp_path, code, message):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mine.py").write_text(code)
    with pytest.raises(UserError, match=message) as caught:
        config_page.page(tmp_path / "configs")
    assert "\n" not in str(caught.value)


def test_a_new_config_file_is_on_the_page(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/mine.py").write_text(
        "from diffpo_jax.config import Config, convert, presets\n"
        "SIZES = presets.any_task()\n"
        "def get_config(preset='default'):\n"
        "    config = convert.as_config_dict(Config())\n"
        "    config.task.name = 'mine:Reverse'\n"
        "    return presets.apply(config, preset, SIZES, 'mine.py')\n"
    )
    own = config_page.page(tmp_path / "configs").partition("### configs/mine.py")[2]
    assert "| `default` | `task.name='mine:Reverse'` |" in own
    for preset in ("smoke", "study", "llada_8b", "dream_7b", "lora", "d1", "gspo"):
        assert f"| `{preset}` |" in own
