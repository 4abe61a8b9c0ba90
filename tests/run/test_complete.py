"""The command `generate`."""

import pathlib
import sys

import jax
import orbax.checkpoint as ocp
import pytest

from diffpo_jax.config import convert
from diffpo_jax.data import tokenizers
from diffpo_jax.distributed import mesh as mesh_lib
from diffpo_jax.run import complete as completions
from diffpo_jax.run import setup
from diffpo_jax.system.errors import UserError

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from configs import sudoku

PUZZLES = ["1234341221434321", "1200", "0"]


def config(**overrides):
    values = sudoku.get_config("smoke,prompt")
    values.update_from_flattened_dict({"model.layers": 1, "pretrain.steps": 3} | overrides)
    return convert.from_config_dict(values)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Checkpoints of a run: base and trained models from different seeds."""
    path = tmp_path_factory.mktemp("run")
    (path / "config.json").write_text(convert.to_json(config()))
    mesh = mesh_lib.make_mesh(config().mesh)
    policy = setup.make_policy(config(), tokenizers.make_tokenizer(config().tokenizer), mesh)
    for seed, stage in enumerate(("base", "rl")):
        params = policy.init(jax.random.key(seed))
        with ocp.StandardCheckpointer() as writer:
            writer.save(path / "checkpoints" / stage / "3" / "params", params)
    return str(path)


def complete(workdir, texts=PUZZLES, model="trained", dial=None, **overrides):
    return completions.complete(config(**overrides), workdir, texts, model=model, dial=dial)


def test_a_completion_of_every_prompt(workdir):
    written = complete(workdir)
    assert [one.prompt for one in written] == PUZZLES
    for one in written:
        assert sorted(set(one.calls)) == list(range(1, one.nfe + 1))
        assert len(one.pieces) == 16
        assert (one.columns, one.box) == ((4, 2) if len(one.prompt) == 16 else (0, 0))
        assert one.dial == "gamma"
        assert all(0 < p <= 1 for p in one.probabilities)
    alone = complete(workdir, PUZZLES[1:2])[0]
    assert (alone.text, alone.calls) == (written[1].text, written[1].calls)


def test_generate_uses_the_block_length_of_evaluations(workdir):
    blocks = {"sampler.block_length": 1, "evaluation.block_length": 16}
    assert complete(workdir, dial=1e9, **blocks)[0].nfe == 1


def test_attention_kernel_is_the_configurations_not_the_runs():
    """A run that was made on GPUs can be used without any."""
    run = config(**{"model.width": 48, "model.dtype": "bfloat16", "model.attention": "cudnn"})
    model = setup.with_network_of(config(), run).model
    assert (model.width, model.attention) == (48, "auto")


def test_the_dial_replaces_the_learned_threshold(workdir):
    learned = complete(workdir)[0]
    assert learned.value == pytest.approx(0.1, rel=1e-4)  # where the head starts
    assert complete(workdir, dial=0.0)[0].nfe == 16
    assert complete(workdir, dial=1e9)[0].nfe == 1
    of_rule = {"mode": "model", "sampler.rule": "top_k", "sampler.steps": 4}
    assert complete(workdir, **of_rule)[0].nfe == 4
    assert complete(workdir, dial=8.0, **of_rule)[0].nfe == 8


def test_a_prefill_is_part_of_the_completion(workdir):
    lengths = {"sampler.prompt_length": 16, "sampler.length": 16}
    given = complete(workdir, ["12"], **lengths, **{"task.prompt.prefill": "34"})[0]
    plain = complete(workdir, ["1234"])[0]
    assert given.text == "34" + plain.text
    assert (given.prompt, given.pieces) == ("12", plain.pieces)
    with pytest.raises(UserError, match="no chat template"):
        complete(workdir, **lengths, **{"task.prompt.chat": True})


def test_base_and_trained_are_different_models(workdir):
    base = complete(workdir, model="base")
    assert [one.probabilities for one in base] != [one.probabilities for one in complete(workdir)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"texts": [""]}, "prompt 1 is empty"),
        ({"texts": ["1", "12341234123412341"]}, "Prompt 2 has 17 tokens.*prompt_length=16"),
        ({"texts": ["1x"]}, "'x' in prompt 1"),
        ({"dial": float("nan")}, "--dial=nan"),
        ({"dial": -1.0}, "--dial=-1 must be a number and not negative"),
        (
            {"dial": 3.0, "mode": "model", "sampler.rule": "top_k", "sampler.block_length": 8},
            "--dial=3 .*multiple of the 2 blocks",
        ),
        ({"dial": 1.5, "mode": "model", "sampler.rule": "confidence"}, "--dial=1.5 .*probability"),
    ],
)
def test_mistakes_raise_clear_errors(workdir, changes, message):
    with pytest.raises(UserError, match=message):
        complete(workdir, **changes)


def test_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"holds no run: there is no config\.json"):
        complete(str(tmp_path))
