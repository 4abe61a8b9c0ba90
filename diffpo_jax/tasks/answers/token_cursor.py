"""Walks through the tokens of an answer, one after the other."""

from collections.abc import Callable
from typing import TypeVar

from diffpo_jax.tasks.answers.math_tree import NotUnderstood
from diffpo_jax.tasks.answers.tex_tokens import Token

_DEEPEST = 30  # brackets, braces and commands, one in the other

_SINGLE = TypeVar("_SINGLE")


class Cursor:
    """A place in a list of tokens.  Every method raises `NotUnderstood` and nothing else."""

    def __init__(self, tokens: list[Token]):
        """Starts at the first token."""
        self._tokens, self._place, self._depth = tokens, 0, 0

    def _peek(self, ahead: int = 0) -> Token:
        place = self._place + ahead
        return self._tokens[place] if place < len(self._tokens) else Token("end", "", False)

    def _is(self, *texts: str, ahead: int = 0) -> bool:
        token = self._peek(ahead)
        joining = token.kind == "word" and token.text in ("and", "or")
        return (joining or token.kind in ("sign", "command")) and token.text in texts

    def _take(self) -> Token:
        token = self._peek()
        if token.kind == "end":
            raise NotUnderstood("it ends too early")
        self._place += 1
        return token

    def _accept(self, *texts: str) -> bool:
        found = self._is(*texts)
        self._place += found
        return found

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise NotUnderstood(f"{self._peek().text!r} where {text!r} should be")

    def expect_end(self) -> None:
        """Raises `NotUnderstood` unless all tokens are read."""
        if self._peek().kind != "end":
            raise NotUnderstood(f"{self._peek().text!r} is left over")

    def _nested(self, method: Callable[[], _SINGLE]) -> _SINGLE:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise NotUnderstood(f"deeper than {_DEEPEST}")
        result = method()
        self._depth -= 1
        return result
