"""The pages in a browser, by keyboard: headless Chromium, if it is there."""

import json

import browsing
import made_runs
import pytest
from browsing import CSS, Keys, press, show, support, webdriver
from test_decode_order import ONE

from diffpo_jax.report import build, decode_order, page
from diffpo_jax.report.figures import GAMMA

pytestmark = browsing.needs_browser

BOARD = ONE._replace(
    prompt="1000",
    pieces=list("1221"),
    calls=[1, 2, 3, 2],
    sampled=[True] * 4,
    probabilities=[1.0, 0.5, 0.25, 0.75],
    entropies=[0.0, 0.7, 1.1, 0.3],
    text="1221",
    nfe=3,
)
LAYOUT = {"columns": 2, "box": 0, "given": [0], "wrong": [3], "verdict": "1 cell is wrong."}


@pytest.fixture(scope="module")
def browser():
    with browsing.started() as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The files of a run's page and of a page of completions."""
    root = tmp_path_factory.mktemp("pages")
    report = build.gather([made_runs.run(root / "run", 3)])
    (root / "run.html").write_text(page.report_page(report))
    board = decode_order.with_layout(BOARD, 0, **LAYOUT)
    (root / "order.html").write_text(page.completions_page([board, ONE]))
    return {name: f"file://{root / name}.html" for name in ("run", "order")}


@pytest.fixture(autouse=True)
def quiet(browser):
    """Fails a test in which the browser's console has a message."""
    yield
    assert browser.get_log("browser") == []


def classes(browser, name):
    """The calls of the first completion's tokens of a class."""
    first = browser.find_element(CSS, ".order")
    found = first.find_elements(CSS, f".token.{name}")
    return [token.get_attribute("data-call") for token in found]


@pytest.mark.parametrize("name", ["run", "order"])
def test_every_control_is_reached_by_tab(browser, pages, name):
    show(browser, pages[name])
    # Of the tokens of a completion one; the arrow keys lead from it to the others.
    controls = "a[href^='#'], .values, .scroll, summary, .play, .order input, .tokens"
    wanted = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter(x => x.checkVisibility())",
        controls,
    )
    reached = []
    for _ in wanted:
        press(browser, Keys.TAB)
        reached.append(
            browser.execute_script(
                "return document.activeElement.closest(arguments[0])",
                controls,
            )
        )
    assert reached == wanted and len(wanted) > 3
    browser.execute_script("document.activeElement.blur()")


@pytest.mark.parametrize("name", ["run", "order"])
def test_nothing_is_wider_than_a_narrow_window(browser, pages, name):
    show(browser, pages[name], width=400)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 400
    wider = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter(x => x.checkVisibility() &&"
        " !x.closest('.scroll table, svg') && x.getBoundingClientRect().right > 400)"
        ".map(x => x.outerHTML.slice(0, 80))"
    )
    assert wider == []


def test_values_appear_on_focus_and_follow_the_arrow_keys(browser, pages):
    show(browser, pages["run"])
    frontier = browser.find_element(CSS, ".plot.wide .values")
    value = frontier.find_element(CSS, ".value")
    assert not value.is_displayed()
    browser.execute_script("arguments[0].focus()", frontier)
    # The points of made_runs.GRID, by calls.
    first = f"NFE 2 denoiser calls per sequence: 20 % of test prompts solved ({GAMMA} 1 nats)"
    assert value.text.split("\n") == [f"base, fixed {GAMMA}", first]
    assert frontier.get_attribute("aria-valuetext") == f"base, fixed {GAMMA}, {first}"
    press(browser, Keys.ARROW_RIGHT)
    assert "NFE 4 denoiser calls per sequence: 80 %" in value.text
    press(browser, Keys.ARROW_DOWN)
    assert value.text.startswith(f"trained, fixed {GAMMA}\nNFE 4 ") and "83 %" in value.text
    press(browser, Keys.END)
    assert "NFE 8 " in value.text and "93 %" in value.text
    press(browser, Keys.ESCAPE)
    assert not value.is_displayed()
    shown = frontier.get_attribute("data-values")
    assert [len(one["points"]) for one in json.loads(shown)] == [3, 3, 1]


def test_values_appear_under_the_pointer(browser, pages):
    show(browser, pages["run"])
    frontier = browser.find_element(CSS, ".plot.wide .values")
    (x, y, text) = json.loads(frontier.get_attribute("data-values"))[1]["points"][2]
    browser.execute_script("arguments[0].scrollIntoView()", frontier)
    size = frontier.size
    place = round((x - 0.5) * size["width"]) + 3, round((y - 0.5) * size["height"]) + 3
    actions = webdriver.ActionChains(browser)
    actions.move_to_element_with_offset(frontier, *place).perform()
    assert frontier.find_element(CSS, ".value").text.endswith(text)


def test_a_completion_starts_at_its_first_call_and_steps_by_keyboard(browser, pages):
    show(browser, pages["order"])
    told = browser.find_element(CSS, ".told")
    assert (classes(browser, "now"), classes(browser, "later")) == (["1"], ["2", "3", "2"])
    assert told.text == ("Call 1 wrote 1 token: “1”, probability 1.000, entropy 0.000 nats, given.")
    slider = browser.find_element(CSS, ".order input")
    browser.execute_script("arguments[0].focus()", slider)
    press(browser, Keys.ARROW_RIGHT)
    assert (classes(browser, "now"), classes(browser, "later")) == (["2", "2"], ["3"])
    assert "probability 0.750, entropy 0.300 nats, wrong" in told.text
    assert browser.find_element(CSS, ".reached").text == "2"
    # A token's own numbers, on a board of two columns.
    press(browser, Keys.TAB, Keys.ARROW_DOWN)
    assert told.text == "Not written yet: call 3 writes it."
    press(browser, Keys.ARROW_RIGHT)
    assert told.text == "Call 2: “1”, probability 0.750, entropy 0.300 nats, wrong."


@pytest.mark.parametrize("key", [Keys.SPACE, Keys.ENTER])
def test_play_goes_to_the_end(browser, pages, key):
    show(browser, pages["order"])
    verdict = browser.find_element(CSS, ".verdict")
    assert not verdict.is_displayed()  # it is about the whole completion
    button = browser.find_element(CSS, ".play")
    browser.execute_script("arguments[0].focus()", button)
    press(browser, key)
    assert button.text == "Pause"
    press(browser, key)
    assert button.text == "Play"
    press(browser, key)
    wait = support.WebDriverWait(browser, 10, poll_frequency=0.1)
    wait.until(lambda _: classes(browser, "later") == [])
    assert button.text == "Play"
    assert verdict.text == "1 cell is wrong."


def test_figures_follow_the_dark_scheme(browser, pages):
    colours = {}
    script = (
        "const figure = document.querySelector('svg.figure');"
        "return [figure, ...figure.querySelectorAll('path, text')].flatMap(x =>"
        " [getComputedStyle(x).fill, getComputedStyle(x).stroke])"
    )
    for scheme in ("light", "dark"):
        show(browser, pages["run"], scheme=scheme)
        colours[scheme] = set(browser.execute_script(script)) - {"none", "rgb(0, 0, 0)"}
    assert len(colours["light"]) >= 3
    assert not colours["light"] & colours["dark"]
