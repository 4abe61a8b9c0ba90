"""The sizes that a run takes for "auto"."""

from hypothesis import given
from hypothesis import strategies as st

from diffpo_jax.config import Config, convert
from diffpo_jax.run import sizes

GIB = 2**30


def resolved(platform="cpu", vocab=13, memory=None, changes=()):
    """Slots, chunk, and both micro-batches of the default configuration with changes."""
    values = convert.as_config_dict(Config())
    values.update_from_flattened_dict(dict(changes))
    config = sizes.resolve(convert.from_config_dict(values), platform, vocab, memory)
    own = (config.sampler.slots, config.sampler.vocabulary_chunk)
    return *own, config.rl.micro_batch, config.pretrain.micro_batch


def test_on_a_cpu_a_pass_has_1024_tokens():
    # 32 tokens a row: 32 rows.  512 rollouts in groups of 8; 256 demonstrations.
    assert resolved() == (32, None, 32, 32)
    assert resolved(changes={"sampler.prompt_length": 80}) == (8, None, 8, 8)
    # 10 rows would fit, 8 is a power of two; 30 rollouts in groups of 6 are 5 micro-batches.
    few = {"sampler.prompt_length": 80, "rl.prompts": 5, "rl.group": 6}
    assert resolved(changes=few) == (8, None, 6, 8)


def test_given_sizes_stay():
    given = {
        "sampler.slots": None,
        "sampler.vocabulary_chunk": 5,
        "rl.micro_batch": 512,
        "pretrain.micro_batch": None,
    }
    assert resolved(changes=given) == (None, 5, 512, None)


def test_a_large_vocabulary_is_read_in_pieces():
    # 32 rows x 4 bytes x 32,000 are 4 MB a position: 4 of them are 16 MiB.
    assert resolved(vocab=32_000)[1] == 4
    assert resolved(vocab=1_000_000)[1] == 1
    blocks = {"sampler.block_length": 4}
    # The block alone is read from 4,096 tokens on, or with a cache.
    assert resolved(vocab=5_000, changes=blocks)[1] == 4
    assert resolved(vocab=100, changes=blocks)[1] is None
    assert resolved(vocab=100, changes=blocks | {"sampler.cache": "dual"})[1] == 4


def test_accelerators_take_more_tokens_and_mind_their_memory():
    assert resolved("gpu", memory=80 * GIB) == (512, None, None, None)
    large = {"model.width": 4096, "model.ff": 12_288, "model.layers": 32, "model.heads": 32}
    large |= {"model.kv_heads": 32, "model.dtype": "bfloat16", "lora.rank": 128}
    large |= {"model.param_dtype": "bfloat16", "sampler.prompt_length": 496}
    large |= {"rl.prompts": 16, "rl.group": 4, "model.remat": True}
    of_80, of_140 = (resolved("gpu", 126_464, x * GIB, large)[2] for x in (80, 140))
    assert 1 <= of_80 <= of_140 <= 32  # 16,384 tokens are 32 rows
    assert resolved("gpu", 126_464, 10 * GIB, large)[2] == 1


def test_the_arrays_of_an_average_take_memory():
    # Four layers of 0.27e9 parameters and 0.13e9 of the vocabulary each way.
    whole = {"model.width": 4096, "model.ff": 16_384, "model.layers": 4, "model.heads": 32}
    whole |= {"model.kv_heads": 32, "sampler.prompt_length": 496, "rl.prompts": 64}
    averaged = whole | {"rl.optimizer.kind": "schedule_free_adamw"}
    of_two, of_three = (resolved("gpu", 32_000, 40 * GIB, x)[2] for x in (whole, averaged))
    assert 1 < of_three < of_two


def test_devices_share_a_micro_batch_evenly():
    # 32 rows on each of 4 devices.
    assert resolved(changes={"mesh.data": 2, "mesh.fsdp": 2})[2:] == (128, 128)
    # 24 rollouts on 8 devices: 3 each at once, or 1.
    few = {"rl.prompts": 3, "sampler.prompt_length": 1_000, "mesh.fsdp": 8}
    assert resolved(changes=few)[2] == 8


@given(
    rows=st.integers(1, 600),
    group=st.integers(1, 12),
    devices=st.integers(1, 16),
    most=st.floats(0.1, 700),
)
def test_micro_batches_divide(rows, group, devices, most):
    rows *= devices
    size = sizes._micro_batch(rows, group, devices, most)
    if size is not None:
        assert rows % size == 0 and size % devices == 0
        assert size <= max(most, devices)
    else:
        assert rows <= max(most, devices)
