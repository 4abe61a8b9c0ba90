"""What all commands share: mistakes are one line, found before jax is imported; and output."""

import builtins
import errno
import os
import pathlib
import subprocess
import sys

import commands
import jax
import numpy as np
import pytest
from least import least

from diffpo_jax.config import command, convert
from diffpo_jax.distributed import chips, join_flags
from diffpo_jax.models import tensor_files
from diffpo_jax.run import complete, experiment, score
from diffpo_jax.system.errors import UserError
from diffpo_jax.workdir import evaluations, layout

ROOT = pathlib.Path(__file__).parent.parent
SMOKE = f"--config={ROOT}/configs/sudoku.py:smoke"
FIGURE2 = f"--config={ROOT}/configs/studies/figure2.py:smoke"
PROMPT = "--prompt=0431034232004123"


@pytest.fixture
def run(tmp_path):
    """The workdir of a run of which only the configuration is there."""
    path = tmp_path / "a: run, of mine"
    path.mkdir()
    (path / "config.json").write_text(convert.to_json(least()))
    return path


@pytest.fixture
def without_jax(monkeypatch):
    """Lets the commands import nothing that imports jax."""
    real = builtins.__import__

    def refuse(name, globals=None, locals=None, fromlist=(), level=0):
        late = {f"{name}.{x}" for x in fromlist or ()} & {
            *("diffpo_jax.run.experiment", "diffpo_jax.run.score", "diffpo_jax.run.complete"),
            *(
                "diffpo_jax.run.serve",
                "diffpo_jax.run.export",
                "diffpo_jax.planning.planner",
                "diffpo_jax.report.build",
            ),
            *("diffpo_jax.studies.headroom", "diffpo_jax.studies.surrogate_kl"),
        }
        assert not late, f"{late} is imported before the check"
        return real(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", refuse)


def refused(capsys, *words):
    assert commands.run(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    return lines[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("main {smoke} --workdir={new} --config.rl.step=3", "nearest is config.rl.steps"),
        ("main {smoke} --workdir={new} --rl.steps=3", "configuration: use --config.rl.steps"),
        ("main {smoke} --workdir={new} --learning_rate=3", "is config.rl.optimizer.denoiser_lr"),
        (
            "main {smoke} --workdir={new} --num_generations=3",
            "TRL's num_generations is config.rl.g",
        ),
        ("main {smoke} --workdir={new} --nothing=3", "Unknown command line flag 'nothing'"),
        ("main {smoke} --workdir={new} --config.task.reward=best", "task.reward='best' is unknown"),
        ("main {smoke} --workdir={new} --config.init_from=nowhere", "nowhere holds no run"),
        ("main {smoke} --workdir={new} --config.task.test_file=no.csv", "no.csv: no such file"),
        ("main {smoke} --workdir={new} --config.task.test_file=/etc", "test_file=/etc"),
        ("main {smoke} --workdir={run}", "holds a run of another configuration"),
        ("main {smoke} --workdir=/dev/null/x", "/dev/null is not a directory"),
        ("main {smoke} --workdir=/dev/null", "/dev/null is not a directory"),
        ("main --workdir={new}", "holds no run to take it from: there is no config.json"),
        ("main --workdir={new} --config.seed=3", "holds no run to take it from"),
        ("main --config.seed=3", "--config is missing, in which --config.seed sets a field"),
        ("main --workdir={run} --config.seed=3", "config.seed: 0 -> 3"),
        ("main {smoke} --workdir=", "--workdir is missing"),
        ("main --config=/etc --workdir={new}", "cannot read the config file /etc."),
        ("main --config={empty} --workdir={new}", "cannot read the config file"),
        ("evaluate {smoke}", "--out is missing"),
        ("evaluate --run={run} --config.rl.step=3", "nearest is config.rl.steps"),
        ("evaluate --run={run} --config.task.reward=best", "task.reward='best' is unknown"),
        ("evaluate --run={run} --model=x", "--model and --run name two models"),
        ("evaluate --run={run} --out=/dev/null/x", "--out=/dev/null/x cannot be written"),
        ("evaluate --run={new}", "holds no run to take it from"),
        ("generate --workdir={run}", "--prompt is missing"),
        ("generate --workdir={new} {prompt}", "holds no run to take it from"),
        ("generate {smoke} --workdir={new} {prompt}", "holds no run: there is no config.json"),
        ("generate --workdir={run} --prompt=", "prompt 1 is empty"),
        ("generate --workdir={run} --prompt=a\udcff", "prompt 1 is not UTF-8"),
        ("generate --workdir={run} --prompt=0_1 {prompt}", "prompt 1 has 3 characters, with '_'"),
        ("generate --workdir={run} {prompt} --prompt=04310342320041", "prompt 2 has 14 characters"),
        ("generate --workdir={run} {prompt} --dial=nan", "--dial=nan must be a number"),
        ("generate --workdir={run} {prompt} --config.sampler.rul=x", "is config.sampler.rule"),
        ("generate --workdir={run} {prompt} --html=/dev/null/x", "/dev/null is not a directory"),
        ("generate --workdir={run} {prompt} --html=/dev/null", "is no regular file"),
        ("generate --workdir={run} {prompt} --html={run}", "is a directory: name a file in it"),
        ("generate --workdir={run} {prompt} --model=base {state}", "needs a head that RL trained"),
        ("evaluate --run={run} --which=base {state}", "needs a head that RL trained"),
        ("serve --workdir={new}", "holds no run to take it from"),
        ("serve --workdir={run}", "the run has no trained model yet"),
        ("serve --workdir={run} --config.sampler.slot=3", "is config.sampler.slots"),
        ("study {figure2} --workdir={new} --config.run.init_from=nowhere", "nowhere holds no run"),
        ("study {figure2} --workdir={new} --config.run.task.reward=best", "'best' is unknown"),
        ("study {figure2} --workdir=/dev/null/x", "/dev/null is not a directory"),
        ("export --workdir={new} --out={new}", "holds no run"),
        ("export --workdir={run} --out={run}", "exists already"),
        ("export --workdir={run} --out=/dev/null/x", "--out=/dev/null/x cannot be written"),
        ("plan {smoke} --topology=cpu:1 --json=/dev/null/x", "--json=/dev/null/x cannot be wr"),
        ("report --workdir={run} --title=x", "Unknown command line flag 'title'"),
        ("grade --task=sudoku --file={run}", "cannot be read"),
        ("grade --task=sudoku --file={run}/config.json --out=/dev/null", "is no regular file"),
        ("grade --task=sudoku --file={empty}", "has no completion"),
        ("grade --task=sudoku --file={binary}", "cannot be read"),
    ],
)
def test_a_mistake_is_one_line_before_jax_is_imported(
    run, tmp_path, capsys, without_jax, words, message
):
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "empty").write_bytes(b"")
    names = {x: tmp_path / x for x in ("new", "empty", "binary")} | {"run": run}
    names |= {"smoke": SMOKE, "figure2": FIGURE2, "prompt": PROMPT}
    given = [x.format(state="--config.sampler.rule=state", **names) for x in words.split()]
    assert message in refused(capsys, *given)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "own.py: AttributeError: module 'config_file' has no attribute 'get_config'."),
        ("x = 1\ndef get_config(:", "own.py, line 2: SyntaxError: invalid syntax."),
        ("\0", "SyntaxError: source code"),
        ("import nothing_of_that_name", "own.py, line 1: ModuleNotFoundError: No module named"),
        ("def get_config():\n    return 1 / 0", "own.py, line 2: ZeroDivisionError: division"),
        ("def get_config():\n    return 3", "own.py: get_config must return a ConfigDict, not 3"),
    ],
)
def test_an_error_in_a_config_file_is_one_line(tmp_path, capsys, text, message):
    (tmp_path / "own.py").write_text(text)
    words = f"--config={tmp_path}/own.py", f"--workdir={tmp_path}/run", "--config.seed=3"
    assert message in refused(capsys, "main", *words)


def recorded(calls, result):
    def call(config, *more, **named):
        calls.append((config, more, named))
        return result

    return call


def test_a_run_is_resumed_by_its_workdir_alone(run, monkeypatch):
    calls = []
    monkeypatch.setattr(experiment, "run", recorded(calls, {}))
    monkeypatch.setattr(join_flags, "join", lambda: None)
    assert commands.run("main", f"--workdir={run}", "--config.evaluation.examples=3") == 0
    assert commands.run("main", "--workdir", run, "--config.logging.every=5") == 0
    (first, more, _), (second, _, _) = calls
    assert more == (str(run),)
    assert convert.evaluation_changes(least(), first) == {"evaluation.examples": 3}
    assert (second.logging.every, second.evaluation) == (5, least().evaluation)


def test_several_processes_check_together(run, monkeypatch, capsys):
    """One that ended before it joins the others would let them wait for minutes."""
    monkeypatch.setattr(join_flags, "join", failing(UserError("joined")))
    words = SMOKE, f"--workdir={run}"
    assert "another configuration" in refused(capsys, "main", *words)
    assert refused(capsys, "main", *words, "--coordinator=localhost:1") == "error: joined"
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert refused(capsys, "main", *words) == "error: joined"


def test_generate_takes_the_configuration_of_the_run(run, monkeypatch):
    """A rule of a flag decides what the run's own rule had decided, the ranking."""
    calls = []
    monkeypatch.setattr(complete, "complete", recorded(calls, []))
    changes = ["--config.sampler.rule=top_k", "--config.sampler.steps=8", "--config.mode=model"]
    assert commands.run("generate", f"--workdir={run}", PROMPT, *changes) == 0
    assert commands.run("generate", f"--workdir={run}", PROMPT) == 0
    assert commands.run("generate", f"{SMOKE},prompt", f"--workdir={run}", PROMPT) == 0
    top_k, own, smoke = [config for config, _, _ in calls]
    rule = (top_k.sampler.rule, top_k.sampler.steps, top_k.sampler.ranking)
    assert rule == ("top_k", 8, "confidence")
    assert own == least()
    assert smoke == convert.from_file(SMOKE.partition("=")[2] + ",prompt")


def test_evaluate_writes_beside_the_run_that_it_takes(run, monkeypatch, capsys):
    calls = []
    result = {"task": "sudoku", "prompts": 2, "protocol": "default", "rule": "confidence"}
    monkeypatch.setattr(score, "score", recorded(calls, result | {"points": []}))
    rule = ["--config.sampler.rule=confidence", "--config.evaluation.confidences=0.9,"]
    monkeypatch.chdir(run.parent)
    for path in (run, run.name):
        assert commands.run("evaluate", f"--run={path}", "--which=base", *rule) == 0
    (config, (out,), named), (_, (other,), again) = calls
    assert (str(run.parent / other), again) == (out, named)
    assert named == {"run": str(run), "which": "base"}
    assert (config.sampler.rule, config.evaluation.confidences) == ("confidence", (0.9,))
    assert config.task.data_dir == str(run / "data")
    (settings,) = evaluations.all_settings(layout.Workdir(run))
    assert str(settings.parent) == out
    assert settings.parent.name.startswith("base-confidences-0.9-rule-confidence-")
    assert f"results: {out}/evaluation.json" in capsys.readouterr().out
    assert commands.run("evaluate", f"--run={run}", f"--out={run}/other", *rule) == 0
    assert calls[-1][1] == (f"{run}/other",)
    assert len(evaluations.all_settings(layout.Workdir(run))) == 1


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_the_flags_of_every_example_in_a_commands_help_exist(name, tmp_path, capsys, monkeypatch):
    run = tmp_path / "runs/sudoku"
    run.mkdir(parents=True)
    (run / "config.json").write_text(
        convert.to_json(convert.from_file(f"{ROOT}/configs/sudoku.py"))
    )
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    source = ROOT / "diffpo_jax" / (f"{name}/__main__.py" if name == "report" else f"{name}.py")
    text = source.read_text().split('"""')[1].replace("\\\\\n", " ")
    found = [x.split() for x in text.splitlines() if x.startswith("    python -m diffpo_jax.")]
    assert found
    monkeypatch.chdir(tmp_path)
    for words in found:
        assert words[:3] == ["python", "-m", f"diffpo_jax.{name}"]
        assert commands.run(name, *words[3:], "--nothing") == 2
        assert capsys.readouterr().err.startswith("error: Unknown command line flag 'nothing'")
    assert commands.run(name, "--workdir=nowhere", "--help") == 0


def end(monkeypatch, action):
    """The exit status of a command without flags."""

    def main(argv):
        action()

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as ended:
        command.run(main)
    return ended.value.code


def failing(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("this is wrong"), "error: this is wrong"),
        (UserError("row \x1b]0;x\x07 in\ntwo lines"), r"error: row \x1b]0;x\x07 in two lines"),
        (OSError(errno.EROFS, "Read-only file system", "/a"), "error: /a: Read-only file system."),
        (OSError(errno.EISDIR, "Is a directory", "/a"), "error: /a: Is a directory."),
        (OSError(errno.EIO, "Input/output error"), "error: standard output: Input/output error."),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a"),
            "error: no space left for /a. Make room and start again.",
        ),
    ],
)
def test_faults_of_files_are_one_line(monkeypatch, capsys, error, line):
    assert end(monkeypatch, failing(error)) == 2
    assert capsys.readouterr() == ("", line + "\n")


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "none", "/a"), OSError(errno.EROFS, "?"), KeyError(1)]
)
def test_bugs_keep_their_traceback(monkeypatch, error):
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(type(error)):
        command.run(lambda argv: failing(error)())


def shell(line, **env):
    text = f"{sys.executable} -m diffpo_jax.{line}"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {text}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYTHONUNBUFFERED": ""} | env,
    )


def test_output_that_nobody_can_read():
    """In processes of their own, which end before jax is imported."""
    ascii_only = shell("generate --help", PYTHONIOENCODING="ascii")
    assert (ascii_only.returncode, ascii_only.stderr) == (0, "")
    assert r"gives a number: \u03b3 in nats" in ascii_only.stdout
    for line in ("generate --help >&-", "grade --help <&- >&- 2>&-"):
        assert shell(line).returncode == 0
    gone = shell("generate --help | true")
    assert (gone.returncode, gone.stderr) == (1, "")
    full = shell("generate --help > /dev/full")
    assert full.returncode == 1
    text = "error: cannot write to standard output: No space left on device.\n"
    assert full.stderr == text


def test_devices_that_are_not_there_are_one_line(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", failing(AssertionError()))
    with pytest.raises(UserError, match="no devices for JAX_PLATFORMS=cuda: it is not installed"):
        chips.check_devices()
    monkeypatch.setattr(jax, "devices", failing(RuntimeError("no TPU\nor so")))
    with pytest.raises(UserError, match=r"JAX_PLATFORMS=cuda: no TPU\. Leave"):
        chips.check_devices()


def test_a_full_disk_under_tensors_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"a\.safetensors cannot be written: .*") as caught:
        tensor_files.save({"x": np.zeros(2)}, tmp_path / "file" / "a.safetensors")
    assert "\n" not in str(caught.value)
