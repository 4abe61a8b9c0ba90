import functools
import itertools
import json

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from diffpo_jax.config import TokenizerConfig
from diffpo_jax.data import prompts, tokenizers
from diffpo_jax.errors import UserError
from diffpo_jax.tasks.task import Example

TOKENIZER = tokenizers.make_tokenizer(TokenizerConfig())
EXAMPLES = [Example(f"e/{i}", f"{i:04d}"[-(i % 4 + 1) :], f"{i:02d}") for i in range(10)]

stream = functools.partial(
    prompts.make_iterator, EXAMPLES, TOKENIZER, prompt_length=6, length=3, batch=4, seed=7
)
in_order = functools.partial(
    prompts.batches_in_order, tokenizer=TOKENIZER, prompt_length=6, length=3
)


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        for array, expected in zip(batch, other):
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)


def test_one_example_by_hand():
    row = prompts.encode_example(
        Example("e", "120", "07"), TOKENIZER, index=5, prompt_length=5, length=4
    )
    assert row.index == 5
    assert row.tokens.tolist() == [0, 0, 4, 5, 3]  # pad is 0, digit d is d + 3
    assert row.mask.tolist() == [False, False, True, True, True]
    assert row.target.tolist() == [3, 10, 2, 2]  # end is 2


def test_full_and_empty_rows():
    full = prompts.encode_example(
        Example("e", "12", "34"), TOKENIZER, index=0, prompt_length=2, length=2
    )
    assert full.tokens.tolist() == [4, 5] and full.mask.all() and full.target.tolist() == [6, 7]
    empty = prompts.encode_example(
        Example("e", "", ""), TOKENIZER, index=0, prompt_length=2, length=2
    )
    assert not empty.mask.any() and empty.target.tolist() == [2, 2]


def test_batches_have_fixed_shapes_and_types():
    batch = next(stream())
    assert isinstance(batch, prompts.EncodedBatch)
    assert [a.dtype for a in batch] == [np.int64, np.int32, np.bool_, np.int32]
    assert [a.shape for a in batch] == [(4,), (4, 6), (4, 6), (4, 3)]


def test_the_stream_holds_the_rows_that_index_names():
    for batch in take(stream(), 5):
        for index, *row in zip(*batch):
            expected = prompts.encode_example(
                EXAMPLES[index], TOKENIZER, index=index, prompt_length=6, length=3
            )
            assert_same([row], [expected[1:]])


def test_every_epoch_has_every_example_in_its_own_order():
    order = np.concatenate([batch.index for batch in take(stream(), 10)]).reshape(4, 10)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(10), (4, 1)))
    assert len({tuple(epoch) for epoch in order.tolist()}) == 4


def test_the_seed_decides_the_order():
    assert_same(take(stream(), 6), take(stream(), 6))
    orders = [np.concatenate([b.index for b in take(stream(seed=s), 3)]) for s in (0, 1, 2**40)]
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(orders, 2))


def test_a_batch_larger_than_the_data():
    batch = next(stream(batch=23))
    assert sorted(np.bincount(batch.index).tolist()) == [2] * 7 + [3] * 3


@pytest.mark.parametrize("taken", [0, 1, 4, 7])
def test_resuming_equals_going_on(taken):
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


def test_resuming_through_an_orbax_checkpoint(tmp_path):
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


def test_evaluation_goes_through_the_examples_once():
    batches = list(in_order(EXAMPLES, batch=4))
    assert [b.index.tolist() for b in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, -1, -1]]
    last = batches[-1]
    for array in last[1:]:
        np.testing.assert_array_equal(array[2], array[1])
        np.testing.assert_array_equal(array[3], array[1])
    assert tokenizers.decode(TOKENIZER, last.target[1]) == "09"


def test_evaluation_of_whole_batches_and_of_nothing():
    assert [b.index.tolist() for b in in_order(EXAMPLES[:4], batch=2)] == [[0, 1], [2, 3]]
    assert [b.index.tolist() for b in in_order(EXAMPLES[:1], batch=3)] == [[0, -1, -1]]
    assert list(in_order([], batch=2)) == []


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            Example("sudoku/3", "1234567", "1"),
            "prompt of example sudoku/3 has 7 tokens: more than config.sampler.prompt_length=6",
        ),
        (
            Example("sudoku/4", "1", "1234"),
            "target of example sudoku/4 has 4 tokens: more than config.sampler.length=3",
        ),
        (Example("sudoku/5", "1x", "1"), "character 'x' in the prompt of example sudoku/5"),
        (Example("sudoku/6", "1", "1\n"), r"character '\\n' in the target of example sudoku/6"),
    ],
)
def test_examples_that_do_not_fit(example, message):
    with pytest.raises(UserError, match=message):
        list(in_order([EXAMPLES[0], example], batch=2))
    with pytest.raises(UserError, match=message):
        take(
            prompts.make_iterator([example], TOKENIZER, prompt_length=6, length=3, batch=2, seed=0),
            1,
        )


def test_no_examples():
    with pytest.raises(UserError, match="no training examples"):
        prompts.make_iterator([], TOKENIZER, prompt_length=6, length=3, batch=2, seed=0)
