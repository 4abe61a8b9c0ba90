import functools
import shutil
import types

import numpy as np
import pytest
import tokenizers as backends
import transformers
from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax.config import TokenizerConfig
from diffpo_jax.data import tokenizers
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.task import Example


@pytest.fixture(scope="module")
def digits():
    return tokenizers.make_tokenizer(TokenizerConfig())


def encode(tokenizer, text):
    return tokenizers.encode_all(tokenizer, [text], ["the text"])[0]


def test_ids_by_hand(digits):
    assert tokenizers.special_ids(digits) == tokenizers.SpecialIds(mask=1, pad=0, end=2)
    assert len(digits) == 13
    assert encode(digits, "0129") == [3, 4, 5, 12]
    assert encode(digits, "") == []
    assert tokenizers.decode(digits, [3, 4, 5, 12]) == "0129"


def test_special_and_unknown_ids_keep_the_texts_beside_them_apart(digits):
    ids = [0, 4, 1, 5, 13, 6, 999, 2, 2]
    assert tokenizers.decode(digits, ids) == "<|pad|>1<|mask|>2\ufffd3\ufffd<|end|><|end|>"
    assert tokenizers.decode_answer(digits, ids[1:]) == "1<|mask|>2\ufffd3\ufffd"
    assert tokenizers.decode(digits, np.array([4, 5], np.int32)) == "12"
    assert tokenizers.decode(digits, []) == ""


def test_ids_have_the_order_of_the_alphabet():
    tokenizer = tokenizers.make_tokenizer(TokenizerConfig(alphabet="b \na<|é"))
    assert encode(tokenizer, "a <|\né") == [6, 4, 7, 8, 5, 9]
    assert tokenizers.decode(tokenizer, [6, 4, 7, 8, 5, 9]) == "a <|\né"


@given(st.text("abc \n,.'<|>maskpden", max_size=60))
def test_a_text_is_decoded_to_itself(text):
    tokenizer = _broad()
    ids = encode(tokenizer, text)
    assert len(ids) == len(text)
    assert min(ids, default=3) >= 3  # "<|mask|>" spelled out is text
    assert tokenizers.decode(tokenizer, ids) == text


@functools.cache
def _broad():
    alphabet = "".join(sorted(set("abc \n,.'<|>maskpden")))
    return tokenizers.make_tokenizer(TokenizerConfig(alphabet=alphabet))


def test_many_texts_are_encoded_at_once(digits):
    names = ["a", "b", "c"]
    assert tokenizers.encode_all(digits, ["01", "", "2"], names) == [[3, 4], [], [5]]
    assert tokenizers.encode_all(digits, [], []) == []


@pytest.mark.parametrize("character", ["x", "\n", " ", "<", "\ud800", "\uff12"])
def test_unknown_characters_are_named(digits, character):
    with pytest.raises(UserError) as error:
        tokenizers.encode_all(digits, ["01", f"12{character}3"], ["the prompt", "example 7"])
    assert f"no token for the character {character!r} in example 7" in str(error.value)
    with pytest.raises(UserError, match="in the text"):
        encode(digits, character)


def test_all_unknown_characters_are_named_in_one_line(digits):
    names = ["the prompt", "example 7", "example 8"]
    with pytest.raises(
        UserError, match="characters 'x', 'y', 'é' in example 7 and others"
    ) as error:
        tokenizers.encode_all(digits, ["01", "1y2", "éxy"], names)
    assert "\n" not in str(error.value)


def test_the_alphabet_of_examples_has_every_character_once():
    examples = [Example("1", "2+1?", "3", prefill="="), Example("2", "2\n", "é")]
    assert tokenizers.alphabet_of(examples) == "\n+123=?é"
    with pytest.raises(UserError, match=r"alphabet=None means the characters of the training"):
        tokenizers.make_tokenizer(TokenizerConfig(alphabet=None))


def test_an_unknown_token_is_never_used_silently(digits):
    other = tokenizers.make_tokenizer(TokenizerConfig(alphabet="12?"))
    other.backend_tokenizer.model.unk_token = "?"
    other.unk_token = "?"
    assert other("1x", add_special_tokens=False)["input_ids"] == [3, 5]
    with pytest.raises(UserError, match="character 'x' in the text"):
        encode(other, "1x")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TokenizerConfig(alphabet=""), "config.tokenizer.alphabet must not be empty"),
        (TokenizerConfig(alphabet="01201"), "config.tokenizer.alphabet='01201' has '0' twice"),
        (TokenizerConfig(name="/no/such"), "config.tokenizer.name='/no/such' cannot be loaded"),
        (
            TokenizerConfig(name="x", kind="Nothing"),
            "kind='Nothing' is not a class",
        ),
    ],
)
def test_faulty_configurations_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        tokenizers.make_tokenizer(config)


@pytest.mark.parametrize("lacking", ["mask", "pad", "eos"])
def test_a_missing_special_id_is_an_error(lacking):
    ids = {f"{name}_token_id": 0 for name in ("mask", "pad", "eos") if name != lacking}
    tokenizer = types.SimpleNamespace(**ids, **{f"{lacking}_token_id": None})
    with pytest.raises(UserError, match=f"no {lacking.replace('eos', 'end')} token"):
        tokenizers.special_ids(tokenizer)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A byte-level BPE tokenizer like published ones, whose mask is an ordinary token."""
    special = ["<|pad|>", "<|hide|>", "<|text_end|>", "<|turn_end|>"]
    backend = backends.Tokenizer(backends.models.BPE())
    backend.pre_tokenizer = backends.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = backends.decoders.ByteLevel()
    alphabet = backends.pre_tokenizers.ByteLevel.alphabet()
    trainer = backends.trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["the answer is 12", "the sum of 1 and 11"], trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    fast.chat_template = "{% for m in messages %}{{ m.content }}<|turn_end|>{% endfor %}"
    where = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(where)
    return str(where)


NAMED = {"mask": "<|hide|>", "pad": "<|pad|>", "ends": ("<|text_end|>", "<|turn_end|>")}


def test_the_special_tokens_of_a_saved_tokenizer_may_be_named(saved):
    tokenizer = tokenizers.make_tokenizer(TokenizerConfig(name=saved, **NAMED))
    assert tokenizers.special_ids(tokenizer) == tokenizers.SpecialIds(mask=1, pad=0, end=2)
    assert tokenizers.end_ids(tokenizer) == (2, 3)
    ids = encode(tokenizer, "the answer é\n")
    assert tokenizers.decode(tokenizer, ids) == "the answer é\n"
    assert tokenizers.decode_answer(tokenizer, [*ids, 3, *ids, 2]) == "the answer é\n"
    assert tokenizers.token_text(tokenizer, 1) == "<|hide|>"
    chat = tokenizers.format_chat(tokenizer, ["12"])[0]
    assert encode(tokenizer, chat)[-1] == 3


def test_an_unknown_model_family_causes_no_warning(saved, tmp_path, caplog):
    shutil.copytree(saved, tmp_path / "llada")
    (tmp_path / "llada" / "config.json").write_text('{"model_type": "llada"}')
    name = str(tmp_path / "llada")
    tokenizers.make_tokenizer(TokenizerConfig(name=name, **NAMED))
    assert not caplog.records
    transformers.AutoTokenizer.from_pretrained(name)
    assert "model of type `llada`" in caplog.text  # the warning exists


def test_the_class_may_be_named(saved):
    config = TokenizerConfig(name=saved, kind="PreTrainedTokenizerFast", **NAMED)
    assert len(tokenizers.make_tokenizer(config)) == len(
        tokenizers.make_tokenizer(TokenizerConfig(name=saved, **NAMED))
    )


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (NAMED | {"mask": ""}, "has no mask token.* name it in config.tokenizer.mask"),
        (NAMED | {"ends": ()}, "has no end token.* name it in config.tokenizer.ends"),
        (NAMED | {"mask": "<mask>"}, "config.tokenizer.mask: .* has no token '<mask>'"),
        (NAMED | {"ends": ("<|text_end|>", "x y")}, "config.tokenizer.ends: .* no token 'x y'"),
    ],
)
def test_missing_special_tokens_are_refused(saved, named, message):
    with pytest.raises(UserError, match=message):
        tokenizers.make_tokenizer(TokenizerConfig(name=saved, **named))


def test_a_mask_token_that_is_lacking_is_added_under_its_id(saved):
    plain = tokenizers.make_tokenizer(TokenizerConfig(name=saved, **NAMED))
    free = len(plain)
    config = TokenizerConfig(name=saved, **NAMED | {"mask": "<|mask|>", "mask_id": free})
    tokenizer = tokenizers.make_tokenizer(config)
    assert (tokenizers.special_ids(tokenizer).mask, len(tokenizer)) == (free, free + 1)
    assert tokenizers.decode(tokenizer, [free]) == "<|mask|>"
    assert encode(tokenizer, "the answer é\n") == encode(plain, "the answer é\n")
    named = tokenizers.make_tokenizer(TokenizerConfig(name=saved, **NAMED, mask_id=1))
    assert (tokenizers.special_ids(named).mask, len(named)) == (1, free)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (
            {"mask_id": 2},
            "token '<|hide|>' of PLACE has the id 1, and 2 is '<|text_end|>'. If that",
        ),
        (
            {"mask": "<|mask|>", "mask_id": 999},
            "token '<|mask|>' of PLACE has the id FREE. If another token",
        ),
    ],
)
def test_another_id_of_the_mask_token_is_refused(saved, named, message):
    free = len(tokenizers.make_tokenizer(TokenizerConfig(name=saved, **NAMED)))
    with pytest.raises(UserError) as caught:
        tokenizers.make_tokenizer(TokenizerConfig(name=saved, **NAMED | named))
    place = f"config.tokenizer.name={saved!r}"
    assert str(caught.value) == (
        f"config.tokenizer.mask_id={named['mask_id']}, but the mask "
        + message.replace("PLACE", place).replace("FREE", str(free))
        + " is the model's mask, name it in config.tokenizer.mask."
    )


def test_a_chat_template_gets_its_arguments(saved, tmp_path):
    fast = transformers.AutoTokenizer.from_pretrained(saved)
    fast.chat_template = (
        "{{ messages[0].content }}{% if thinks is defined and thinks is false %}!{% endif %}"
        "{{ style | default('') }}"
    )
    fast.save_pretrained(tmp_path)

    def chat(*arguments):
        config = TokenizerConfig(name=str(tmp_path), **NAMED, chat_arguments=arguments)
        return tokenizers.format_chat(tokenizers.make_tokenizer(config), ["12"])

    assert chat() == ["12"]
    assert chat("thinks=True") == ["12"]
    assert chat("thinks=False", "style=brief") == ["12!brief"]
    with pytest.raises(UserError, match=r"chat_arguments: 'thinks' must have the form name=value"):
        chat("thinks")


def test_a_hub_name_may_have_a_revision(monkeypatch):
    asked = []

    def load(name, **settings):
        asked.append((name, settings.get("revision")))
        raise OSError("no network")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", load)
    for name in ("owner/name@abc", "owner/name"):
        with pytest.raises(UserError, match="cannot be loaded: no network"):
            tokenizers.make_tokenizer(TokenizerConfig(name=name))
    assert asked == [("owner/name", "abc"), ("owner/name", None)]
