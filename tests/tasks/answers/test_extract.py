"""The places of answers, by our rules and by those of d1."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax.tasks.answers import extract
from diffpo_jax.tasks.d1 import answers as d1_answers

PIECES = ["<answer>", "</answer>", "\\boxed{", "\\boxed ", "\\fbox{", "{", "}", "\\", "$", "\n"]
TEXTS = st.lists(st.sampled_from([*PIECES, "a", "1", " ", "é"]), max_size=14).map("".join)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>1</answer>", "1"),
        ("<answer> 1\n</answer> or <answer>2</answer>!", "2"),
        ("<answer>1</answer> or <answer>2", "1"),  # the second is not closed
        ("<answer>a<answer>b</answer>c</answer>", "b"),  # the inner pair
        ("</answer><answer>1</answer>", "1"),
        ("<answer></answer>", None),
        ("<answer>5</answer> so <answer> </answer>", "5"),  # the second holds nothing
        ("<answer>1", None),
        ("1</answer>", None),
        ("<ANSWER>1</ANSWER>", None),
        ("", None),
    ],
)
def test_the_last_closed_tag_is_read(text, expected):
    assert extract.last_tag(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{1}", "1"),
        (r"so \boxed{ \frac{1}{2} }.", r"\frac{1}{2}"),
        (r"\boxed{1} or \fbox{2}", "2"),
        (r"\boxed {3}", "3"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{1\right.}", r"\left\{1\right."),  # an escaped brace closes nothing
        (r"\boxed{a \boxed{b}}", "b"),
        (r"\boxed{1} \boxed{2", "1"),  # the second is not closed
        (r"\boxed{5}. Final answer is in \boxed{}.", "5"),
        (r"\boxed{}", None),
        (r"\boxed{", None),
        (r"\boxed 5", "5"),
        (r"\boxed5.", "5"),
        (r"so $\boxed 12$ apples", "12"),
        (r"\boxed\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed \frac 12, or", r"\frac 12"),
        (r"\(\boxed-5\)", "-5"),
        (r"<answer>\boxed5</answer>", "5"),
        (r"\boxedfoo{1}", None),
        ("boxed{1}", None),
        ("", None),
    ],
)
def test_the_last_closed_box_is_read(text, expected):
    assert extract.last_boxed(text) == expected


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        (" 1 \n", "text", "1"),
        (" \n", "text", None),
        (r"<answer>1</answer> \boxed{2}", "text", r"<answer>1</answer> \boxed{2}"),
        (r"<answer>1</answer> \boxed{2}", "tags", "1"),
        (r"<answer>1</answer> \boxed{2}", "boxed", "2"),
        (r"<answer>1 \boxed{2}", "tags", "2"),
        (r"<answer>1</answer> \boxed{2", "boxed", "1"),
        (r"<answer></answer> \boxed{5}", "tags", "5"),
        ("<answer>5</answer> x <answer>\\boxed{}</answer>", "tags", "5"),
        ("<answer>\\boxed{ }</answer> \\boxed{5}", "tags", "5"),
        ("\\boxed{5} \\boxed{\\text{}}", "boxed", "5"),
        ("\\boxed{5} \\boxed{\\,}", "boxed", "5"),
        ("\\boxed{5}. I put it in \\boxed as asked", "boxed", "5"),
        ("\\boxed{\\boxed{}}", "boxed", None),
        ("<answer>**</answer>", "tags", None),
        ("\\boxed{5}" + "\\boxed{}" * 12, "boxed", "5"),
        (r"<answer>It is \( \boxed{3} \) inches.</answer>", "tags", "3"),
        (r"<answer>\boxed{28</answer>", "tags", r"\boxed{28"),
        (r"\boxed{} <answer>5</answer>", "boxed", "5"),
        ("12", "tags", None),
        ("12", "boxed", None),
    ],
)
def test_the_configured_place_is_read_first(text, kind, expected):
    assert extract.read(text, kind) == expected


@given(st.text("ab(){}1 ", max_size=8).map(str.strip), st.sampled_from(["text", "tags", "boxed"]))
def test_a_marked_answer_is_read_back(answer, kind):
    depth = 0
    for character in answer:  # a box cannot hold braces that do not match
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return
    if depth == 0:
        nothing = kind != "text" and not answer.strip("{} ")
        expected = None if nothing else answer or None
        assert extract.read(extract.mark(answer, kind), kind) == expected


@given(TEXTS | st.text(max_size=40))
def test_any_text_is_read(text):
    for kind in ("text", "tags", "boxed"):
        assert isinstance(extract.read(text, kind), str | None)
        extract.is_marked(text, kind)


@given(TEXTS)
def test_d1s_tags_are_those_of_its_regular_expression(text):
    expected = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    assert d1_answers.spans(text) == [found.strip() for found in expected]
    assert d1_answers.first_tag(text) == (expected[0].strip() if expected else None)
    assert d1_answers.last_tag(text) == (expected[-1].strip() if expected else None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{1} and \boxed{2+{3}} end", "2+{3}"),
        (r"\boxed 5 and more$ not this", "5 and more"),
        (r"\boxed{1} \boxed 2", "2"),
        (r"\boxed 2 \boxed{1}", r"2 \boxed{1}"),  # the form with a space wins, wherever it is
        (r"\fbox{7}", r"\fbox{7}"),  # read with its command
        (r"\boxed{1} \fbox{7}", "1"),
        (r"\boxed{1", None),
        (r"\boxed} {1}", None),  # brackets that close first never balance
        ("3+4", "3+4"),
        ("", ""),
    ],
)
def test_d1s_boxes_by_hand(text, expected):
    assert d1_answers.boxed(text) == expected


@given(TEXTS | st.text(max_size=40))
def test_any_text_has_a_box_or_none_by_d1(text):
    assert isinstance(d1_answers.boxed(text), str | None)
