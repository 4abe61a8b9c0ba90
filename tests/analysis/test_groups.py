import made_runs

from diffpo_jax.analysis import groups, settings
from diffpo_jax.analysis import runs as read


def runs_of(tmp_path, **settings_by_name):
    """name: (seed, fields)."""
    return [
        read.read_run(made_runs.run(tmp_path / name, seed, finished=False, **fields))
        for name, (seed, fields) in settings_by_name.items()
    ]


def names(found):
    return [(group.label, [run.name for run in group.runs]) for group in found]


def test_runs_that_differ_in_the_seed_belong_together(tmp_path):
    runs = runs_of(
        tmp_path,
        a=(0, {"task__data_dir": "x", "logging__every": 2}),
        b=(0, {"method": "d1"}),
        c=(1, {"evaluation__batch": 8}),
        d=(1, {"method": "d1", "mesh__data": 2}),
    )
    got = groups.by_settings(runs)
    assert names(got) == [("method diffpo", ["a", "c"]), ("method d1", ["b", "d"])]
    assert got[0].seeds == [0, 1]


def test_a_setting_is_named_by_what_is_short_or_by_its_runs(tmp_path):
    one, other = runs_of(tmp_path, a=(0, {"rl__group": 4}), b=(0, {"rl__group": 16}))
    assert names(groups.by_settings([one, other])) == [("group 4", ["a"]), ("group 16", ["b"])]
    words = "{question} in more words than a label has room for"
    far = runs_of(tmp_path / "far", a=(0, {}), b=(0, {"task__prompt__template": words}))
    assert names(groups.by_settings(far)) == [("a", ["a"]), ("b", ["b"])]


def test_each_seed_has_its_own_base_but_one_seed_has_not_two(tmp_path):
    base = "init_from"
    runs = runs_of(tmp_path, a=(0, {base: "base0", "pretrain__steps": 7}), b=(1, {base: "base1"}))
    assert [len(group.runs) for group in groups.by_settings(runs)] == [2]
    again = runs_of(tmp_path / "again", c=(0, {base: "other"}))
    assert [len(group.runs) for group in groups.by_settings(runs + again)] == [1, 1, 1]


def test_own_pretraining_is_a_setting(tmp_path):
    runs = runs_of(tmp_path, a=(0, {"pretrain__steps": 7}), b=(1, {}))
    assert [label for label, _ in names(groups.by_settings(runs))] == ["steps 7", "steps 120"]


def test_a_study_is_grouped_by_arm_without_what_failed(tmp_path):
    path = made_runs.study(
        tmp_path,
        ("a", 0, "done"),
        ("b", 0, "running"),
        ("a", 1, "done"),
        ("a", 2, "failed"),
        ("c", 0, "pending"),
    )
    for name in ("a-0", "b-0", "a-1", "a-2"):
        made_runs.run(tmp_path / "runs" / name, int(name[-1]))
    assert names(groups.by_arm(read.read_study(path).runs)) == [
        ("a", ["a-0", "a-1"]),
        ("b", ["b-0"]),
    ]


def test_differing_tells_kinds_and_absence():
    assert groups.differing([{"a": 1, "b": [1], "c": 2}, {"a": 1.0, "b": [1]}]) == ["a", "c"]


def test_defaults_are_those_of_the_method_and_the_rule():
    got = settings.defaults_of({"method": "d1", "sampler.rule": "random"})
    assert (got["method"], got["rl.likelihood.anchors"]) == ("d1", 1)
    assert got["sampler.ranking"] == "random"
    assert settings.defaults_of({"method": "of another time"})["method"] == "diffpo"
