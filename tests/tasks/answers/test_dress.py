import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffpo_jax.tasks.answers import dress


@pytest.mark.parametrize(
    "text",
    [
        "42",
        " 42\n",
        "42.",
        "**42**",
        "**42.**",
        "__42__",
        "`42`",
        "```42```",
        "$42$",
        "$$42$$",
        "$42$.",
        r"\(42\)",
        r"\[ 42 \]",
        '"42"',
        "“42”",
        r"\boxed{42}",
        r"$\boxed{42}$",
        r"\boxed{42",
        r"\text{42}",
        r"\textbf{42}",
        r"\mathrm{42}",
        r"\mbox{42}",
        "{42}",
        r"**\( \boxed{\text{42}} \)**.",
        "Answer: 42",
        "The final answer is: $42$",
        r"\displaystyle 42",
    ],
)
def test_what_only_presents_an_answer_is_taken_off(text):
    assert dress.remove(text) == "42"


@pytest.mark.parametrize(
    "text",
    [
        "$5$ or $6$",  # two answers
        r"\text{a} + \text{b}",
        "{1}+{2}",
        r"\{1,2\}",
        r"\$5",
        "2**3",
        "5...",
        r"\frac{1}{2}",
        "answers",
        r"$5\$",
        '"a" and "b"',
        "",
    ],
)
def test_what_is_part_of_an_answer_stays(text):
    assert dress.remove(text) == text


@given(
    st.text()
    | st.lists(st.sampled_from(["$", "**", "`", "{", "}", "\\text{", "1", " "])).map("".join)
)
@example("{" * 5000 + "}" * 5000)
@example("$" * 5000)
def test_any_text_is_stripped_and_bounded(text):
    bare = dress.remove(text)
    assert len(bare) <= len(text)
    assert bare in text


def test_dollars_that_are_a_currency_stay():
    assert dress.remove(r"$\$36$") == r"\$36"
    assert dress.remove(r"\boxed{\$5}") == r"\$5"
