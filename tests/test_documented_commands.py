"""Every command line in the documents is accepted as it stands there.

Each goes through its command in this process, up to the function that does the work, so that its
flags exist and its configuration passes every check.  Whole runs are tested elsewhere.
"""

import pathlib
import re
import shlex
import shutil
import socket

import commands
import pytest

from diffpo_jax.config import convert
from diffpo_jax.distributed import checkup, chips, join_flags
from diffpo_jax.planning import planner, topology
from diffpo_jax.report import build
from diffpo_jax.run import complete, experiment, export, score, serve
from diffpo_jax.studies import compare, headroom, surrogate_kl
from diffpo_jax.system import ports
from diffpo_jax.tasks import published

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("launch/*.md")])
LINE = re.compile(r"(?:\w+=\S+ )*(?:\.venv/bin/)?python -m diffpo_jax\.(\w+) (.*)")
# What the documents leave to the reader.
MEANT = {"=DIR": "=runs/dir", "=S": "=3", "=T": "=cpu:8", "=N": "=8", "=FIRST_HOST": "=localhost"}


def lines(path):
    """The command lines of a document as (command, words); a variable has its value."""
    text = path.read_text().replace("\\\n", " ")
    values = dict(re.findall(r'^    (\w+)="(.*)"$', text, re.MULTILINE))
    for line in re.findall(r"^(?:    )?((?:\w+=\S+ )*(?:\.venv/bin/)?python -m .*)", text, re.M):
        for name, value in values.items():
            line = line.replace(f"${name}", value)
        if found := LINE.fullmatch(line):
            yield found[1], [_meant(word) for word in shlex.split(re.sub(r"[\[\]]", "", found[2]))]


def _meant(word):
    for place, value in MEANT.items():
        word = re.sub(rf"{place}(?=$|:)", value, word)
    return word


COMMANDS = [
    pytest.param(name, words, id=f"{path.name}-{i}")
    for path in DOCUMENTS
    for i, (name, words) in enumerate(lines(path))
]


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """A directory with the runs and files that the documents speak of."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    specs = {"sudoku": "sudoku.py", "palindromes": "jsonl.py", "llada": "gsm8k.py:llada_8b,lora"}
    specs |= dict.fromkeys(("converted", "tiny-ar"), "gsm8k.py:qwen3_0_6b_from_ar")
    for name, spec in specs.items():
        run = tmp_path / "runs" / name
        (run / "checkpoints" / "rl").mkdir(parents=True)
        config = convert.from_file(f"{ROOT}/configs/{spec}")
        (run / "config.json").write_text(convert.to_json(config))
    samples = tmp_path / "runs/gsm8k/samples"
    samples.mkdir(parents=True)
    row = '{"id": "a", "prompt": "2 + 2?", "target": "#### 4", "completion": "4", "meta": {}}'
    (samples / "test.jsonl").write_text(f"{row}\n")
    rows = '{"question": "1", "answer": "2", "letters": "ab", "palindrome": "abba"}\n' * 40
    for name in ("mine.jsonl", "palindromes.jsonl"):
        (tmp_path / name).write_text(rows)
    for name, code in re.findall(
        r"```python\n# (\w+\.py)\n(.*?)```", (ROOT / "docs/tasks.md").read_text(), re.DOTALL
    ):
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def reached(monkeypatch):
    """Ends each command where its work would begin; the list has an entry then."""
    calls = []

    def stop(*given, **named):
        calls.append(given)
        raise SystemExit(0)

    for module, name in (
        *((experiment, "run"), (score, "score"), (complete, "complete"), (export, "export")),
        *((compare, "run"), (headroom, "run"), (surrogate_kl, "run"), (planner, "plan")),
        *(
            (serve, "serve"),
            (build, "gather"),
            (checkup, "run_checks"),
            (published.Published, "__init__"),
        ),
    ):
        monkeypatch.setattr(module, name, stop)
    monkeypatch.setattr(join_flags, "join", lambda: None)
    monkeypatch.setattr(chips, "check_devices", lambda: None)
    monkeypatch.setattr(ports, "listen", lambda host, port: socket.socket())
    monkeypatch.setattr(topology, "prepare", lambda name: None)
    monkeypatch.setattr(topology, "find", lambda name, slices: [])
    return calls


def test_the_documents_have_commands():
    names = {param.values[0] for param in COMMANDS}
    assert names == set(commands.COMMANDS)
    assert len(COMMANDS) > 25


@pytest.mark.parametrize(("name", "words"), COMMANDS)
def test_a_documented_command_is_accepted(name, words, directory, reached, capsys):
    if name == "main":  # it makes the run that other commands find
        shutil.rmtree("runs")
    status = commands.run(name, *words)
    assert (status, len(reached)) == (0, 1), capsys.readouterr().err


def test_extras_in_documents_and_messages_exist():
    """`pip install` of an extra names this checkout: there is no such package elsewhere."""
    extras = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    extras = set(re.findall(r"^(\w+) = \[", extras.partition("[tool.")[0], re.MULTILINE))
    places = [*DOCUMENTS, *ROOT.glob("diffpo_jax/**/*.py"), *ROOT.glob("launch/*.sh")]
    found = set()
    for path in places:
        text = path.read_text()
        assert "diffpo-jax[" not in text, path
        found |= set(re.findall(r"-e '\.\[(\w+)", text))
    assert found and found <= extras
