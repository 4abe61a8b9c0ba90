import json
import re

import pytest

from diffpo_jax.report import decode_order
from diffpo_jax.report.decode_order import Completion, as_text
from diffpo_jax.report.page import completions_page

END = "<|end|>"
ONE = Completion(
    prompt="what <b>?",
    pieces=["a", "<script>", "&", "<|end|>"],
    calls=[2, 1, 2, 3],
    sampled=[True, True, True, False],
    probabilities=[0.5, 0.25, 1.0, 1.0],
    entropies=[0.7, 1.1, 0.0, 0.0],
    text="a<script>&",
    nfe=2,
    dial="gamma",
    value=0.125,
    forced=False,
)


BOARD = {"columns": 2, "box": 0, "given": [0], "wrong": [1, 3], "verdict": "2 are wrong."}


def laid_out(pieces, text, start=0, **layout):
    one = ONE._replace(pieces=pieces, text=text)
    found = decode_order.with_layout(one, start, **BOARD | layout)
    return found.columns, found.given, found.wrong, found.verdict


def test_a_board_has_a_cell_for_every_token():
    assert laid_out(list("1221"), "1221") == (2, [0], [1, 3], "2 are wrong.")
    # A text that was cut short lacks cells, which are marked all the same.
    assert laid_out([*"12", END, "."], "12") == (2, [0], [1, 3], "2 are wrong.")


def test_marks_fall_on_the_tokens_that_hold_the_characters():
    assert laid_out(["12", "2", "1", END], "1221") == (0, [0], [0, 2], "2 are wrong.")
    # The prefill is in the text, but no token; its characters are not marked.
    assert laid_out(list("221"), "1221", start=1) == (0, [], [0, 2], "2 are wrong.")


def test_tokens_that_do_not_spell_the_text_have_no_marks():
    assert laid_out(["1", "\N{REPLACEMENT CHARACTER}"], "1é") == (0, (), (), "2 are wrong.")


def test_a_page_marks_what_is_given_and_what_is_wrong():
    one = ONE._replace(pieces=list("1221"), text="1221", sampled=[True] * 4)
    page = completions_page([decode_order.with_layout(one, 0, **BOARD)])
    assert re.findall(r'class="token ([a-z ]*)" data-call', page) == [
        "given ",
        "wrong ",
        "",
        "wrong ",
    ]
    assert 'class="tokens board"' in page and 'data-columns="2"' in page
    assert "“2”, probability 0.250, entropy 1.100 nats, wrong" in page
    assert "2 are wrong." in page


def test_plain_text_gives_the_call_of_every_token_that_was_sampled():
    assert as_text(ONE, colour=False).splitlines() == [
        "prompt      what <b>?",
        "completion  a<script>&",
        "            3 tokens in 2 calls (1.50 per call), gamma 0.125 nats",
        "by call     a[2]<script>[1]&[2]",
        "",
    ]


def test_the_cap_on_calls_and_another_rules_dial_are_named():
    line = as_text(ONE._replace(forced=True, dial="steps", value=2.0), colour=False).splitlines()[2]
    numbers = "3 tokens in 2 calls (1.50 per call), steps 2, cut short by the cap on calls"
    assert line.strip() == numbers


def test_tokens_of_the_same_call_have_the_same_colour():
    *_, tokens, legend = as_text(ONE, colour=True).rstrip("\n").splitlines()
    painted = re.findall(r"\x1b\[48;2;([\d;]+)m\x1b\[30m(.*?)\x1b\[0m", tokens)
    assert [text for _, text in painted] == ["a", "<script>", "&"]
    (second, _), (first, _), (third, _) = painted
    assert second == third != first
    of_call = re.findall(r"\x1b\[48;2;([\d;]+)m\x1b\[30m (\d+) \x1b\[0m", legend)
    assert of_call == [(first, "1"), (second, "2")]


def test_colours_do_not_change_if_each_call_made_two_passes():
    guided = ONE._replace(nfe=4)
    plain, other = (as_text(x, colour=True).splitlines()[-3:] for x in (ONE, guided))
    assert plain == other
    assert "3 tokens in 4 calls" in as_text(guided, colour=False)
    tokens = [re.findall(r"--late: ([\d.]+)", completions_page([x])) for x in (ONE, guided)]
    assert tokens[0] == tokens[1] == ["1.0", "0.0", "1.0", "1.0"]


def test_the_page_escapes_completions_and_holds_them_as_json():
    page = completions_page([ONE, ONE._replace(prompt="second")])
    assert "<script>&" not in page
    assert "what &lt;b&gt;?" in page
    assert page.count("<section") == 2
    calls = re.findall(r'<span role="option"[^>]* data-call="(\d)"', page)
    assert calls == ["2", "1", "2", "3"] * 2
    label = "“&lt;script&gt;”, probability 0.250, entropy 1.100 nats"
    assert f'aria-label="{label}"' in page
    assert 'aria-label="filled in after the end"' in page
    assert set(re.findall(r'(?:src|href)="(.*?)"', page)) == {"data:,"}  # loads nothing
    assert "</span></span><span" in page  # no spaces between tokens
    assert "</span></span> " not in page
    data = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)[1]
    assert json.loads(data)[0] == json.loads(json.dumps(ONE._asdict()))


@pytest.mark.parametrize("calls", [1, 2, 7, 500])
def test_every_number_of_calls_has_colours(calls):
    one = ONE._replace(calls=[1, calls, max(calls // 2, 1), calls + 1], nfe=calls)
    assert f"[{calls}]" in as_text(one, colour=False)
    shares = re.findall(r"--late: ([\d.]+)", completions_page([one]))
    assert float(shares[0]) == 0 and all(0 <= float(x) <= 1 for x in shares)


@pytest.mark.parametrize("colour", [False, True])
def test_texts_cannot_act_on_the_terminal(colour):
    evil = "\x1b]52;c;ZXZpbA==\x07\x9b2J"
    one = ONE._replace(prompt=evil, text=evil, pieces=[evil, "\x1b", "\r", "x"])
    shown = as_text(one, colour=colour)
    own = re.sub("\x1b\\[(0|30|48;2;[0-9;]+)m", "", shown)  # the colours of the calls
    assert not set("\x1b\x07\x9b\r") & set(own)
    assert shown.count(r"\x1b]52;c;ZXZpbA==\x07\x9b2J") == 3


@pytest.mark.parametrize(
    "text",
    ["{sections}", "{{ records }}", "{% raw %}", "</script><script>x()</script>", "<!--<script>"],
)
def test_no_text_breaks_the_data_of_a_page(text):
    page = completions_page([ONE._replace(prompt=text, text=text, pieces=[text, "b", "c", "d"])])
    (data,) = re.findall(r'<script type="application/json" [^>]*>(.*?)</script>', page, re.S)
    assert json.loads(data)[0]["prompt"] == text
    assert page.count("<script") == 2 and "<!--" not in page


def test_a_page_of_what_is_no_utf_8_can_be_written():
    assert "a?b" in completions_page([ONE._replace(prompt="a\udcffb")]).encode().decode()
