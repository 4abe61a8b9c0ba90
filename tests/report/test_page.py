import csv
import html.parser
import json
import re
import subprocess
import sys

import made_runs
import pytest

from diffpo_jax.analysis import runs
from diffpo_jax.report import build, page, run_tables
from diffpo_jax.report.figures import GAMMA
from diffpo_jax.report.picture import drawings
from diffpo_jax.system.errors import UserError

LOADS = {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}
VOID = {"meta", "input", "img", "br", "link"}


class Checked(html.parser.HTMLParser):
    """The text of a page and what it loads; fails if tags are not nested properly."""

    def __init__(self, text):
        super().__init__()
        self.open, self.loaded, self.ids, self.headings, self.text = [], [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.loaded += [v for k, v in attributes if k in LOADS]
        self.ids += [v for k, v in attributes if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" not in self.open and "style" not in self.open:
            self.text += data
            if self.open and self.open[-1] == "h2":
                self.headings.append(data)


def made(*paths):
    report = build.gather([str(path) for path in paths])
    text = page.report_page(report)
    return report, text, Checked(text)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return made(made_runs.run(tmp_path_factory.mktemp("one") / "run<1>", 3))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    root = tmp_path_factory.mktemp("several")
    gains = {"a": (0, 0.05), "b": (1, 0.01), "c": (0, -0.03)}
    paths = [
        made_runs.run(root / n, seed, gain=gain, **({"method": "d1"} if n == "c" else {}))
        for n, (seed, gain) in gains.items()
    ]
    return made(*paths)


def pictures(report):
    return {picture.name: picture for picture in report.pictures}


def test_a_finished_run_has_every_part_in_order(one):
    assert one[2].headings == [
        "Summary",
        "Frontier",
        "Difficulty of the prompt",
        "Learning curves",
        "Signs of trouble",
        "Calls per prompt",
        "Surrogate against sampler",
        "Decode order",
        "Configuration",
        "Lineage",
    ]
    text = " ".join(one[2].text.split())
    # The same sentences and numbers as at the end of a run.
    assert "the trained model solves 91.3 % in 4.5 calls; the base solves 81.2 % at 4.5" in text
    assert "+5.0 points (95 % interval +3.0 to +7.0)" in text
    assert "which one run cannot show" in text
    assert "c0ffeec0ffee" in text and "'--config=a b'" in text
    assert "rl.steps" in text and "--config" in text


def test_page_is_self_contained_and_ids_are_unique(one, several):
    for _, text, found in (one, several):
        assert "data:," in found.loaded  # an icon of its own
        links = [value for value in found.loaded if value != "data:,"]
        assert all(value.startswith("#") for value in links)
        assert len(found.ids) == len(set(found.ids))
        assert {value[1:] for value in links} <= set(found.ids)
        for used in re.findall(r"url\((.*?)\)", text):
            assert used[1:] in found.ids
        assert "@import" not in text


def test_data_is_escaped(one):
    _, text, found = one
    assert "<b>" not in text and "<1&>" not in text
    assert "&lt;b&gt;0&lt;/b&gt;&amp;" in text
    assert "<title>Run run&lt;1&gt;</title>" in text
    assert "<b>0</b>&" in found.text


def test_every_figure_has_a_description_and_the_pages_colours(one):
    report, text, _ = one
    for picture in report.pictures:
        for drawing in drawings(picture):
            assert f'<title id="{drawing.id}-title">' in text
        assert picture.caption.endswith(".") and " " in picture.caption
    assert len(drawings(pictures(report)["frontier"])) == 2  # for wide and for narrow windows
    drawn = "".join(re.findall(r'<svg class="figure".*?</svg>', text, re.S))
    assert re.findall(r"#[0-9a-fA-F]{6}", drawn) == []
    for variable in ("--ink", "--page", "--grid", "--series-0"):
        assert f"var({variable})" in drawn and f"{variable}:" in text


def test_decode_orders_are_shown_for_few_median_and_many_calls_and_wrong_answers(one):
    (section,) = [s for s in one[0].sections if s.examples]
    shown = [(e.why, e.completion.nfe, e.right) for e in section.examples]
    assert shown == [
        ("Fewest calls", 1, True),
        ("Median calls", 2, False),
        ("Most calls", 3, True),
    ]
    assert section.examples[0].completion.pieces == ["<", "1", "&", ">", "\N{MIDDLE DOT}"]
    assert section.examples[0].completion.sampled == [True, True, True, True, False]
    new, old = (section.examples[i].completion for i in (0, 1))
    assert (new.forced, new.wrong, new.verdict) == (True, [2], "& is wrong.")
    assert (new.probabilities, new.entropies) == ([0.75] * 5, [0.5] * 5)
    assert (old.forced, old.wrong, old.probabilities) == (False, (), [])


def test_the_numbers_of_curves_are_those_of_the_metrics_file(one):
    rows = [row for row in made_runs.rows(3) if row["stage"] == "rl"]
    fields = {
        "reward": ("reward",),
        "accuracy": ("accuracy", "eval/accuracy"),
        "gamma": ("gamma/p50", "gamma/p5", "gamma/p95"),
        "kl_by_call": ("kl/token/calls_1", "kl/token/calls_2-3", "kl/token/calls_16"),
        "weights_ess": ("weights/ess/calls_1",),
    }
    for name, own in fields.items():
        picture = pictures(one[0])[name]
        assert tuple(picture.rows[0]) == ("run", "seed", "step", *own)
        expected = [
            [row["step"], *(row.get(f) for f in own)] for row in rows if any(f in row for f in own)
        ]
        got = [list(row.values())[2:] for row in picture.rows]
        assert got == expected


def test_a_curve_draws_the_numbers_of_its_csv(one):
    picture = pictures(one[0])["accuracy"]
    training, validation = picture.figure.get_axes()[0].get_lines()
    assert training.get_ydata().tolist() == pytest.approx(
        [100 * row["accuracy"] for row in picture.rows if row["accuracy"] is not None]
    )
    assert validation.get_xdata().tolist() == [0, 3, 6]


def test_a_figure_says_the_values_of_its_points(one):
    def said(name):
        (drawing, *_) = drawings(pictures(one[0])[name])
        return {series["name"]: series["points"] for series in drawing.values}

    training, validation = said("accuracy").values()
    assert [text for _, _, text in validation] == [
        "RL step 0: 50 % solved",
        "RL step 3: 55.27 % solved",
        "RL step 6: 59.96 % solved",
    ]
    assert training[0][2] == "RL step 1: 4.297 % solved"
    x, y = ([point[i] for point in training] for i in (0, 1))
    assert x == sorted(x) and y == sorted(y, reverse=True)  # shares from the left and the top
    assert 0 < x[0] < x[-1] < 1 and 0 < y[-1] < y[0] < 1
    texts = [text for _, _, text in said("gamma")["median"]]
    assert texts[0] == (f"RL step 1: {GAMMA} 0.01375 nats (5 to 95 %: 0.01074 to 0.0275)")
    assert [text for _, _, text in said("calls_histogram")["wrong"]] == [
        "denoiser calls 1: count 0 test answers",
        "denoiser calls 2: count 1 test answers",
        "denoiser calls 3: count 0 test answers",
    ]


def test_the_calls_of_test_answers_are_counted(one):
    rows = [
        {k: row[k] for k in ("calls", "right", "wrong")}
        for row in pictures(one[0])["calls_histogram"].rows
    ]
    assert rows == [
        {"calls": 1, "right": 1, "wrong": 0},
        {"calls": 2, "right": 0, "wrong": 1},
        {"calls": 3, "right": 2, "wrong": 0},
    ]


def test_several_runs_are_drawn_as_mean_and_range_over_seeds(several):
    report, _, found = several
    axes = pictures(report)["reward"].figure.get_axes()[0]
    both, alone = axes.get_lines()
    # Seeds 0 and 1 of one setting: the mean of x/16 and (x + 1/8)/16.
    assert both.get_ydata().tolist() == pytest.approx([(s + 1 / 16) / 16 for s in range(1, 7)])
    assert alone.get_ydata().tolist() == pytest.approx([s / 16 for s in range(1, 7)])
    assert len(axes.collections) == 1  # one seed has no range
    text = " ".join(found.text.split())
    place = "at the learned threshold or the default price"
    assert f"method diffpo: mean gain {place} +3.0 points over 2 seeds" in text
    assert "(+5.0, +1.0; standard deviation 2.8). 1 of 2 intervals lie above 0." in text
    assert "method d1: -3.0 (-5.0 to -1.0) points at the learned threshold" in text
    assert (
        "Over those that all have (0), the mean gains are: method diffpo +5.0; method d1 -3.0"
        in text
    )
    differs = [
        table for s in report.sections for table in s.tables if table.title == "What differs"
    ]
    assert differs[0].columns == (
        "run",
        "method",
        "rl.likelihood.anchors",
        "rl.likelihood.prompt_masking",
        "rl.objective.weights",
        "seed",
    )
    assert differs[0].rows[2] == ("c", "d1", "1", "0.15", "none", "0")


def test_a_frontier_of_several_runs_holds_the_points_of_each(several):
    rows = pictures(several[0])["frontier"].rows
    assert [row["run"] for row in rows].count("b") == 7  # three of each model, and the learned
    learned = [row["accuracy"] for row in rows if row["model"] == "trained-learned"]
    assert learned == [0.91, 0.911, 0.91]
    drawn = [(x.name, x.in_legend) for x in pictures(several[0])["frontier"].figure.series]
    assert drawn == [
        ("base model", True),
        ("a", False),
        ("b", False),
        ("method diffpo", True),
        (f"method diffpo, learned {GAMMA}", False),
        ("method d1", True),
        (f"method d1, learned {GAMMA}", False),
    ]


def test_the_page_of_an_unfinished_run_says_how_far_it_is(tmp_path):
    path = made_runs.run(tmp_path / "a", finished=False, rl__steps=10)
    with open(tmp_path / "a" / "metrics.jsonl", "a") as file:
        file.write('{"stage": "rl"')
    report, _, found = made(path)
    text = " ".join(found.text.split())
    assert "RL: step 6 of 10. At the pace of the last steps, " in text
    assert "Base model: step 2 of 120." in text
    assert "Validation prompts solved: 50.0 % in 5.00 calls at step 0 and 59.4 % in 4.09" in text
    assert "There is no summary: the run is still going, or was stopped." in text
    assert "reward" in pictures(report) and "frontier" not in pictures(report)


def test_a_run_without_metrics_has_a_page(tmp_path):
    report, _, found = made(made_runs.run(tmp_path / "a", finished=False, made=[]))
    assert "Nothing has been logged yet." in found.text
    assert report.pictures == []


def test_the_page_of_a_run_without_a_learned_threshold(tmp_path):
    report, _, found = made(made_runs.run(tmp_path / "a", mode="model"))
    assert "frontier" in pictures(report) and "difficulty_gamma" not in pictures(report)
    assert "Base at its best" in found.text and "learned threshold: solved" not in found.text


def test_the_page_of_a_study_has_its_tables_first_and_lists_failures(tmp_path):
    results = {"tables": [{"title": "Gains", "columns": ["arm", "gain"], "rows": [["<a>", 1.5]]}]}
    path = made_runs.study(
        tmp_path,
        ("x", 0, "done"),
        ("x", 1, "failed", "countdown", "the loss is <NaN>"),
        ("y", 0, "done"),
        ("y", 1, "pending"),
        results=results,
    )
    for name in ("x-0", "x-1", "y-0"):
        made_runs.run(tmp_path / "runs" / name, int(name[-1]), finished=name != "x-1")
    report, text, found = made(path)
    assert report.title == "Weights <or> none"
    assert found.headings[:3] == ["Results", "The study's runs", "Summary"]
    assert "&lt;a&gt;" in text and "the loss is &lt;NaN&gt;" in text
    assert "1 failed: they are listed here, and are in no figure and no mean." in found.text
    assert [row["arm"] for row in pictures(report)["final"].rows] == ["x", "y"]
    drawn = {row["run"] for row in pictures(report)["reward"].rows}
    assert drawn == {"x-0", "y-0"}
    labels = pictures(report)["reward"].figure.get_axes()[0].get_legend_handles_labels()[1]
    assert labels == ["x", "y"]


def test_labels_of_arms_are_shown_as_they_are(tmp_path):
    arms = (r"$\boxed{x}$", "_none", "<i>", "#000000")
    path = made_runs.study(tmp_path, *((arm, 0, "done") for arm in arms))
    for arm in arms:
        made_runs.run(tmp_path / "runs" / f"{arm}-0")
    report, text, _ = made(path)
    for name, first in {"reward": [], "frontier": ["base model"]}.items():
        (legend,) = pictures(report)[name].figure.legends
        assert [label.get_text() for label in legend.get_texts()] == [*first, *arms]
        drawn = text[text.index(f'<title id="{name}') :]
        for label in (r"$\boxed{x}$", "_none", "&lt;i&gt;", "#000000"):
            assert f">{label}</text>" in drawn[: drawn.index("</svg>")]


def test_each_task_of_a_study_has_its_own_figures(tmp_path):
    path = made_runs.study(tmp_path, ("x", 0, "done", "countdown"), ("z", 0, "done", "sudoku"))
    for name in ("x-0", "z-0"):
        made_runs.run(tmp_path / "runs" / name, finished=False)
    found = pictures(made(path)[0])
    assert {row["run"] for row in found["countdown_reward"].rows} == {"x-0"}
    assert {row["run"] for row in found["sudoku_reward"].rows} == {"z-0"}


def test_the_command_writes_the_page_and_its_figures_without_jax(tmp_path):
    made_runs.run(tmp_path / "a", finished=False, made=[{"stage": "rl", "step": 1, "reward": 0.3}])
    program = (
        "import sys; from diffpo_jax.config import command\n"
        "from diffpo_jax.report import __main__\n"
        "try: command.run(__main__.main)\n"
        "finally:\n"
        "  print(sorted({m.split('.')[0] for m in sys.modules} & {'jax', 'jaxlib', 'flax'}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"--workdir={tmp_path / 'a'}"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    page_file, figures = tmp_path / "a/report/index.html", tmp_path / "a/report/index_figures"
    assert done.stdout.splitlines() == [f"page: {page_file}", f"figures: {figures}", "[]"]
    assert "<!doctype html>" in page_file.read_text()
    assert sorted(f.name for f in figures.iterdir()) == ["reward.csv", "reward.png", "reward.svg"]
    rows = list(csv.reader((figures / "reward.csv").read_text().splitlines()))
    assert rows == [["run", "seed", "step", "reward"], ["a", "0", "1", "0.3"]]
    assert (figures / "reward.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone"], "gone is not a directory"),
        (["."], "holds no run"),
        (["a", "a"], "is given twice"),
        (["a", "s"], "is a study: give it alone"),
    ],
)
def test_directories_that_cannot_be_reported_are_errors(tmp_path, monkeypatch, words, message):
    made_runs.run(tmp_path / "a", finished=False)
    made_runs.study(tmp_path / "s")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        build.gather(words)


def test_the_page_is_written_to_out_or_into_the_report_directory():
    assert str(build.destination(["runs/a"], None)) == "runs/a/report/index.html"
    assert str(build.destination(["a", "b"], "c.html")) == "c.html"
    with pytest.raises(UserError, match="--out is missing"):
        build.destination(["a", "b"], None)
    with pytest.raises(UserError, match=r"must end in \.html"):
        build.destination(["a"], "c.pdf")


def test_runs_with_the_same_name_are_named_by_their_path(tmp_path, monkeypatch):
    for place in ("x", "y"):
        made_runs.run(tmp_path / place / "run", finished=False, made=[])
    monkeypatch.chdir(tmp_path)
    report = build.gather(["x/run", "y/run"])
    names = json.dumps([table.rows for s in report.sections for table in s.tables])
    assert "x/run" in names and "y/run" in names


def test_evaluations_with_other_settings_are_listed(tmp_path):
    path = made_runs.run(tmp_path / "a", 3)
    text = page.report_page(build.gather([path]))
    assert "Other evaluations" not in text
    both, one, going = (tmp_path / "a" / "evaluations" / name for name in ("b", "c", "d"))
    for directory, model, changes in (
        (both, "both", {"task.test_file": "<few>.csv", "evaluation.gammas": [0.1, 1.0]}),
        (one, "base", {}),
        (going, "trained", {"evaluation.examples": None}),
    ):
        (directory / "report").mkdir(parents=True)
        settings = {"model": model, "changes": changes}
        (directory / "settings.json").write_text(json.dumps(settings))
    (both / "report" / "summary.json").write_text(json.dumps(made_runs.summary(3)))
    points = [{"accuracy": 0.25, "nfe": 4.0}, {"accuracy": 0.125, "nfe": 2.0}]
    content = {"model": {"which": "base"}, "points": points, "prompts": 7}
    (one / "evaluation.json").write_text(json.dumps(content))
    (table,) = run_tables.evaluations(runs.read_run(path))
    fields = "task.test_file=<few>.csv; evaluation.gammas=0.1, 1.0"
    trained = "93.0 %@8.00, 83.0 %@4.00, 23.0 %@2.00, 91.3 %@4.50"  # the last is the learned point
    assert table.rows == [
        ("b", fields, "base", 64, "90.0 %@8.00, 80.0 %@4.00, 20.0 %@2.00"),
        ("b", fields, "trained", 64, trained),
        ("c", "none", "base", 7, "25.0 %@4.00, 12.5 %@2.00"),
        ("d", "evaluation.examples=none", "trained", None, "not finished"),
    ]
    text = page.report_page(build.gather([path]))
    Checked(text)
    assert "Other evaluations" in text and "task.test_file=&lt;few&gt;.csv" in text
