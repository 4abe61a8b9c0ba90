"""Names of other libraries: each leads to a field that exists, and the page lists them all."""

import pathlib
import re

import pytest

from diffpo_jax.config import convert, other_names

PAGE = pathlib.Path(__file__).parents[2] / "docs/from_trl.md"
PAIRS = [
    (library, *pair) for library, names in other_names.LIBRARIES.items() for pair in names.items()
]


@pytest.mark.parametrize(("library", "name", "field"), PAIRS)
def test_a_name_of_another_library_leads_to_a_field(library, name, field):
    assert convert.unknown_field(f"config.{field}") is None
    message = convert.unknown_field(f"config.rl.{name}")
    if message is None:  # we call it the same
        assert field == f"rl.{name}"
    else:
        first = next(x for x, names in other_names.LIBRARIES.items() if name in names)
        assert message == (
            f"config.rl.{name} is not a field of the configuration; {first}'s {name} is "
            f"config.{other_names.LIBRARIES[first][name]} here (docs/from_trl.md)."
        )


def test_the_page_lists_them():
    rows = re.findall(r"^\| `(\w+)` \| `config\.([\w.]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert rows == [(name, field) for _, name, field in PAIRS]
