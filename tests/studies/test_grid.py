import dataclasses
import shlex

import pytest

from diffpo_jax.config import GridConfig, convert
from diffpo_jax.studies import compare, grid, runner
from diffpo_jax.system.errors import UserError

SUDOKU = "configs/sudoku.py:smoke"
GRID = GridConfig(
    tasks=(SUDOKU,),
    seeds=(0, 1),
    arms=("d1: method=d1", "joint: mode=joint"),
    common=("rl.steps=3",),
)


def make(**changes):
    return grid.jobs(dataclasses.replace(GRID, **changes), "store")


def test_base_models_come_before_arms_and_seeds():
    jobs = make()
    assert [(j.kind, j.arm, j.seed) for j in jobs] == [
        ("base", "base", 0),
        ("base", "base", 1),
        ("run", "d1", 0),
        ("run", "joint", 0),
        ("run", "d1", 1),
        ("run", "joint", 1),
    ]
    bases = {j.seed: j.id for j in jobs if j.kind == "base"}
    assert all(j.needs == bases[j.seed] for j in jobs if j.kind == "run")
    assert len({j.id for j in jobs}) == len(jobs)
    d1 = next(j for j in jobs if j.name == "sudoku:smoke d1 seed 1")
    assert d1.flags == (
        f"--config={SUDOKU}",
        "--config.rl.steps=3",
        "--config.method=d1",
        "--config.seed=1",
        "--config.task.data_dir=store/data",
        f"--config.init_from=store/{bases[1]}",
    )


def test_another_study_shares_the_same_runs():
    ids = {j.arm: j.id for j in make(seeds=(1,))}
    other = make(
        seeds=(1,),
        common=(),
        arms=("as published: method=d1 rl.steps=3 logging.every=2", "weights: method=d1_is"),
        title="other",
    )
    assert {"base": ids["base"], "as published": ids["d1"]}.items() <= {
        j.arm: j.id for j in other
    }.items()


def test_changed_arms_give_a_study_another_title():
    titled = dataclasses.replace(GRID, title="Figure 3")
    assert grid.retitle(titled, {"grid.seeds"}).title == "Figure 3"
    assert grid.retitle(titled, {"grid.arms"}).title == "Comparison of d1, joint"
    assert grid.retitle(titled, {"grid.arms", "grid.title"}).title == "Figure 3"


def test_fields_of_the_base_model_make_another_base_model():
    jobs = make(seeds=(0,), arms=("a: model.width=64", "b: rl.steps=4", "c: pretrain.steps=0"))
    of = {j.arm: j for j in jobs if j.kind == "run"}
    bases = {j.id: j for j in jobs if j.kind == "base"}
    assert len(bases) == 2
    assert "--config.model.width=64" in bases[of["a"].needs].flags
    assert not any("rl.steps" in word for word in bases[of["b"].needs].flags)
    assert of["c"].needs == ""


def test_an_arm_may_name_presets():
    """They come behind the task's own and before the arm's fields; the base is shared."""
    arms = ("paper: mode=joint", "d2: preset=d2 rl.likelihood.anchors=4", "s: preset=blocks,d2")
    jobs = make(seeds=(0,), arms=arms)
    of = {j.arm: j for j in jobs if j.kind == "run"}
    assert of["d2"].flags[0] == f"--config={SUDOKU},d2"
    assert of["s"].flags[0] == f"--config={SUDOKU},blocks,d2"
    assert {j.task for j in jobs} == {"sudoku:smoke"}
    assert not any("preset" in word for j in jobs for word in j.flags)
    config = flags_to_config(of["d2"].flags)
    assert (config.rl.likelihood.schedule, config.rl.likelihood.anchors) == ("even", 4)
    # Attention by blocks needs a base of its own.
    assert of["d2"].needs == of["paper"].needs != of["s"].needs
    base = next(j for j in jobs if j.id == of["s"].needs)
    assert flags_to_config(base.flags).model.attention_block == 4
    plain = make(tasks=("configs/sudoku.py",), seeds=(0,), arms=("d2: preset=d2",), common=())
    assert plain[-1].flags[0] == "--config=configs/sudoku.py:default,d2"


def flags_to_config(flags):
    spec, *words = flags
    words = [word.removeprefix("--config.") for word in words]
    return convert.from_file(spec.removeprefix("--config="), words)


def test_the_last_of_two_values_of_a_field_counts():
    flags = make(arms=("a: rl.steps=5",))[-1].flags
    assert [word for word in flags if "rl.steps" in word] == ["--config.rl.steps=5"]


def test_flags_give_the_configuration_that_the_id_stands_for():
    """The processes parse the same configuration that is hashed here."""
    (_, job) = make(seeds=(0,), arms=("a: evaluation.gammas='(0.0, 0.2)' rl.likelihood.anchors=3",))
    words = [w.removeprefix("--config.") for w in job.flags[1:]]
    config = convert.from_file(SUDOKU, words)
    assert config.evaluation.gammas == (0.0, 0.2)
    assert config.rl.likelihood.anchors == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ("d1",)}, "'d1' must be 'LABEL: field=value ...'"),
        ({"arms": ("a: mode=joint", "a: mode=model")}, "with a unique label"),
        ({"arms": ("a: mode=joint", "b: rl.steps=3")}, "'a' and 'b' are the same run"),
        ({"arms": ("a: rl.step=3",)}, "arm 'a': config.rl.step is not a field"),
        ({"arms": ("a: rl.steps=many",)}, "config.rl.steps='many' must be int"),
        ({"arms": ("a: preset=large",)}, "arm 'a': configs/sudoku.py has no preset 'large'"),
        ({"arms": ("a: mode",)}, "'mode' must have the form field=value"),
        ({"arms": ("a: method='d1",)}, "No closing quotation"),
        ({"arms": ("a: mode=modle",)}, "config.mode='modle' is unknown"),
        ({"reference": "b"}, "config.grid.reference='b' is not an arm"),
        ({"tasks": ("configs/nothing.py",)}, "cannot read the config file configs/nothing.py"),
        ({"tasks": ("configs/sudoku.py:big",)}, "no preset 'big'"),
    ],
)
def test_a_mistake_is_one_line(changes, message):
    with pytest.raises(UserError, match=r".*") as caught:
        make(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_has_one_command_per_job():
    lines = compare.script(GRID, "store", "list").splitlines()
    commands = [shlex.split(line) for line in lines if not line.startswith("#")]
    assert commands == [["python", *runner.command(job, "store")] for job in make()]
    assert [("--base_only" in words) for words in commands] == [True, True] + [False] * 4


def test_a_slurm_script_waits_for_the_base_models():
    text = compare.script(GRID, "/shared/store", "slurm")
    base, *_ = jobs = grid.jobs(GRID, "/shared/store")
    assert (
        f"NAME=diffpo-{base.id} CONFIG={SUDOKU} WORKDIR=/shared/store/{base.id} "
        f"launch/slurm_gpu.sh run -- --config.rl.steps=3" not in text
    )  # a base model gets no flags of RL
    assert f"WORKDIR=/shared/store/{base.id} launch/slurm_gpu.sh run -- --config.seed=0" in text
    assert "--base_only &" in text
    starts = [line for line in text.splitlines() if " start -- " in line]
    assert len(starts) == sum(job.kind == "run" for job in jobs)
    assert text.index("wait") < text.index(" start -- ")


def test_an_xpk_script_uses_the_mount_point_of_the_bucket():
    text = compare.script(GRID, "gs://bucket/some/where", "xpk")
    assert "WORKDIR=gs://bucket/some/where/" in text
    assert "--config.init_from=/bucket/some/where/" in text
    assert "launch/gke_xpk.sh start" in text


@pytest.mark.parametrize(("store", "kind"), [("/disk", "xpk"), ("gs://bucket/x", "slurm")])
def test_a_store_of_the_wrong_kind_is_refused(store, kind):
    with pytest.raises(UserError, match=f"--store={store}"):
        compare.script(GRID, store, kind)
