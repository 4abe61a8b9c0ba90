"""Says in words whether training shows signs of trouble."""

from collections.abc import Sequence

from diffpo_jax.analysis import trouble
from diffpo_jax.analysis.runs import Run
from diffpo_jax.analysis.summary import format_percent
from diffpo_jax.analysis.trouble import Sign

# By sign: if it is trouble, and if not. Shares are in percent, others as they are.
_WORDS = {
    "reward": (
        "the reward of rollouts ended at {end}, its best was {other}",
        "the reward of rollouts did not clearly fall (at the end {end}, at best {other})",
    ),
    "validation": (
        "{end} of the validation prompts were solved at the end, {other} at best",
        "{end} of the validation prompts were solved at the end, {other} at best",
    ),
    "entropy": (
        "tokens have become nearly certain: their entropy fell from {other} to {end} nats, so "
        "that little new is explored",
        "tokens stay uncertain enough to explore (entropy {end} nats, at first {other})",
    ),
    "groups/equal": (
        "{end} of the groups have equal rewards and teach nothing",
        "{end} of the groups have equal rewards and teach nothing",
    ),
    "parse_failures": (
        "no answer can be read from {end} of the rollouts",
        "no answer can be read from {end} of the rollouts",
    ),
    "forced": (
        "the cap on calls cuts {end} of the rollouts short",
        "the cap on calls cuts {end} of the rollouts short",
    ),
    "weights/ess": (
        "the importance weights rest on few tokens: their effective sample size is {end} of all",
        "the importance weights' effective sample size is {end} of the tokens",
    ),
}
_ABSOLUTE = ("reward", "entropy")  # not shares
_GUARD = {
    "reward": "the reward of rollouts was far below its best",
    "sliding": "more tokens were committed at once while accuracy fell",
    "evaluation": "the reward on validation prompts was far below its best",
}


def describe(runs: Sequence[Run]) -> list[str]:
    """Returns the verdict on each run that has begun RL; alike ones in one line."""
    begun = [run for run in runs if trouble.signs(run)]
    if len(begun) == 1:
        return _one(begun[0])
    quiet = [run for run in begun if not _found(run)]
    lines = [f"{run.name}: {'; '.join(_found(run))}." for run in begun if _found(run)]
    if not begun:
        return []
    summary = f"No sign of trouble in {len(quiet)} of {len(begun)} runs."
    return [summary, *lines]


def _one(run: Run) -> list[str]:
    found = _found(run)
    rest = "; ".join(_say(sign) for sign in trouble.signs(run) if not sign.is_trouble)
    if not found:
        return [f"No sign of trouble: {rest}."]
    return [
        f"Signs of trouble: {'; '.join(found)}.",
        *([f"As it should be: {rest}."] if rest else []),
    ]


def _found(run: Run) -> list[str]:
    guard = [
        f"at step {step} the guard against collapse found that {_GUARD.get(name, name)}"
        for name, step in trouble.warnings(run).items()
    ]
    return guard + [_say(sign) for sign in trouble.signs(run) if sign.is_trouble]


def _say(sign: Sign) -> str:
    form = "{:.3g}".format if sign.name in _ABSOLUTE else format_percent
    trouble_text, fine_text = _WORDS[sign.name]
    text = trouble_text if sign.is_trouble else fine_text
    return text.format(end=form(sign.end), other=form(sign.other))
