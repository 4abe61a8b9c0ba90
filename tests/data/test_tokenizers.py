import functools
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax.config import TokenizerConfig
from diffpo_jax.data import tokenizers
from diffpo_jax.errors import UserError


@pytest.fixture(scope="module")
def digits():
    return tokenizers.make_tokenizer(TokenizerConfig())


def test_ids_by_hand(digits):
    assert tokenizers.special_ids(digits) == tokenizers.SpecialIds(mask=1, pad=0, end=2)
    assert len(digits) == 13
    assert tokenizers.encode(digits, "0129") == [3, 4, 5, 12]
    assert tokenizers.encode(digits, "") == []
    assert tokenizers.decode(digits, [3, 4, 5, 12]) == "0129"


def test_special_and_unknown_ids_leave_no_trace(digits):
    assert tokenizers.decode(digits, [0, 4, 1, 5, 2, 2, 13, 999]) == "12"
    assert tokenizers.decode(digits, np.array([4, 5], np.int32)) == "12"
    assert tokenizers.decode(digits, []) == ""


def test_the_order_of_the_alphabet_is_the_order_of_ids():
    tokenizer = tokenizers.make_tokenizer(TokenizerConfig(alphabet="b \na<|é"))
    assert tokenizers.encode(tokenizer, "a <|\né") == [6, 4, 7, 8, 5, 9]
    assert tokenizers.decode(tokenizer, [6, 4, 7, 8, 5, 9]) == "a <|\né"


@given(st.text("abc \n,.'<|>maskpden", max_size=60))
def test_text_survives(text):
    tokenizer = _broad()
    ids = tokenizers.encode(tokenizer, text)
    assert len(ids) == len(text)
    assert min(ids, default=3) >= 3  # "<|mask|>" spelled out is text
    assert tokenizers.decode(tokenizer, ids) == text


@functools.cache
def _broad():
    alphabet = "".join(sorted(set("abc \n,.'<|>maskpden")))
    return tokenizers.make_tokenizer(TokenizerConfig(alphabet=alphabet))


def test_many_texts_at_once(digits):
    names = ["a", "b", "c"]
    assert tokenizers.encode_all(digits, ["01", "", "2"], names) == [[3, 4], [], [5]]
    assert tokenizers.encode_all(digits, [], []) == []


@pytest.mark.parametrize("character", ["x", "\n", " ", "<", "\ud800", "\uff12"])
def test_unknown_characters_are_named(digits, character):
    with pytest.raises(UserError) as error:
        tokenizers.encode_all(digits, ["01", f"12{character}3"], ["the prompt", "example 7"])
    assert f"no token for the character {character!r} in example 7" in str(error.value)
    with pytest.raises(UserError, match="in the text"):
        tokenizers.encode(digits, character)


def test_an_unknown_token_is_never_used_silently(digits):
    other = tokenizers.make_tokenizer(TokenizerConfig(alphabet="12?"))
    other.backend_tokenizer.model.unk_token = "?"
    other.unk_token = "?"
    assert other("1x", add_special_tokens=False)["input_ids"] == [3, 5]
    with pytest.raises(UserError, match="character 'x' in the text"):
        tokenizers.encode(other, "1x")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TokenizerConfig(alphabet=""), "config.tokenizer.alphabet is empty"),
        (TokenizerConfig(alphabet="01201"), "config.tokenizer.alphabet='01201' holds '0' twice"),
        (TokenizerConfig(name="word"), "config.tokenizer.name='word' is unknown; use one of: char"),
    ],
)
def test_bad_configuration(config, message):
    with pytest.raises(UserError, match=message):
        tokenizers.make_tokenizer(config)


@pytest.mark.parametrize("lacking", ["mask", "pad", "eos"])
def test_special_ids_must_be_there(lacking):
    ids = {f"{name}_token_id": 0 for name in ("mask", "pad", "eos") if name != lacking}
    tokenizer = types.SimpleNamespace(**ids, **{f"{lacking}_token_id": None})
    with pytest.raises(UserError, match=f"no {lacking.replace('eos', 'end')} token"):
        tokenizers.special_ids(tokenizer)
