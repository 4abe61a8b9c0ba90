"""The page to try models on, in a browser: by keyboard, narrow and wide, light and dark."""

import browsing
import pytest
import served
from browsing import CSS, Keys, press, support
from served import PUZZLE

exceptions = pytest.importorskip("selenium.common.exceptions")
pytestmark = browsing.needs_browser
HOSTILE = "<img src=x onerror=document.title='taken'>"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    workdir = served.make_run(tmp_path_factory.mktemp("page") / "run")
    with served.start(workdir) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with browsing.started() as driver:
        yield driver


@pytest.fixture(autouse=True)
def quiet(browser):
    """Fails a test in which the browser's console has a message."""
    yield
    assert browser.get_log("browser") == []


@pytest.fixture
def show(browser, running):
    def open_page(width=1280, scheme="light", motion="reduce"):
        browsing.show(browser, running.client.url, width, scheme, motion)

    return open_page


def panel(browser, number=0):
    """A model's part of the page: trained, then base."""
    return browser.find_elements(CSS, ".model")[number]


def wait(browser, condition):
    """Waits for a condition; what it looks at may be replaced meanwhile."""
    waiting = support.WebDriverWait(
        browser,
        20,
        poll_frequency=0.02,
        ignored_exceptions=[exceptions.StaleElementReferenceException],
    )
    return waiting.until(lambda _: condition())


def write(browser):
    """Writes by keyboard; waits until both models are done."""
    for place in browser.find_elements(CSS, ".place"):
        browser.execute_script("arguments[0].replaceChildren()", place)
    browser.execute_script("document.getElementById('prompt').focus()")
    press(browser, Keys.CONTROL + Keys.ENTER)
    wait_for_end(browser)


def wait_for_end(browser, models=2):
    wait(browser, lambda: len(browser.find_elements(CSS, ".order:not([data-open])")) == models)


def facts(browser, number=0):
    return panel(browser, number).find_element(CSS, ".facts").text


def test_every_control_is_reached_by_tab(browser, show):
    show()
    write(browser)
    controls = "textarea, button, input:not([type=radio]), input:checked, .tokens"
    wanted = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].filter(x => x.checkVisibility())",
        controls,
    )
    # From the heading on, where a reader begins.
    start = "const h = document.querySelector('h1'); h.tabIndex = -1; h.focus()"
    browser.execute_script(start)
    reached, outlines = [], []
    for _ in wanted:
        press(browser, Keys.TAB)
        focused = "return document.activeElement.closest(arguments[0])"
        reached.append(browser.execute_script(focused, controls))
        outline = "return getComputedStyle(document.activeElement).outlineStyle"
        outlines.append(browser.execute_script(outline))
    assert reached == wanted and len(wanted) == 15
    assert set(outlines) == {"solid"}
    unnamed = browser.execute_script(
        "return arguments[0].filter(x => !x.labels?.length && !x.ariaLabel && !x.textContent)",
        wanted,
    )
    assert unnamed == []


def test_a_prompt_is_written_by_both_models_and_the_learned_gamma_is_marked(browser, show, running):
    show()
    box = browser.find_element(CSS, "#prompt")
    assert box.get_attribute("value") == running.site.examples[0].prompt
    box.clear()
    box.send_keys(PUZZLE)
    write(browser)
    for number, model in enumerate(served.NAMES):
        choice = running.client.complete(model=model)["choices"][0]
        tokens = panel(browser, number).find_elements(CSS, ".token .piece")
        assert "".join(token.text for token in tokens) == choice["text"]
        assert f"in {choice['calls']} call" in facts(browser, number)
        assert "board" in panel(browser, number).find_element(CSS, ".tokens").get_attribute("class")
    gamma = running.client.complete()["choices"][0]["gamma"]
    assert panel(browser).find_element(CSS, ".learned").text == f"learned: {gamma:.3g} nats"
    assert not panel(browser).find_element(CSS, ".mark").is_displayed()


def test_sliders_write_again(browser, show, running):
    show()
    write(browser)
    dial = panel(browser).find_element(CSS, ".dial")
    browser.execute_script("arguments[0].focus()", dial)
    press(browser, Keys.HOME)
    assert panel(browser).find_element(CSS, ".dialled").text == "0 nats"
    assert panel(browser).find_element(CSS, "[value=fixed]").is_selected()
    wait(browser, lambda: facts(browser) == "16 tokens in 16 calls (1.00 per call), gamma 0 nats")
    press(browser, Keys.END)
    wait(browser, lambda: facts(browser).endswith("gamma 10 nats"))
    scale = panel(browser).find_element(CSS, ".scale")
    browser.execute_script("arguments[0].focus()", scale)
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert panel(browser).find_element(CSS, ".scaled").text == "2"
    assert panel(browser).find_element(CSS, "[value=learned]").is_selected()
    gamma = running.client.complete(scale=2, prompt=running.site.examples[0].prompt)["choices"][0][
        "gamma"
    ]
    wait(browser, lambda: facts(browser).endswith(f"gamma {gamma:.3g} nats"))
    # The base has a slider of its own.
    assert "gamma 0.1 nats" in facts(browser, 1)


def test_a_completion_appears_call_by_call(browser, show):
    show(motion="no-preference")
    browser.execute_script(
        "const dial = document.querySelectorAll('.dial')[1]; dial.value = 0;"
        "dial.dispatchEvent(new Event('input'))"
    )
    write(browser)
    order = panel(browser, 1).find_element(CSS, ".order")
    open_ = lambda: len(order.find_elements(CSS, ".token.later"))  # noqa: E731
    assert open_() > 8 and order.find_element(CSS, ".play").text == "Pause"
    seen = {open_()}
    wait(browser, lambda: seen.add(open_()) or 0 in seen)
    assert len(seen) > 8
    wait(browser, lambda: order.find_element(CSS, ".play").text == "Play")


def test_a_test_prompt_is_taken_and_graded(browser, show, running):
    show()
    number = browser.find_element(CSS, "#number")
    browser.execute_script("arguments[0].focus()", number)
    press(browser, Keys.CONTROL + "a", "5", Keys.ENTER)
    example = running.site.examples[4]
    box = browser.find_element(CSS, "#prompt")
    wait(browser, lambda: box.get_attribute("value") == example.prompt)
    write(browser)
    for i, model in enumerate(served.NAMES):
        text = running.client.complete(model=model, prompt=example.prompt)["choices"][0]["text"]
        right = running.site.task.reward(example, text).correct
        assert panel(browser, i).find_element(CSS, ".mark").text == ("right" if right else "wrong")
    browser.execute_script("arguments[0].focus()", number)
    press(browser, Keys.CONTROL + "a", "99", Keys.ENTER)
    assert browser.execute_script("return arguments[0].validity.rangeOverflow", number)
    assert box.get_attribute("value") == example.prompt


def test_a_mistake_is_said_in_place(browser, show):
    show()
    box = browser.find_element(CSS, "#prompt")
    box.clear()
    box.send_keys(HOSTILE, Keys.CONTROL + Keys.ENTER)
    status = panel(browser).find_element(CSS, ".status")
    wait(browser, lambda: status.text)
    assert status.text.startswith(f"The prompt has {len(HOSTILE)} characters, with '<' among them")
    assert browser.find_elements(CSS, ".order, img") == []


def test_texts_are_never_taken_for_html(browser, show, running, monkeypatch):
    monkeypatch.setattr(running.site.texts, "piece", lambda token: HOSTILE)
    monkeypatch.setattr(
        running.site.task,
        "lay_out",
        lambda *_: type(running.site.task).lay_out("", "")._replace(verdict=HOSTILE),
    )
    show()
    write(browser)
    assert browser.find_element(CSS, ".token .piece").text == HOSTILE
    assert browser.find_element(CSS, ".verdict").text == HOSTILE
    assert browser.find_elements(CSS, "img") == []
    assert browser.title == "sudoku: run"


@pytest.mark.parametrize("written", [False, True])
def test_nothing_is_wider_than_a_narrow_window(browser, show, written):
    show(width=400)
    if written:
        write(browser)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 400
    wider = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter(x => x.checkVisibility() &&"
        " x.getBoundingClientRect().right > 400).map(x => x.outerHTML.slice(0, 80))"
    )
    assert wider == []


def test_the_page_follows_the_dark_scheme(browser, show):
    colours = {}
    script = (
        "return [...document.querySelectorAll('body, fieldset, textarea, .token, .learned')]"
        ".flatMap(x => [getComputedStyle(x).color, getComputedStyle(x).backgroundColor])"
    )
    for scheme in ("light", "dark"):
        show(scheme=scheme)
        write(browser)
        colours[scheme] = set(browser.execute_script(script)) - {"rgba(0, 0, 0, 0)"}
    assert len(colours["light"]) >= 4
    assert not colours["light"] & colours["dark"]


def test_the_page_loads_nothing_else(browser, show, running):
    show()
    write(browser)
    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map(x => new URL(x.name).pathname)"
    )
    assert set(loaded) == {"/api/write"}
    status, text = running.client.get("/")
    assert status == 200 and "http" not in text.replace("http-equiv", "")
