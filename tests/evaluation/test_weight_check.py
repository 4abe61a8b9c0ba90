"""The check of weights on tiny networks that know its sentences, each in a way of its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_weights import MODEL, SENTENCES, SPARE, TOKENIZER, make, trained

from diffpo_jax.config import TokenizerConfig
from diffpo_jax.data import tokenizers
from diffpo_jax.evaluation import weight_check


def check(params, **fields):
    model = dataclasses.replace(MODEL, **fields)
    return weight_check.check(make(model), params, TOKENIZER, model)


def with_embedding(change):
    params = trained("own")
    denoiser = params["denoiser"]
    return params | {"denoiser": denoiser | {"embed": change(denoiser["embed"])}}


@pytest.mark.parametrize("shift, kind", [(0, "own"), (1, "next")])
def test_a_model_that_predicts_hidden_words_is_told_from_one_read_with_the_other_shift(shift, kind):
    good = check(trained(kind), logit_shift=shift)
    assert good.ok and "are predicted" in good.text
    assert good.losses[f"shift {shift}"] < 1 < 3 < good.losses[f"shift {1 - shift}"]
    bad = check(trained(kind), logit_shift=1 - shift)
    assert bad.ok is False
    assert f"config.model.logit_shift={shift}" in bad.text
    assert ("predict the next position" in bad.text) == (shift == 1)
    assert "config.model.family" not in bad.text  # no other has Qwen3's tensors


def test_families_with_the_same_tensors_and_the_other_shift_are_named():
    bad = check(trained("next"), family="a2d_qwen2")
    assert "logit_shift=1, or config.model.family to dream or open_dcoder." in bad.text


def test_a_network_that_writes_from_left_to_right_has_to_be_converted():
    for shift in (0, 1):
        found = check(trained("left to right"), logit_shift=shift)
        assert found.ok is False and "from left to right" in found.text
        assert "From an autoregressive checkpoint" in found.text
        assert found.losses["left to right"] < 1


def test_random_weights_know_no_more_than_a_guess():
    found = check(trained("nothing"))
    assert found.ok is False and "no more than a guess" in found.text
    assert found.losses["guess"] == pytest.approx(np.log(len(TOKENIZER)))


def test_weights_that_are_not_finite_are_damaged():
    found = check(with_embedding(lambda x: x.at[7].set(jnp.nan)))
    assert found.ok is False and "not finite" in found.text


def test_a_mask_that_is_another_token_is_named():
    spare = TOKENIZER.convert_tokens_to_ids(SPARE)
    found = check(with_embedding(lambda x: x.at[1].set(x[spare]).at[spare].set(x[1])))
    assert found.ok is False and "Another token is the mask" in found.text
    assert f"{spare} ({SPARE}) in place of 1" in found.text


def test_a_mask_without_an_embedding_was_never_trained():
    found = check(with_embedding(lambda x: x.at[1].multiply(-0.01)))
    assert found.ok is False and "mask token's embedding was never trained" in found.text
    assert found.losses["norm of the mask's embedding"] < 0.1


def test_a_head_that_should_be_the_embedding_is_found():
    params = trained("own")
    head = 0.3 * jax.random.normal(jax.random.key(5), params["denoiser"]["embed"].T.shape)
    found = check(params | {"denoiser": params["denoiser"] | {"unembed": head}}, tied=False)
    assert found.ok is False and "The embedding should also give the logits" in found.text


def test_a_wrong_base_of_the_rotary_embedding_is_found():
    for base in (1.5, 1e6):  # the second leaves much of what it knows
        found = check(trained("own"), rope_theta=base)
        assert found.ok is False and f"10000 in place of {base:g}" in found.text
    assert found.losses["shift 0"] < np.log(len(TOKENIZER)) / 2


def test_a_model_that_knows_its_task_alone_is_let_pass(monkeypatch):
    rows, first = weight_check.ordinary_rows(TOKENIZER), slice(None, 8)
    parts = rows.tokens[:, first], rows.mask[:, first], rows.tokens[:, 8:]
    shown = weight_check.demonstrated_rows(*parts, end=TOKENIZER.eos_token_id)
    assert not shown.hidden[:, first].any()
    np.testing.assert_array_equal(shown.hidden.sum(axis=1), np.ceil(0.2 * parts[2].shape[1]))
    mixed = [" ".join(np.random.default_rng(0).permutation(x.split())) for x in SENTENCES]
    monkeypatch.setattr(weight_check, "SENTENCES", mixed)
    assert not check(trained("own")).ok
    found = weight_check.check(
        make(), trained("own"), TOKENIZER, MODEL, demonstrations=lambda: shown
    )
    assert found.ok and "the task's answers" in found.text


def test_the_end_of_text_behind_an_answer_is_not_hidden():
    target = np.array([[5, 6, 7, 2, 2, 2, 2, 2, 2, 2]])
    rows = weight_check.demonstrated_rows(np.array([[4]]), np.array([[True]]), target, end=2)
    assert rows.hidden.sum() == 1 and rows.hidden[0, 1:4].sum() == 1
    assert rows.mask.all()


def test_a_tokenizer_without_letters_has_no_sentences():
    digits = tokenizers.make_tokenizer(TokenizerConfig())
    assert weight_check.check(make(), trained("own"), digits, MODEL) is None


def test_hidden_words_are_a_fifth_of_each_sentence_and_never_its_first():
    rows = weight_check.ordinary_rows(TOKENIZER)
    count = rows.mask.sum(axis=1) - 1
    np.testing.assert_array_equal(rows.hidden.sum(axis=1), np.ceil(0.2 * count))
    first = rows.mask & (np.cumsum(rows.mask, axis=1) == 1)
    assert not (rows.hidden & (first | ~rows.mask)).any()


def test_the_opening_is_completed_by_the_words_that_the_model_finds_most_probable():
    found = check(trained("own"))
    assert len(found.completion.split()) == 8
    assert found.line().endswith(f"'The capital of France is' goes on with {found.completion!r}.")
