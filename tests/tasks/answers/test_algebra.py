import pytest

from diffpo_jax.tasks.answers import algebra


def test_answers_are_compared_by_algebra():
    verifier = algebra.Verifier(limit_s=60.0, processes=1)
    pairs = {
        ("x^2-1", "(x-1)(x+1)"): True,
        (r"\sqrt{12}", r"2\sqrt{3}"): True,
        ("1,2", "2,1"): True,
        ("1000000", "10^6"): True,
        ("[2,5)", "[2,5]"): False,
        ("x^2-1", "x^2+1"): False,
        ("5", "5"): True,  # no algebra
        ("5", "{{{"): False,
        (r"\frac{1}{", "5"): False,
    }
    assert verifier.equal(list(pairs)) == list(pairs.values())
    assert verifier.killed == 0
    verifier.close()


@pytest.fixture
def verifier():
    verifier = algebra.Verifier(limit_s=1.0, processes=2, function="hostile:equal")
    yield verifier
    verifier.close()


@pytest.fixture
def undecided(monkeypatch):
    """Every pair needs algebra."""
    monkeypatch.setattr(algebra.latex, "compare", lambda gold, answer: None)


def test_a_killed_comparison_is_counted_and_logged(verifier, undecided, caplog):
    pairs = [
        ("same", "x+1"),
        ("same", "hang"),
        ("other", "y+1"),
        ("same", "exit"),
        ("same", "raise"),
    ]
    assert verifier.equal(pairs) == [True, None, False, None, False]
    assert verifier.killed == 2
    messages = sorted(record.getMessage() for record in caplog.records)
    assert len(messages) == 2
    assert "'exit' with 'same': its worker died. The answer counts as wrong." in messages[0]
    assert "'hang' with 'same': its worker took over 1.0 s. The answer" in messages[1]


def test_verdicts_are_remembered(verifier, undecided, monkeypatch):
    asked = []
    run = verifier._pool.map
    monkeypatch.setattr(verifier._pool, "map", lambda items: asked.append(items) or run(items))
    pairs = [("same", "x+1"), ("same", "exit"), ("same", "x+1")]
    assert verifier.equal(pairs) == [True, None, True]
    assert verifier.equal(pairs) == [True, None, True]
    assert asked == [[("same", "x+1"), ("same", "exit")], []]
    assert verifier.killed == 1


def test_only_the_newest_verdicts_are_remembered(verifier, undecided, monkeypatch):
    monkeypatch.setattr(algebra, "_REMEMBERED", 3)
    assert verifier.equal([("same", f"x+{i}") for i in range(5)]) == [True] * 5
    assert len(verifier._known) == 3


def test_plain_pairs_start_no_worker(verifier):
    assert verifier.equal([("5", "5.0"), ("5", "6"), ("5", "")]) == [True, False, False]
    assert not verifier._pool._idle
