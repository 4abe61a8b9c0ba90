"""docs/tasks.md: its files, commands and configuration work as they are written there."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from least import LEAST

from diffpo_jax import tasks
from diffpo_jax.analysis import summary as summary_lib
from diffpo_jax.config import convert, presets
from diffpo_jax.report import build
from diffpo_jax.run import complete, experiment
from diffpo_jax.tasks.task import Task
from diffpo_jax.workdir import inputs, layout

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/tasks.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", TEXT, re.DOTALL))
COMMANDS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """The files of the page in the current directory; the repository's configs beside them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    yield
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def words_of(program):
    """The words of the only command of the page that runs a program of the package on rows."""
    (command,) = [c for c in COMMANDS if f"-m {program} " in c and "sorting" not in c]
    return shlex.split(command.replace("\\\n", " "))


def config_of(words, **fields):
    """The configuration that --config and its overrides give, with further fields."""
    flags = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--"))
    given = convert.dict_from_file(flags.pop("config"))
    others = [name for name in flags if not name.startswith("config.")]
    for name in flags.keys() - set(others):
        convert.set_field(given, f"{name.removeprefix('config.')}={flags[name]}")
    given.update_from_flattened_dict(fields)
    return convert.from_config_dict(given), {name: flags[name] for name in others}


def make_rows():
    (command,) = [c for c in COMMANDS if "> palindromes.jsonl" in c]
    command = command.replace("python ", f"{sys.executable} ", 1).replace("5000", "300")
    subprocess.run(command, shell=True, check=True)


def test_the_page_has_these_files_and_commands():
    assert set(FILES) == {"my_reward.py", "sorting.py"}
    assert len(COMMANDS) == 6


@pytest.mark.slow
def test_the_example_runs_at_the_smallest_size(capsys):
    make_rows()
    small = {x: v for x, v in LEAST.items() if not x.startswith("task.")}
    small |= {"pretrain.decay": "none", "rl.optimizer.decay": "none"}
    config, flags = config_of(words_of("diffpo_jax.main"), **small)
    root = Path(flags["workdir"])
    summary = experiment.run(config, str(root))
    printed = capsys.readouterr().out
    # The reward and the metric are in the sentences, the table of points and the metrics.
    assert summary_lib.metrics_of(summary) == ["tidy", "ordered"]
    assert re.search(r"^tidy: \S+ on average at the learned threshold", printed, re.MULTILINE)
    header = (root / "report/frontier.csv").read_text().splitlines()[0]
    assert header.endswith("metric/tidy,metric/ordered")
    last = json.loads((root / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"reward/tidy", "metric/ordered", "eval/metric/tidy", "eval/metric/ordered"} <= set(last)
    assert last["reward/tidy"] == last["task_reward"]
    # The run is recorded with its characters and functions; the same command may go on.
    workdir = layout.Workdir(root)
    assert layout.read_config(workdir).tokenizer.alphabet == "abcdefghij"
    assert config.tokenizer.alphabet is None
    assert {"reward", "grader"} <= inputs.read(workdir.inputs).keys()
    layout.open_workdir(str(root), config, overwrite=False)
    # The other commands on the run.
    assert words_of("diffpo_jax.report")[-1] == f"--workdir={root}"
    build.write(build.gather([str(root)]), root / "page.html")
    assert "trained ordered" in (root / "page.html").read_text()
    config, flags = config_of(words_of("diffpo_jax.generate"), **small)
    (written,) = complete.complete(
        config, flags["workdir"], [flags["prompt"]], model="trained", dial=None
    )
    assert set(written.text) <= set("abcdefghij")


def test_the_functions_of_the_example_judge_as_the_page_says():
    make_rows()
    config, _ = config_of(words_of("diffpo_jax.main"))
    task = tasks.make_task(config.task, Path(), config.evaluation.metrics)
    example = next(e for s in ("train", "test") for e in task.examples(s) if set(e.prompt) > {"a"})
    letters = "".join(sorted(example.prompt))
    best, worst, wrong = (
        task.reward(example, half + half[::-1]) for half in (letters, letters[::-1], letters[:3])
    )
    assert (best.total, best.correct, best.metrics["ordered"]) == (1.0, True, 1.0)
    assert (worst.total, worst.correct, worst.metrics["ordered"]) == (0.5, True, 0.0)
    assert (wrong.total, wrong.correct) == (0.0, False)


def test_the_example_task_and_its_configuration_work(tmp_path):
    (command,) = [c for c in COMMANDS if "sorting" in c]
    config, _ = config_of(shlex.split(command))
    assert config.model.width == 32  # the preset smoke
    given = convert.dict_from_file("sorting.py")
    given.update_from_flattened_dict(
        {"task.prompt.template": "words", "task.prompt.answer": "tags"}
    )
    task = tasks.make_task(convert.from_config_dict(given).task, tmp_path)
    assert isinstance(task, Task)
    examples = task.examples("test")[:5]
    targets = [e.target for e in examples]
    assert all(r.correct for r in task.rewards(examples, targets))
    assert not any(r.correct for r in task.rewards(examples, [*targets[::-1][:2], "", "x", "1"]))
    assert re.fullmatch(r"<answer>[0-9]{6}</answer>", targets[0])
    assert "in ascending order" in examples[0].prompt
    assert 1 <= task.difficulty(examples[0]) <= 6
    assert task.overlap() < 20


@pytest.mark.parametrize("preset", [*presets.any_task(), *presets.ALGORITHMS])
def test_the_example_task_has_every_preset(preset):
    plain, other = (convert.from_file(f"sorting.py:{name}") for name in ("default", preset))
    assert other != plain
    assert other.task.name == "sorting:Sorting"
