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
def test_templates_are_filled(template, expected):
    assert fill(template) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{queston}",
            r"\{queston\} is not a field. .*The fields are: \{question\}, ",
        ),
        ("{}", r"\{\} is not a field"),
        ("{0}", r"\{0\} is not a field"),
        ("{question.upper}", r"\{question.upper\} is not a field"),
        ("{question[0]}", r"\{question\[0\]\} is not a field"),
        ("{question!r}", r"\{question!r\} is not a field"),
        ("{question:>9}", r"\{question:>9\} is not a field"),
        ("{question:{format}}", "is not a field"),
        ("\\boxed{", "literal brace twice"),
        ("a } b", "literal brace twice"),
        ("{question", "literal brace twice"),
    ],
)
def test_faulty_templates_are_refused_in_one_line(template, message):
    with pytest.raises(UserError, match=f"config.task.prompt.template: .*{message}") as caught:
        fill(template)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30))
def test_any_template_is_filled_or_refused(template):
    with contextlib.suppress(UserError):
        assert isinstance(fill(template), str)


@given(st.text(max_size=30))
def test_values_are_not_read_as_templates(value):
    assert wording.fill("<{question}>", {"question": value}) == f"<{value}>"


def test_examples_follow_the_configuration():
    config = PromptConfig(template="words", answer="tags", chat=True, prefill="<think>")
    writer = wording.Wording(config, WORDS, ("question",))
    example = writer.example("e/1", {"question": "1+1?"}, "2", {"gold": 2})
    assert example.prompt == f"Answer 1+1? {wording.ANSWER_FORMATS['tags']}"
    assert (example.target, example.meta) == ("<answer>2</answer>", {"gold": 2})
    assert (example.chat, example.prefill) == (True, "<think>")


def test_a_template_is_checked_at_once():
    with pytest.raises(UserError, match=r"\{gold\} is not a field"):
        wording.Wording(PromptConfig(template="{gold}"), WORDS, ("question",))
