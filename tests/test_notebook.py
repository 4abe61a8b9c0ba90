"""docs/method.ipynb runs from top to bottom; its cells assert what they demonstrate."""

import json
import pathlib
import re
import sys

import matplotlib
import matplotlib.pyplot as plt
import pytest

PATH = pathlib.Path(__file__).parent.parent / "docs/method.ipynb"
CELLS = json.loads(PATH.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_the_notebook_runs(monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(PATH.parent)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the notebook appends to it
    names = {"__name__": "__main__"}
    for number, cell in enumerate(CODE, 1):
        exec(compile("".join(cell["source"]), f"{PATH.name}, cell {number}", "exec"), names)
    plt.close("all")
    assert names["history"].shape == (names["steps"], 3)


def test_stored_outputs_are_small_and_from_one_run():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    for cell in CODE:
        stored = [output["output_type"] for output in cell["outputs"]]
        assert "error" not in stored
        source = "".join(cell["source"])
        assert ("stream" in stored) == bool(re.search(r"\bprint\(", source))
        assert stored.count("display_data") == source.count("plt.show()")
    assert PATH.stat().st_size < 200_000


def test_functions_named_in_the_text_are_called_in_the_code():
    code = "\n".join("".join(cell["source"]) for cell in CODE)
    text = "\n".join("".join(c["source"]) for c in CELLS if c["cell_type"] == "markdown")
    named = set(re.findall(r"`([a-z_]+\.[a-z_]+)`", text)) - {
        "unmask.unmask"
    }  # called by make_generate
    assert len(named) > 8
    for name in named:
        assert f"{name}(" in code, name
