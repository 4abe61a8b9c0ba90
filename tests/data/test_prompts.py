import functools
import itertools
import json

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tokenizers as backends
import transformers

from diffpo_jax.config import PromptConfig, TokenizerConfig
from diffpo_jax.data import prompts, tokenizers
from diffpo_jax.system.errors import UserError
from diffpo_jax.tasks.task import Example

TOKENIZER = tokenizers.make_tokenizer(TokenizerConfig())
EXAMPLES = [Example(f"e/{i}", f"{i:04d}"[-(i % 4 + 1) :], f"{i:02d}") for i in range(10)]

stream = functools.partial(
    prompts.make_iterator, EXAMPLES, TOKENIZER, prompt_length=6, length=3, batch=4, seed=7
)
in_order = functools.partial(
    prompts.batches_in_order, tokenizer=TOKENIZER, prompt_length=6, length=3
)


def encode(example, tokenizer=TOKENIZER, *, index=0, **lengths):
    """One row of a batch."""
    batch = prompts.encode_examples([example], tokenizer, indices=[index], **lengths)
    return prompts.EncodedBatch(*(array[0] for array in batch))


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        for array, expected in zip(batch, other):
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)


def test_one_example_by_hand():
    row = encode(Example("e", "120", "07"), index=5, prompt_length=5, length=4)
    assert row.index == 5
    assert row.tokens.tolist() == [0, 0, 4, 5, 3]  # pad is 0, digit d is d + 3
    assert row.mask.tolist() == [False, False, True, True, True]
    assert row.target.tolist() == [3, 10, 2, 2]  # end is 2


def test_full_and_empty_rows():
    full = encode(Example("e", "12", "34"), prompt_length=2, length=2)
    assert full.tokens.tolist() == [4, 5] and full.mask.all() and full.target.tolist() == [6, 7]
    empty = encode(Example("e", "", ""), prompt_length=2, length=2)
    assert not empty.mask.any() and empty.target.tolist() == [2, 2]


def test_batches_have_fixed_shapes_and_types():
    batch = next(stream())
    assert isinstance(batch, prompts.EncodedBatch)
    assert [a.dtype for a in batch] == [np.int64, np.int32, np.bool_, np.int32]
    assert [a.shape for a in batch] == [(4,), (4, 6), (4, 6), (4, 3)]


def test_the_stream_has_the_rows_that_index_names():
    for batch in take(stream(), 5):
        for index, *row in zip(*batch):
            expected = encode(EXAMPLES[index], index=index, prompt_length=6, length=3)
            assert_same([row], [expected[1:]])


def test_every_epoch_has_all_examples_in_its_own_order():
    order = np.concatenate([batch.index for batch in take(stream(), 10)]).reshape(4, 10)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(10), (4, 1)))
    assert len({tuple(epoch) for epoch in order.tolist()}) == 4


def test_the_seed_decides_the_order():
    assert_same(take(stream(), 6), take(stream(), 6))
    orders = [np.concatenate([b.index for b in take(stream(seed=s), 3)]) for s in (0, 1, 2**40)]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(orders, 2))


def test_a_batch_may_be_larger_than_the_data():
    batch = next(stream(batch=23))
    assert sorted(np.bincount(batch.index).tolist()) == [2] * 7 + [3] * 3


@pytest.mark.parametrize("taken", [0, 1, 4, 7])
def test_a_resumed_stream_equals_an_uninterrupted_one(taken):
    iterator = stream()
    take(iterator, taken)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = take(iterator, 6)
    other = stream()
    take(other, 2)
    other.set_state(state)
    assert_same(take(other, 6), expected)
    iterator.set_state(state)  # back in time on the same iterator
    assert_same(take(iterator, 6), expected)


def test_a_stream_resumes_from_an_orbax_checkpoint(tmp_path):
    iterator = stream()
    expected = {}
    with ocp.CheckpointManager(tmp_path) as manager:
        for step in (1, 2):
            take(iterator, 3)
            arguments = ocp.args.Composite(
                data=grain.checkpoint.CheckpointSave(iterator),
                step=ocp.args.JsonSave({"step": step}),
            )
            manager.save(step, args=arguments)
            manager.wait_until_finished()
            state = iterator.get_state()
            expected[step] = take(iterator, 5)
            iterator.set_state(state)
    with ocp.CheckpointManager(tmp_path) as manager:
        for step in (1, 2):
            other = stream()
            arguments = ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(other))
            restored = manager.restore(step, args=arguments)["data"]
            assert_same(take(restored, 5), expected[step])
            assert restored is other


def test_evaluation_has_every_example_once():
    batches = list(in_order(EXAMPLES, batch=4))
    assert [b.index.tolist() for b in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, -1, -1]]
    last = batches[-1]
    for array in last[1:]:
        np.testing.assert_array_equal(array[2], array[1])
        np.testing.assert_array_equal(array[3], array[1])
    assert tokenizers.decode(TOKENIZER, last.target[1]) == "09<|end|>"


def test_evaluation_of_whole_batches_and_of_no_examples():
    assert [b.index.tolist() for b in in_order(EXAMPLES[:4], batch=2)] == [[0, 1], [2, 3]]
    assert [b.index.tolist() for b in in_order(EXAMPLES[:1], batch=3)] == [[0, -1, -1]]
    assert list(in_order([], batch=2)) == []


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            Example("sudoku/3", "1234567", "1"),
            "prompt of example sudoku/3 has 7 tokens, more than config.sampler.prompt_length=6",
        ),
        (
            Example("sudoku/4", "1", "1234"),
            "target of example sudoku/4 has 4 tokens, more than config.sampler.length=3",
        ),
        (Example("sudoku/5", "1x", "1"), "character 'x' in the prompt of example sudoku/5"),
        (Example("sudoku/6", "1", "1\n"), r"character '\\n' in the target of example sudoku/6"),
    ],
)
def test_examples_that_do_not_fit_are_refused(example, message):
    with pytest.raises(UserError, match=message):
        list(in_order([EXAMPLES[0], example], batch=2))
    with pytest.raises(UserError, match=message):
        take(
            prompts.make_iterator([example], TOKENIZER, prompt_length=6, length=3, batch=2, seed=0),
            1,
        )


def test_the_longest_prompt_and_target():
    examples = [Example("a", "123", "4"), Example("b", "1", "2345", prefill="23"), EXAMPLES[0]]
    assert prompts.longest(examples[:2], TOKENIZER) == (3, 2)  # the prefill is the prompt's
    assert prompts.longest([], TOKENIZER) == (0, 0)


def test_a_stream_needs_examples():
    with pytest.raises(UserError, match="no training examples"):
        prompts.make_iterator([], TOKENIZER, prompt_length=6, length=3, batch=2, seed=0)


# A character tokenizer that, like those of chat models, adds a token of its own to every text
# unless told not to, and whose template writes that token itself.
TEMPLATE = (
    "<s>{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}</turn>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def chat():
    special = ["<pad>", "<mask>", "</turn>", "<s>", "<user>", "<assistant>"]
    words = {token: i for i, token in enumerate([*special, *"0123456789=t"])}
    backend = backends.Tokenizer(backends.models.WordLevel(words))
    every = backends.Regex(r"[\s\S]")
    backend.pre_tokenizer = backends.pre_tokenizers.Split(every, "isolated")
    backend.decoder = backends.decoders.Fuse()
    backend.post_processor = backends.processors.TemplateProcessing("<s> $A", None, [("<s>", 3)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        mask_token="<mask>",
        eos_token="</turn>",
        additional_special_tokens=special[3:],
        chat_template=TEMPLATE,
    )


def prompt_of(tokenizer, example):
    row = encode(example, tokenizer, index=0, prompt_length=12, length=4)
    return "".join(tokenizer.convert_ids_to_tokens(row.tokens[row.mask])), row.target.tolist()


def test_a_prompt_may_be_a_turn_of_a_chat(chat):
    assert chat("1")["input_ids"] == [3, 7]  # it adds a token
    text, target = prompt_of(chat, Example("e", "12=", "3", chat=True))
    assert text == "<s><user>12=</turn><assistant>"
    assert target == [9, 2, 2, 2]
    assert prompt_of(chat, Example("e", "12=", "3"))[0] == "12="


def test_a_prefill_is_part_of_the_prompt_and_not_of_the_target(chat):
    text, target = prompt_of(chat, Example("e", "12=", "t3", chat=True, prefill="t"))
    assert text == "<s><user>12=</turn><assistant>t"
    assert target == [9, 2, 2, 2]  # the target without the prefill
    text, target = prompt_of(chat, Example("e", "12=", "3", prefill="t"))
    assert (text, target) == ("12=t", [9, 2, 2, 2])  # this target does not begin with the prefill


def test_a_batch_may_mix_turns_and_plain_prompts(chat):
    mixed = [
        Example("a", "1", "", chat=True),
        Example("b", "2", ""),
        Example("c", "3", "", chat=True),
    ]
    batch = prompts.encode_examples(mixed, chat, indices=[0, 1, 2], prompt_length=6, length=1)
    rows = [
        chat.decode(row[mask], skip_special_tokens=True)
        for row, mask in zip(batch.tokens, batch.mask)
    ]
    assert rows == ["1", "2", "3"]
    assert batch.mask.sum(axis=1).tolist() == [5, 1, 5]


@pytest.mark.parametrize("chatting", [True, False])
def test_bare_prompts_are_encoded_like_those_of_examples(chat, chatting):
    config = PromptConfig(chat=chatting, prefill="t")
    tokens, mask = prompts.encode_prompts(["1=", "23="], chat, 12, config)
    examples = [Example("e", text, "t1", prefill="t", chat=chatting) for text in ("1=", "23=")]
    batch = prompts.encode_examples(examples, chat, indices=[0, 1], prompt_length=12, length=4)
    np.testing.assert_array_equal(tokens, batch.tokens)
    np.testing.assert_array_equal(mask, batch.mask)


def test_faulty_bare_prompts_are_refused():
    with pytest.raises(UserError, match="prompt 2 is empty"):
        prompts.encode_prompts(["1", ""], TOKENIZER, 4, PromptConfig())
    with pytest.raises(UserError, match=r"Prompt 1 has 5 tokens, more than config.sampler.prompt"):
        prompts.encode_prompts(["12345"], TOKENIZER, 4, PromptConfig())
    assert prompts.encode_prompts([""], TOKENIZER, 4, PromptConfig(prefill="1"))[1].sum() == 1


def test_a_missing_chat_template_is_an_error():
    with pytest.raises(UserError, match=r"config.task.prompt.chat=True: .* has no chat template"):
        prompt_of(TOKENIZER, Example("e", "1", "2", chat=True))


def test_a_failing_chat_template_is_an_error(chat, monkeypatch):
    monkeypatch.setattr(chat, "chat_template", "{{ raise_exception('turns must alternate') }}")
    with pytest.raises(UserError, match=r"template fails .turns must alternate"):
        prompt_of(chat, Example("e", "1", "2", chat=True))


@pytest.mark.parametrize("what", ["prompt", "target"])
def test_a_mask_token_in_a_text_is_refused(chat, what):
    example = Example("e", **({"prompt": "1", "target": "2"} | {what: "<mask>"}))
    with pytest.raises(
        UserError, match=f"The {what} of example e contains the tokenizer's mask token"
    ):
        prompt_of(chat, example)


def test_targets_may_be_cut_off_but_prompts_may_not():
    encode_short = functools.partial(encode, prompt_length=3, length=2)
    row = encode_short(Example("e", "12", "345"), truncate=True)
    assert row.target.tolist() == [6, 7]
    with pytest.raises(UserError, match=r"more than config\.here\.length=2"):
        encode_short(Example("e", "12", "345"), where="config.here")
    with pytest.raises(UserError, match=r"more than config\.here\.prompt_length=3"):
        encode_short(Example("e", "1234", "5"), truncate=True, where="config.here")
