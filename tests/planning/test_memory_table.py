"""The table of docs/models.md, as far as it can be checked without compiling for GPUs."""

import importlib.util
import pathlib

import pytest

from diffpo_jax.planning import memory, programs, topology

ROOT = pathlib.Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("memory_table", ROOT / "docs/memory_table.py")
table = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(table)
PAGE = (ROOT / "docs/models.md").read_text()


def rows():
    """The numbers of the page's rows by GPU and preset, in the page's order."""
    lines = PAGE[PAGE.index(table.HEADER) + len(table.HEADER) :].strip("\n").split("\n\n")[0]
    for line in lines.splitlines():
        gpu, preset, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        yield (gpu, preset), [float(cell) for cell in cells[:4]], cells[4:]


def test_the_page_has_the_rows_of_the_script_and_their_verdicts():
    named = [(gpu, table.name_of(preset, fields)) for gpu, preset, fields in table.ROWS]
    assert [name for name, _, _ in rows()] == named
    for _, (held, *sums), verdicts in rows():
        assert held < min(sums)
        assert verdicts == table.verdicts(max(sums))


def test_a_verdict_names_the_share_that_a_size_needs():
    # Of 14.74, 22.03 and 79.1 GiB three quarters are 11.06, 16.52 and 59.3.
    assert table.verdicts(11.0) == ["yes", "yes", "yes"]
    assert table.verdicts(14.0) == ["at 0.95", "yes", "yes"]
    assert table.verdicts(16.6) == ["no", "at 0.95", "yes"]


@pytest.mark.parametrize(("gpu", "preset", "fields"), table.ROWS)
def test_what_a_run_holds_is_that_of_its_shapes(gpu, preset, fields):
    config = table.config_of(preset, fields)
    mesh = topology.make_mesh(config.mesh, topology.find("cpu:1"))
    held = sum(memory.resident_bytes(programs.make_step(config, mesh)).values()) / 2**30
    (found,) = (x[0] for name, x, _ in rows() if name == (gpu, table.name_of(preset, fields)))
    assert found == pytest.approx(held, abs=0.005)
