import dataclasses

from diffpo_jax.config import EvaluationConfig
from diffpo_jax.evaluation import evaluator


def choose(all_, **fields):
    return evaluator.choose(all_, dataclasses.replace(EvaluationConfig(), **fields))


def test_the_first_examples():
    assert choose(range(9), examples=3) == range(3)
    assert choose(range(9), examples=None) == choose(range(9), examples=20) == range(9)


def test_d1_subset_is_the_one_of_its_published_baselines():
    """The first Sudokus of d1's published generations, and every Countdown once."""
    drawn = choose(range(500), examples=256, subset="d1")
    assert drawn[:8] == [361, 73, 374, 155, 104, 394, 377, 124]
    assert len(set(drawn)) == 256
    assert sorted(choose(range(256), examples=256, subset="d1")) == list(range(256))
