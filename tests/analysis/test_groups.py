import made_runs
from made_studies import A, B

from diffpo_jax.analysis import groups
from diffpo_jax.analysis import runs as reader


def make_runs(tmp_path, **settings_by_name):
    """Unfinished runs; each is given as name=(seed, fields)."""
    return [
        reader.read_run(made_runs.run(tmp_path / name, seed, finished=False, **fields))
        for name, (seed, fields) in settings_by_name.items()
    ]


def names(made):
    return [(group.label, [run.name for run in group.runs]) for group in made]


def test_runs_that_differ_in_the_seed_alone_form_a_group(tmp_path):
    runs = make_runs(
        tmp_path,
        a=(0, {"task__data_dir": "x", "logging__every": 2}),
        b=(0, {"method": "d1"}),
        c=(1, {"evaluation__batch": 8}),
        d=(1, {"method": "d1", "mesh__data": 2}),
    )
    got = groups.by_settings(runs)
    assert names(got) == [("method diffpo", ["a", "c"]), ("method d1", ["b", "d"])]
    assert [run.seed for run in got[0].runs] == [0, 1]
    assert [group.place for group in got] == [0, 1]


def test_a_group_is_labelled_by_its_settings_or_by_its_runs_if_they_are_long(tmp_path):
    one, other = make_runs(tmp_path, a=(0, {"rl__group": 4}), b=(0, {"rl__group": 16}))
    assert names(groups.by_settings([one, other])) == [("group 4", ["a"]), ("group 16", ["b"])]
    words = "{question} in more words than a label has room for"
    far = make_runs(tmp_path / "far", a=(0, {}), b=(0, {"task__prompt__template": words}))
    assert names(groups.by_settings(far)) == [("a", ["a"]), ("b", ["b"])]


def test_seeds_may_have_their_own_base_but_two_bases_of_one_seed_are_two_settings(tmp_path):
    base = "init_from"
    runs = make_runs(tmp_path, a=(0, {base: "base0", "pretrain__steps": 7}), b=(1, {base: "base1"}))
    assert [len(group.runs) for group in groups.by_settings(runs)] == [2]
    again = make_runs(tmp_path / "again", c=(0, {base: "other"}))
    assert [len(group.runs) for group in groups.by_settings(runs + again)] == [1, 1, 1]


def test_pretraining_of_its_own_is_a_setting(tmp_path):
    runs = make_runs(tmp_path, a=(0, {"pretrain__steps": 7}), b=(1, {}))
    assert [label for label, _ in names(groups.by_settings(runs))] == ["steps 7", "steps 120"]


def test_arms_keep_their_place_and_are_sorted_by_seed():
    made = groups.by_arm([*B[::-1], *A], arms=("a", "unstarted", "b"))
    assert names(made) == [("a", ["a0", "a1", "a2"]), ("b", ["b0", "b1", "b2"])]
    assert [group.place for group in made] == [0, 2]
    by_task = groups.by_task(groups.by_arm([*A, B[0]._replace(task="other")]))
    assert {task: [group.place for group in arms] for task, arms in by_task.items()} == {
        "sudoku": [0],
        "other": [1],
    }


def test_differing_fields_include_missing_ones_and_other_types():
    assert groups.differing([{"a": 1, "b": [1], "c": 2}, {"a": 1.0, "b": [1]}]) == ["a", "c"]
