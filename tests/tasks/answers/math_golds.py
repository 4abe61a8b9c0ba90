r"""Gold answers of every kind, and answers that differ in one digit, letter, sign or term.

A gold is a text with its terms: the text without each of them is another answer.  No term is 0 and
no two golds' parts cancel, so every change changes the value.
"""

import re
from typing import NamedTuple

from hypothesis import strategies as st


class Gold(NamedTuple):
    """A gold answer, and the texts that lack one of its terms."""

    text: str
    shorter: tuple[str, ...] = ()


_COMMAND = r"\\(?:begin|end)\{[a-z]+\}|\\[A-Za-z]+"
_small = st.integers(2, 99)
_letters = st.lists(st.sampled_from("abcdkmnpqrstuvwxyz"), min_size=1, max_size=3, unique=True)
_words = st.text("abcdefghijklmnopqrstuvwxyz", min_size=4, max_size=9)


def _signed(text, negative):
    return f"-{text}" if negative else text


_signs = st.booleans()
integers = st.builds(lambda n, s: Gold(_signed(str(n), s)), st.integers(1, 10**6), _signs)
thousands = st.builds(lambda n: Gold(f"{n:,}"), st.integers(1000, 10**8))
decimals = st.builds(
    lambda n, places, s: Gold(_signed(f"{n / 10**places:.{places}f}", s)),
    st.integers(1, 10**5).filter(lambda n: n % 10),
    st.integers(1, 4),
    _signs,
)
fractions = st.builds(
    lambda a, b, s, form: Gold(_signed(form % (a, b), s)),
    _small,
    _small,
    _signs,
    st.sampled_from([r"\frac{%d}{%d}", r"\dfrac{%d}{%d}", "%d/%d"]),
)
radicals = st.builds(
    lambda a, b, c, s: Gold(
        _signed(rf"{a}\sqrt{{{b}}}+{c}", s), (_signed(rf"{a}\sqrt{{{b}}}", s), str(c))
    ),
    _small,
    st.sampled_from([2, 3, 5, 6, 7, 10, 11, 13]),
    _small,
    _signs,
)
with_pi = st.builds(
    lambda a, b: Gold(rf"\frac{{{a}\pi}}{{{b}}}", (rf"\frac{{{a}}}{{{b}}}",)), _small, _small
)


def _sum(terms):
    return "".join(
        f"{sign}{term}" if i or sign == "-" else term for i, (sign, term) in enumerate(terms)
    )


@st.composite
def polynomials(draw):
    letters = draw(_letters)
    powers = draw(
        st.lists(
            st.tuples(*[st.integers(0, 4) for _ in letters]), min_size=2, max_size=4, unique=True
        )
    )
    terms = []
    for power in powers:
        monomial = "".join(
            letter + (f"^{p}" if p > 1 else "") for letter, p in zip(letters, power) if p
        )
        terms.append((draw(st.sampled_from("+-")), f"{draw(_small)}{monomial}"))
    shorter = tuple(_sum(terms[:i] + terms[i + 1 :]) for i in range(len(terms)))
    return Gold(_sum(terms), shorter)


_entries = st.one_of(integers, fractions).map(lambda gold: gold.text)


def _listed(opening, closing, least, most, unique=True):
    def make(items):
        texts = [
            opening + ",".join(kept) + closing
            for kept in [items, *(items[:i] + items[i + 1 :] for i in range(len(items)))]
        ]
        return Gold(texts[0], tuple(texts[1:]))

    return st.lists(_entries, min_size=least, max_size=most, unique=unique).map(make)


tuples = _listed("(", ")", 2, 4, unique=False)
sets = _listed(r"\{", r"\}", 2, 4)
lists = _listed("", "", 2, 4)
intervals = st.builds(
    lambda low, wide, a, b: Gold(f"{a}{low},{low + wide}{b}"),
    st.integers(-50, 50).filter(bool),
    st.integers(60, 120),
    st.sampled_from("(["),
    st.sampled_from(")]"),
)
rays = st.builds(
    lambda n: Gold(rf"(-\infty,{n}]\cup({n + 100},\infty)", (rf"(-\infty,{n}]",)), _small
)
matrices = st.builds(
    lambda a, b, c, d: Gold(
        rf"\begin{{pmatrix}}{a}&{b}\\{c}&{d}\end{{pmatrix}}",
        (rf"\begin{{pmatrix}}{a}\\{c}\end{{pmatrix}}", rf"\begin{{pmatrix}}{a}&{b}\end{{pmatrix}}"),
    ),
    *[_entries] * 4,
)
complexes = st.builds(
    lambda a, sign, b: Gold(f"{a}{sign}{b}i", (str(a), f"{b}i", f"{a}{sign}{b}")),
    _small,
    st.sampled_from("+-"),
    _small,
)
in_base = st.builds(
    lambda digits, base: Gold(f"{digits}_{base}", (digits,)),
    st.text("1234", min_size=2, max_size=5),
    st.integers(5, 9),
)
degrees = st.builds(lambda n: Gold(rf"{n}^\circ"), _small)
measures = st.builds(
    lambda n, unit: Gold(rf"{n}\text{{ {unit}}}"),
    _small,
    st.sampled_from(["cm", "inches", "square feet", "miles per hour", "apples", "cm}^{2"]),
)
texts = st.builds(lambda word: Gold(rf"\text{{{word}}}"), _words)
equations = st.builds(
    lambda a, sign, b: Gold(f"y={a}x{sign}{b}", (f"y={a}x", f"y={b}")),
    _small,
    st.sampled_from("+-"),
    _small,
)
KINDS = {
    "integers": integers,
    "thousands": thousands,
    "decimals": decimals,
    "fractions": fractions,
    "radicals": radicals,
    "pi": with_pi,
    "polynomials": polynomials(),
    "tuples": tuples,
    "sets": sets,
    "lists": lists,
    "intervals": intervals,
    "rays": rays,
    "matrices": matrices,
    "complexes": complexes,
    "bases": in_base,
    "degrees": degrees,
    "measures": measures,
    "texts": texts,
    "equations": equations,
}


@st.composite
def changed(draw, gold):
    """An answer that differs from the gold in one digit, letter, sign or term."""
    text = gold.text
    pieces = [m for m in re.finditer(rf"{_COMMAND}|[0-9A-Za-z+-]", text) if len(m[0]) == 1]
    place = draw(st.integers(-len(gold.shorter), len(pieces)))
    if place < 0:
        return gold.shorter[place]
    if place == len(pieces):  # a sign before it all
        if text.startswith("-"):
            return text[1:]
        place = 0
        if not text[0].isdigit():
            pieces = [m for m in pieces if m[0].isalnum()]
        if "text" in text and not text[0].isdigit():
            return text.replace("{", "{not ", 1)
        if text[0].isdigit():
            return "-" + text
    piece = pieces[place]
    old = piece[0]
    if old.isdigit():
        new = draw(st.sampled_from([d for d in "0123456789" if d != old]))
    elif old in "+-":
        new = "-" if old == "+" else ("+" if piece.start() else "")
    else:
        new = draw(st.sampled_from([c for c in "abcdefghijklmnopqrstuvwxyz" if c != old.lower()]))
    return text[: piece.start()] + new + text[piece.end() :]
