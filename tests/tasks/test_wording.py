"""Templates of prompts, and the mistakes in them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax.config import PromptConfig
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks import wording

FIELDS = {"question": "1+1?", "format": "Be brief."}
WORDS = "Answer {question} {format}"  # a task's own instructions


def fill(template):
    return wording.fill(template, FIELDS)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{question}", "1+1?"),
        ("words", "words"),
        ("words {question}", "words 1+1?"),
        ("", ""),
        (r"\boxed{{{question}}} {{}}", r"\boxed{1+1?} {}"),
        ("{question}{question}", "1+1?1+1?"),
    ],
)
def test_filling(template, expected):
    assert fill(template) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{queston}",
            r"\{queston\} is no field. The fields there are: \{question\}, ",
        ),
        ("{}", r"\{\} is no field"),
        ("{0}", r"\{0\} is no field"),
        ("{question.upper}", r"\{question.upper\} is no field"),
        ("{question[0]}", r"\{question\[0\]\} is no field"),
        ("{question!r}", r"\{question!r\} is no field"),
        ("{question:>9}", r"\{question:>9\} is no field"),
        ("{question:{format}}", "is no field"),
        ("\\boxed{", "written twice"),
        ("a } b", "written twice"),
        ("{question", "written twice"),
    ],
)
def test_mistakes_in_templates(template, message):
    with pytest.raises(UserError, match=f"config.task.prompt.template: .*{message}") as caught:
        fill(template)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30))
def test_any_template_is_filled_or_refused_in_words(template):
    with contextlib.suppress(UserError):
        assert isinstance(fill(template), str)


@given(st.text(max_size=30))
def test_values_are_never_templates(value):
    assert wording.fill("<{question}>", {"question": value}) == f"<{value}>"


def test_examples():
    config = PromptConfig(template="words", answer="tags", chat=True, prefill="<think>")
    writer = wording.Wording(config, WORDS, ("question",))
    example = writer.example("e/1", {"question": "1+1?"}, "2", {"gold": 2})
    assert example.prompt == f"Answer 1+1? {wording.ANSWER_FORMATS['tags']}"
    assert (example.target, example.meta) == ("<answer>2</answer>", {"gold": 2})
    assert (example.chat, example.prefill) == (True, "<think>")


def test_a_template_is_checked_before_there_are_examples():
    with pytest.raises(UserError, match=r"\{gold\} is no field"):
        wording.Wording(PromptConfig(template="{gold}"), WORDS, ("question",))
