"""Requirements, config files, documents and the Makefile agree with the package."""

import ast
import dataclasses
import functools
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from diffpo_jax.config import Config, StudyConfig, convert, presets
from diffpo_jax.models import families
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.task import Example

ROOT = Path(__file__).parent.parent
# Packages of imports whose names differ by more than "-" and "_".
PACKAGES = {"absl": "absl-py", "orbax": "orbax-checkpoint", "jaxlib": "jax"}
# Required but not imported by this package; requirements.txt says why.
NOT_IMPORTED = {"array-record"}


def normal(name):
    return name.lower().replace("_", "-")


def third_party(directory):
    """Returns {package: a file that imports it} of required and of optional imports."""
    required, optional = {}, {}
    for path in sorted((ROOT / directory).rglob("*.py")):
        tree = ast.parse(path.read_text(), str(path))
        tries = [node for node in ast.walk(tree) if isinstance(node, ast.Try) and guards(node)]
        guarded = {id(inner) for node in tries for part in node.body for inner in ast.walk(part)}
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in (n.split(".")[0] for n in names):
                if name not in sys.stdlib_module_names and name not in ("diffpo_jax", "configs"):
                    into = optional if id(node) in guarded else required
                    into[normal(PACKAGES.get(name, name))] = path.relative_to(ROOT)
    return required, optional


def guards(node):
    """Whether a try statement catches a failed import."""
    caught = {n.id for h in node.handlers if h.type for n in ast.walk(h.type) if hasattr(n, "id")}
    return bool(caught & {"ImportError", "ModuleNotFoundError"})


@functools.cache
def requirements():
    """Returns {package: its bounds} of requirements.txt."""
    result = {}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text:
            name, bounds = re.fullmatch(r"([A-Za-z0-9._-]+)(.*)", text).groups()
            result[normal(name)] = bounds
    return result


@functools.cache
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("directory", ["diffpo_jax", "configs"])
def test_every_import_is_required(directory):
    required, optional = third_party(directory)
    missing = {name: str(path) for name, path in required.items() if name not in requirements()}
    assert not missing
    extras = normal(str(project()["project"]["optional-dependencies"]))
    for name, path in optional.items():
        assert name in requirements() or f"'{name}>" in extras, f"{name} of {path}"


def test_every_requirement_is_imported():
    imported = third_party("diffpo_jax")[0] | third_party("configs")[0]
    assert requirements().keys() - imported.keys() == NOT_IMPORTED


def test_requirements_have_lower_and_upper_bounds():
    for name, bounds in requirements().items():
        assert re.fullmatch(r">=[0-9][0-9.]*,<[0-9][0-9.]*", bounds), f"{name}{bounds}"
    for extra in project()["project"]["optional-dependencies"].values():
        for line in extra:
            # jax[cuda12] and jax[tpu] take their bounds from requirements.txt.
            assert line.startswith("jax[") or re.search(r">=[0-9.]+,<[0-9.]+$", line), line


def test_every_file_of_the_package_is_installed():
    """Files that are not Python modules are listed in pyproject.toml."""
    data = project()["tool"]["setuptools"]["package-data"]
    listed = {
        path
        for package, patterns in data.items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    files = {path for path in (ROOT / "diffpo_jax").rglob("*") if path.is_file()}
    modules = {path for path in files if path.suffix in (".py", ".pyc")}
    assert listed == files - modules


def configs():
    """Returns (file, preset) for every preset that the docstring of a file in configs/ names.

    Presets that go with every file are listed on a line of their own.
    """
    result = []
    for path in sorted((ROOT / "configs").glob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        text = docstring.partition("Presets")[2] if docstring else ""
        result += [(path.name, name) for name in re.findall(r"^  (\w+)  ", text, re.MULTILINE)]
        algorithms = re.search(r"With any: ([\w, ]+);", text)
        result += [(path.name, name) for name in algorithms[1].split(", ")]
    return result


def load(name):
    spec = importlib.util.spec_from_file_location(f"config_{name[:-3]}", ROOT / "configs" / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_config_docstrings_name_all_presets():
    files = {path.name for path in (ROOT / "configs").glob("*.py")} - {"__init__.py"}
    assert {name for name, _ in configs()} == files
    for name in files:
        named = {preset for file, preset in configs() if file == name}
        assert named == {"default", *load(name).SIZES, *presets.ALGORITHMS}


@pytest.mark.parametrize(("name", "preset"), configs())
def test_presets_load(name, preset):
    config = convert.from_config_dict(load(name).get_config(preset))
    assert config == convert.from_json(convert.to_json(config))


@pytest.mark.parametrize("name", sorted({name for name, _ in configs()}))
def test_no_preset_means_default_and_unknown_presets_are_refused(name):
    get_config = load(name).get_config
    assert get_config().to_dict() == get_config("default").to_dict()
    with pytest.raises(UserError, match="no preset 'nonsense'"):
        get_config("nonsense")


DOCSTRING_FACTS = ("Hardware", "Time", "Score")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.py")), ids=lambda p: p.name)
def test_config_docstrings_give_command_hardware_time_and_score(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert f"--config={path.relative_to(ROOT)}" in text
    for fact in DOCSTRING_FACTS:
        assert re.search(rf"^{fact}: ", text, re.MULTILINE), fact


def documents():
    roots = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "launch/README.md")
    paths = [*(ROOT / name for name in (*roots, "benchmarks/README.md"))]
    paths += (ROOT / "docs").glob("*.md")
    return sorted(str(path.relative_to(ROOT)) for path in paths)


@pytest.mark.parametrize("path", documents())
def test_flags_in_documents_exist(path):
    text = (ROOT / path).read_text()
    fields = re.findall(r"--(config\.[a-z][\w.]*\w)", text)
    assert fields or path not in ("README.md", "docs/ablations.md", "docs/usage.md")
    for field in fields:
        parts = "run", "figure2", "headroom", "grid"
        of_study = field.startswith(tuple(f"config.{part}" for part in parts))
        assert convert.unknown_field(field, StudyConfig if of_study else Config) is None
    text = text.partition("### Where modules moved")[0]  # their names look like fields
    sections = "|".join(x.name for x in dataclasses.fields(Config))
    for field in re.findall(rf"`((?:{sections})\.[\w.]*\w)`", text):
        if not field.endswith((".py", ".json", ".jsonl")):
            assert convert.unknown_field(f"config.{field}") is None
    for name, preset in re.findall(r"--config=configs/(\w+\.py)(?::(\w+))?", text):
        assert (name, preset or "default") in configs()


def test_values_of_flags_in_the_ablations_have_the_right_type():
    text = (ROOT / "docs/ablations.md").read_text()
    flags = re.findall(r"--config\.([a-z][\w.]*=[^\s`]+)", text)
    assert len(flags) > 50
    values = load("sudoku.py").get_config()
    for flag in flags:
        convert.set_field(values, flag)


def test_values_in_the_method_document_are_those_of_the_sudoku_job():
    text = (ROOT / "docs/method.md").read_text()
    values = load("sudoku.py").get_config().to_dict()
    written = re.findall(r"`([a-z]+\.[a-z_.]+)` = (?:`([a-z_]+)`|([0-9.e-]*[0-9]))", text)
    assert len(written) > 10
    for field, word, number in written:
        value = functools.reduce(lambda section, name: section[name], field.split("."), values)
        assert value == (word or float(number)), f"{field} is {value!r}"


@pytest.mark.parametrize("path", documents())
def test_files_and_functions_in_documents_exist(path):
    text = (ROOT / path).read_text()
    for link, anchor in re.findall(r"\]\(([^):#]+)(#[^)]*)?\)", text):
        target = (ROOT / path).parent / link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link + anchor
    folders = "diffpo_jax|configs|tests|docs|launch|benchmarks"
    for name in re.findall(rf"`((?:{folders})/[\w./]*)`", text):
        assert (ROOT / name).exists(), name
    for module, function in re.findall(r"`([a-z_][\w.]*):([A-Za-z_]\w*)`", text):
        assert hasattr(importlib.import_module(f"diffpo_jax.{module}"), function), function


def anchors(path):
    """The anchors that GitHub gives the headings of a document."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {"#" + re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_modules_that_the_changelog_names_exist():
    table = (ROOT / "CHANGELOG.md").read_text().partition("### Where modules moved")[2]
    rows = re.findall(r"^\| (`.*`) \| (`.*`) \|$", table, re.MULTILINE)
    assert len(rows) > 30
    for _, now in rows:
        for module in re.findall(r"`([\w.]+)`", now):
            assert importlib.util.find_spec(f"diffpo_jax.{module}"), module


README = (ROOT / "README.md").read_text()


def test_the_readme_is_short():
    assert README.count("\n") <= 150


def test_the_readme_lists_every_command_and_folder():
    tree = re.search(r"```\n(configs/.*?)```", README, re.DOTALL)[1]
    package = ROOT / "diffpo_jax"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    assert set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE)) == folders
    commands = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"\w+\.py", tree.partition("diffpo_jax/")[2].split("\n")[0])) == commands


def test_the_code_in_the_readme_works():
    names = {"FAMILIES": dict(families.FAMILIES)}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)

    example = Example("1", "12?", "12")
    assert names["short"](example, "12") == pytest.approx(1 / 1.02)
    assert names["short"](example, "13") == 0

    family = names["FAMILIES"]["mine"]
    assert family.weights == families.FAMILIES["llada"].weights
    assert (family.logit_shift, family.marks) == (1, {"model_type": "mine"})


# CONTRIBUTING.md, rule 3.
SEE_THE_WHOLE_CONFIG = {"config", "run", "planning", "studies"} | {
    "evaluation/threshold_choice.py",
    "workdir/layout.py",
}


def test_only_some_parts_see_the_whole_configuration():
    package = ROOT / "diffpo_jax"
    for path in package.glob("*/**/*.py"):
        name = str(path.relative_to(package))
        if not {name, name.split("/")[0]} & SEE_THE_WHOLE_CONFIG:
            assert not re.search(r": Config\b", path.read_text()), name


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(directory, *words):
    """Runs make on copies of the files that it reads, outside this working tree."""
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, directory)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    for name in ("PYTHON", "TORCH"):
        environment.pop(name, None)
    return subprocess.run(
        ["make", *words],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@needs_make
@pytest.mark.parametrize("target", ["sudoku", "test", "lint"])
@pytest.mark.parametrize("version", ["2.7", "3.8", "3.10"])
def test_an_old_python_is_refused_before_anything_is_written(tmp_path, target, version):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho {version}\n")
    python.chmod(0o755)
    result = make(tmp_path, target, f"PYTHON={python}")
    assert result.returncode != 0
    message = result.stderr.splitlines()[0]
    assert message == (
        f"diffpo_jax needs Python 3.11 or newer, but {python} is {version}; "
        f"choose another: make {target} PYTHON=python3.12"
    )
    assert not result.stdout
    assert not (tmp_path / ".venv").exists()


@needs_make
def test_a_missing_python_is_an_error(tmp_path):
    result = make(tmp_path, "sudoku", f"PYTHON={tmp_path / 'nowhere'}")
    assert result.returncode != 0
    assert f"{tmp_path / 'nowhere'} is not found" in result.stderr.splitlines()[0]
    assert not (tmp_path / ".venv").exists()


@needs_make
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.14", "3.20"])
def test_a_new_python_is_accepted(tmp_path, version):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -m ] && exit 3\necho {version}\n')
    python.chmod(0o755)
    result = make(tmp_path, "sudoku", f"PYTHON={python}")
    assert result.stdout.splitlines()[0] == f"Creating .venv with Python {version}."
    assert result.returncode != 0  # the stand-in's `python -m venv` fails, which stops make
    assert "Installing" not in result.stdout


@needs_make
def test_torch_is_only_installed_with_TORCH_1(tmp_path):
    assert "-e '.[test]'" in make(tmp_path, "-n", "test").stdout
    assert "-e '.[test,torch]'" in make(tmp_path, "-n", "test", "TORCH=1").stdout


@needs_make
def test_make_sudoku_runs_the_command_in_the_documents(tmp_path):
    command = "python -m diffpo_jax.main --config=configs/sudoku.py --workdir=runs/sudoku"
    assert command in make(tmp_path, "-n", "sudoku").stdout
    assert command in README
    assert command in ast.get_docstring(ast.parse((ROOT / "configs/sudoku.py").read_text()))
