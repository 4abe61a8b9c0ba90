"""What a row has written as text: where it ends, and how many tokens it has."""

import numpy as np
import pytest

from diffpo_jax.config import TokenizerConfig
from diffpo_jax.data import tokenizers
from diffpo_jax.serving.batch import Written
from diffpo_jax.serving.refusal import Refusal
from diffpo_jax.serving.texts import Answer, Texts

END = 2  # after the end of a text, see `tokenizers.make_tokenizer`
TEXTS = Texts(tokenizers.make_tokenizer(TokenizerConfig(alphabet="abc\n")), 4)


def written(*tokens):
    zeros = np.zeros(len(tokens))
    return Written(
        np.array(tokens), np.ones(len(tokens), int), zeros, zeros, 1, 1, 0.1, 0.1, False, True
    )


@pytest.mark.parametrize(
    ("tokens", "most", "stop", "expected"),
    [
        ((3, 4, 5, 3), 4, (), Answer("abca", 4, False)),
        ((3, 4, 5, 3), 2, (), Answer("ab", 2, False)),
        ((3, END, END, END), 4, (), Answer("a", 2, True)),
        ((3, END, 4, END), 4, (), Answer("a", 2, True)),
        ((3, END, END, END), 1, (), Answer("a", 1, False)),
        ((END, END, END, END), 4, (), Answer("", 1, True)),
        ((3, 6, 4, 6), 4, ("\n",), Answer("a", 4, True)),
        ((3, 4, 5, 3), 4, ("ca", "b"), Answer("a", 4, True)),
        ((3, 4, 5, 3), 4, ("x",), Answer("abca", 4, False)),
    ],
)
def test_the_text_ends_before_an_end_and_a_stop(tokens, most, stop, expected):
    assert TEXTS.answer(written(*tokens), most, stop) == expected


def test_prompts():
    tokens, mask = TEXTS.encode(["a", "bc"])
    assert tokens.tolist() == [[0, 0, 0, 3], [0, 0, 4, 5]]
    assert mask.sum(axis=1).tolist() == [1, 2]
    again, _ = TEXTS.encode([[3], [4, 5]])
    assert again.tolist() == tokens.tolist()
    for prompts, message in (
        (["abcab"], "Prompt 1 has 5 tokens, more than config.sampler.prompt_length=4"),
        (["a", "x"], "'x' in prompt 2"),
        ([[3], []], "prompt 2 is empty"),
        ([[7]], "token id 7: the tokenizer has the ids 0 to 6"),
        ([[-1]], "token id -1"),
        ([[1]], "mask token"),
    ):
        with pytest.raises(Refusal, match=message):
            TEXTS.encode(prompts)


def test_tokens_have_texts_or_names():
    assert [TEXTS.piece(i) for i in (3, 6, END)] == ["a", "\n", "<|end|>"]
