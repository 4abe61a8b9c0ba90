"""A resumed run must read what it read when it began."""

import dataclasses
import json
import os
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from least import least

from diffpo_jax import tasks
from diffpo_jax.config import Config, ModelConfig, TokenizerConfig, convert
from diffpo_jax.data import tokenizers
from diffpo_jax.models import huggingface
from diffpo_jax.run import experiment, inputs, setup
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.datasets.sudoku import SudokuPuzzles
from diffpo_jax.workdir import inputs as stored
from diffpo_jax.workdir import layout
from diffpo_jax.workdir.inputs import Input

PUZZLES = SudokuPuzzles.draw(dataclasses.replace(Config().task.sudoku, train_examples=40))["train"]
SUMS = [{"question": f"{i} and {i}?", "answer": f"It is.\n#### {2 * i}"} for i in range(24)]


def write_csv(path, rows):
    path.write_text("Puzzle,Solution\n" + "".join(f"{a},{b}\n" for a, b in rows))


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_by(config, data_dir):
    """The inputs of a configuration's examples."""
    task = tasks.make_task(config.task, data_dir)
    tokenizer = tokenizers.make_tokenizer(config.tokenizer)
    return inputs.of_examples(config, task, setup.check_examples(config, task, tokenizer))


def begun(root):
    """A workdir with a checkpoint."""
    workdir = layout.Workdir(root)
    (workdir.rl / "2").mkdir(parents=True)
    return workdir


# --- examples


@pytest.fixture
def sums(tmp_path):
    """A configuration of GSM8K that reads two files."""
    for name in ("train", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", SUMS)
    fields = {f"task.{name}_file": str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    fields |= {"task.name": "gsm8k", "task.validation_examples": 8, "sampler.length": 32}
    fields |= {"sampler.prompt_length": 32, "sampler.block_length": 32, "model.positions": None}
    alphabet = "".join(sorted(set(json.dumps(SUMS)) - set("\\")))
    return least(**fields, **{"tokenizer.alphabet": alphabet})


def test_files_of_equal_content_are_equal_inputs(sums, tmp_path):
    before = read_by(sums, tmp_path)
    train, test = f"config.task.train_file={sums.task.train_file}", "config.task.test_file="
    assert [(x.field.removesuffix(sums.task.test_file), x.rows) for x in before.values()] == [
        (train, 16),
        (train, 8),
        (test, 24),
    ]
    os.utime(sums.task.train_file, (1, 1))
    (tmp_path / "test.jsonl").write_bytes((tmp_path / "test.jsonl").read_bytes() + b"\n")
    assert read_by(sums, tmp_path) == before


def test_rows_that_are_too_long_are_refused_with_the_longest_of_all(sums, tmp_path):
    rows = [*SUMS, {"question": "100 and 100?", "answer": "It is.\n#### 200"}]
    write_jsonl(tmp_path / "test.jsonl", rows)
    short = dataclasses.replace(sums.sampler, prompt_length=6)
    with pytest.raises(UserError, match=r"config\.sampler\.prompt_length=6") as caught:
        read_by(dataclasses.replace(sums, sampler=short), tmp_path)
    # "100 and 100?" and the bare answer, "200".
    assert str(caught.value).endswith("longest prompt has 12 tokens and the longest target 3.")


def changed_row(rows):
    return [*rows[:5], rows[5] | {"answer": "It is.\n#### 7"}, *rows[6:]]


@pytest.mark.parametrize(
    ("name", "change", "differ"),
    [
        ("train", lambda rows: rows[::-1], {"train", "validation"}),
        ("train", lambda rows: rows[:-1], {"train", "validation"}),
        ("test", lambda rows: [rows[1], rows[0], *rows[2:]], {"test"}),
        ("test", changed_row, {"test"}),
        ("test", lambda rows: [*rows, rows[0]], {"test"}),
    ],
)
def test_changed_files_are_other_inputs(sums, tmp_path, name, change, differ):
    before = read_by(sums, tmp_path)
    write_jsonl(tmp_path / f"{name}.jsonl", change(SUMS))
    differences = stored.differences(before, read_by(sums, tmp_path))
    assert differences.keys() <= differ and name in differences


def test_a_directory_of_files_is_read_as_its_rows(sums, tmp_path):
    parts = tmp_path / "parts"
    parts.mkdir()
    write_jsonl(parts / "train-0.jsonl", SUMS[:10])
    write_jsonl(parts / "train-1.jsonl", SUMS[10:])
    whole = read_by(sums, tmp_path)
    task = dataclasses.replace(sums.task, train_file=str(parts))
    split = read_by(dataclasses.replace(sums, task=task), tmp_path)
    assert split["train"].sha256 == whole["train"].sha256
    assert split["train"].field == f"config.task.train_file={parts}"
    write_jsonl(parts / "train-1.jsonl", SUMS[10:23])
    now = read_by(dataclasses.replace(sums, task=task), tmp_path)
    assert "15 now" in stored.differences(split, now)["train"]


def test_generated_examples_are_equal_wherever_they_lie(tmp_path):
    config = least()
    before = read_by(config, tmp_path / "a")
    assert before == read_by(config, tmp_path / "b")
    assert {(x.field, x.rows) for x in before.values()} == {
        ("config.task.name=sudoku", 64),
        ("config.task.name=sudoku", 16),
    }
    other = read_by(least(**{"task.sudoku.data_seed": 1}), tmp_path / "a")
    assert stored.differences(before, other).keys() == {"train", "validation", "test"}


def test_demonstrations_are_an_input_only_of_a_run_that_is_shown_them():
    where = "pretrain.demonstrations.source"
    examples = [tasks.task.Example("x", "1", "2")]
    (found,) = inputs.of_demonstrations(least(**{where: "rows.jsonl"}), examples).values()
    assert (found.field, found.rows) == (f"config.{where}=rows.jsonl", 1)
    other = [tasks.task.Example("x", "1", "3")]
    (changed,) = inputs.of_demonstrations(least(**{where: "rows.jsonl"}), other).values()
    assert changed.sha256 != found.sha256
    assert inputs.of_demonstrations(least(), examples) == {}
    assert inputs.of_demonstrations(least(**{where: "x", "pretrain.steps": 0}), examples) == {}


# --- tokenizers, weights and base models


def tokenizer_input(directory):
    config = dataclasses.replace(Config(), tokenizer=TokenizerConfig(name=str(directory)))
    return inputs.of_tokenizer(config, tokenizers.make_tokenizer(config.tokenizer))["tokenizer"]


def test_a_tokenizer_is_known_by_its_tokens(tmp_path):
    alphabet = "".join(sorted(set(inputs._PROBE)))
    for name, characters in (("a", alphabet), ("b", alphabet[::-1])):
        made = tokenizers.make_tokenizer(TokenizerConfig(alphabet=characters))
        made.save_pretrained(tmp_path / name)
    before = tokenizer_input(tmp_path / "a")
    assert before.field == f"config.tokenizer.name={tmp_path / 'a'}"
    (tmp_path / "a" / "README.md").write_text("x")
    assert tokenizer_input(tmp_path / "a") == before
    assert tokenizer_input(tmp_path / "b").sha256 != before.sha256
    made.chat_template = "{{ messages }}"
    made.save_pretrained(tmp_path / "b2")
    assert tokenizer_input(tmp_path / "b2").sha256 != tokenizer_input(tmp_path / "b").sha256
    assert inputs.of_tokenizer(Config(), None) == {}


def test_weights_are_known_by_parts_of_all_files(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "_PART", 64)
    values = np.zeros(4096, np.uint8)

    def fingerprint():
        safetensors.numpy.save_file({"a": values}, tmp_path / "model.safetensors")
        return huggingface.quick_fingerprint(tmp_path)

    before = fingerprint()
    assert before == fingerprint()
    values[-1] = 1
    last = fingerprint()
    values[:] = 2
    assert len({before, last, fingerprint()}) == 3
    alone = huggingface.quick_fingerprint(tmp_path)
    (tmp_path / "other.safetensors").write_bytes(b"")
    assert huggingface.quick_fingerprint(tmp_path) != alone
    config = dataclasses.replace(Config(), model=ModelConfig(weights=str(tmp_path)))
    assert inputs.of_weights(config)["weights"].field == f"config.model.weights={tmp_path}"
    assert inputs.of_weights(dataclasses.replace(config, init_from="x")) == {}


def test_a_base_model_is_known_by_its_numbers():
    config = dataclasses.replace(Config(), init_from="runs/base")
    one, two = ({"denoiser": {"x": jnp.array([0.0, x])}} for x in (1.0, 2.0))
    before = inputs.of_base(config, one)
    assert before == inputs.of_base(config, one)
    assert stored.differences(before, inputs.of_base(config, two)) == {
        "base": "config.init_from=runs/base: the parameters of the base model are not those with "
        "which the run began"
    }
    assert inputs.of_base(Config(), one) == {}


# --- the check

TRAIN = Input("config.task.train_file=/a", "training examples", "aa", 24)
TEST = Input("config.task.test_file=/t", "test examples", "bb", 5)


def test_a_run_without_a_checkpoint_may_read_something_new(tmp_path):
    workdir = layout.Workdir(tmp_path)
    for rows in (24, 40):
        inputs.check(workdir, {"train": TRAIN._replace(rows=rows, sha256=str(rows))})
        assert stored.read(workdir.inputs)["train"].rows == rows


def test_a_begun_run_reads_the_same(tmp_path):
    workdir = begun(tmp_path)
    stored.write(workdir.inputs, {"train": TRAIN, "test": TEST})
    inputs.check(workdir, {"train": TRAIN, "test": TEST})
    with pytest.raises(UserError) as error:
        inputs.check(workdir, {"train": TRAIN._replace(rows=40, sha256="cc"), "test": TEST})
    assert str(error.value) == (
        "config.task.train_file=/a: 24 training examples when the run began, 40 now. To go on, put "
        "the old ones back; for new ones use another --workdir, or --overwrite."
    )
    with pytest.raises(UserError, match=r"give the new ones another name in config\.task\."):
        inputs.check(workdir, {"train": TRAIN, "test": TEST._replace(sha256="cc")})
    assert stored.read(workdir.inputs) == {"train": TRAIN, "test": TEST}
    # The configuration of a workdir may name another test file.
    other = Input("config.task.test_file=/u", "test examples", "dd", 6)
    inputs.check(workdir, {"train": TRAIN, "test": other})
    assert stored.read(workdir.inputs) == {"train": TRAIN, "test": other}


def test_a_run_of_an_older_version_is_recorded_with_one_line(tmp_path, capsys):
    workdir = begun(tmp_path)
    inputs.check(workdir, {"train": TRAIN, "test": TEST})
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"note: {tmp_path} was begun by an older version, so that it cannot be checked whether its "
        "training examples, test examples have changed; inputs.json records them now."
    ]
    inputs.check(workdir, {"train": TRAIN, "test": TEST})
    assert not capsys.readouterr().err
    with pytest.raises(UserError, match="24 training examples are not those"):
        inputs.check(workdir, {"train": TRAIN._replace(sha256="cc")})


def test_changed_functions_are_refused_until_their_record_is_deleted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "rewards_of_a_run.py"
    file.write_text("def brief(example, completion): return 1 / (1 + len(completion))\n")
    config, workdir = least(**{"task.reward": "rewards_of_a_run:brief"}), begun(tmp_path / "run")
    first = inputs.of_functions(config)
    assert list(first) == ["reward"]  # the task has no function as its grader
    inputs.check(workdir, first)
    file.write_text("def brief(example, completion): return -len(completion)\n")
    with pytest.raises(UserError) as error:
        inputs.check(workdir, inputs.of_functions(config))
    assert str(error.value) == (
        "config.task.reward=rewards_of_a_run:brief: the lines of rewards_of_a_run.py are not those "
        "with which the run began. To go on, put the old ones back, or delete reward from "
        "inputs.json in the workdir, and what follows is trained with the new ones."
    )
    workdir.inputs.write_text("{}")
    inputs.check(workdir, inputs.of_functions(config))
    assert not capsys.readouterr().err
    assert stored.read(workdir.inputs)["reward"] != first["reward"]
    own = {"task.name": "jsonl", "task.jsonl.grader": "rewards_of_a_run:brief"}
    own |= {"sampler.prompt_length": 8, "sampler.length": 8}
    assert list(inputs.of_functions(least(**own))) == ["grader"]


def test_an_alphabet_of_none_is_that_of_the_examples_or_of_the_base(sums, tmp_path):
    given = dataclasses.replace(sums.tokenizer, alphabet=None)
    config = dataclasses.replace(sums, tokenizer=given)
    task = tasks.make_task(config.task, tmp_path)
    found = setup.with_alphabet(config, task)
    assert found.tokenizer.alphabet == " 0123456789?adn"
    assert setup.with_alphabet(sums, task) == sums
    (tmp_path / "base").mkdir()
    layout.record(layout.Workdir(tmp_path / "base"), sums)
    other = dataclasses.replace(config, init_from=str(tmp_path / "base"))
    assert setup.with_alphabet(other, task).tokenizer == sums.tokenizer
    # A workdir that has recorded the characters may be opened again without them.
    layout.open_workdir(str(tmp_path / "base"), config, overwrite=False)
    with pytest.raises(UserError, match=r"config.tokenizer.alphabet: '.*' -> 'ab'"):
        changed = dataclasses.replace(given, alphabet="ab")
        changed = dataclasses.replace(sums, tokenizer=changed)
        layout.open_workdir(str(tmp_path / "base"), changed, overwrite=False)


def test_processes_that_read_something_else_are_refused(tmp_path, monkeypatch):
    other = {"train": list(TRAIN._replace(sha256="cc"))}
    monkeypatch.setattr(inputs.hosts, "gather", lambda mine: [mine, other])
    with pytest.raises(UserError, match="process 1 reads other training examples than process 0"):
        inputs.check(layout.Workdir(tmp_path), {"train": TRAIN})


# --- whole runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run on 24 puzzles of a file, and its configuration."""
    root = tmp_path_factory.mktemp("files")
    write_csv(root / "train.csv", PUZZLES[:24])
    config = least(**{"task.train_file": str(root / "train.csv")})
    experiment.run(config, str(root / "run"))
    return root, config


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the run, which is to be continued by a step; the file is put back."""
    root, config = finished
    shutil.copytree(root / "run", tmp_path / "run")
    yield (
        root / "train.csv",
        dataclasses.replace(config, rl=dataclasses.replace(config.rl, steps=3)),
        tmp_path / "run",
    )
    write_csv(root / "train.csv", PUZZLES[:24])


def test_more_training_rows_are_refused_on_resume(run):
    path, config, workdir = run
    write_csv(path, PUZZLES[:40])
    before = (workdir / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError) as error:
        experiment.run(config, str(workdir))
    assert str(error.value).startswith(
        f"config.task.train_file={path}: 24 training examples when the run began, 40 now."
    )
    assert (workdir / "metrics.jsonl").read_bytes() == before
    # The same rows in another order
    write_csv(path, [PUZZLES[1], PUZZLES[0], *PUZZLES[2:24]])
    with pytest.raises(UserError, match="the 24 training examples are not those"):
        experiment.run(config, str(workdir))


@pytest.mark.slow
def test_equal_rows_go_on_and_overwrite_begins_anew(run, capsys):
    path, config, workdir = run
    write_csv(path, PUZZLES[:24])
    os.utime(path, (1, 1))
    experiment.run(config, str(workdir))
    assert "rl: resuming after step 2" in capsys.readouterr().err
    write_csv(path, PUZZLES[:40])
    experiment.run(config, str(workdir), overwrite=True)
    assert stored.read(workdir / "inputs.json")["train"].rows == 40
    assert convert.from_json((workdir / "config.json").read_text()) == config


@pytest.mark.slow
def test_another_base_model_of_the_same_name_is_refused(finished, tmp_path):
    root, config = finished
    shutil.copytree(root / "run", tmp_path / "base")
    config = dataclasses.replace(config, init_from=str(tmp_path / "base"))
    experiment.run(config, str(tmp_path / "run"))
    assert stored.read(tmp_path / "run" / "inputs.json")["base"].rows is None
    shutil.rmtree(tmp_path / "base")
    other = dataclasses.replace(config, init_from=None, seed=5)
    experiment.run(other, str(tmp_path / "base"), base_only=True)
    longer = dataclasses.replace(config, rl=dataclasses.replace(config.rl, steps=3))
    with pytest.raises(UserError, match=r"config\.init_from=.*parameters of the base model are"):
        experiment.run(longer, str(tmp_path / "run"))
