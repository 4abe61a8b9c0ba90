import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffpo_jax.tasks.answers import latex


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "5"),
        ("5", "$5$"),
        ("5", "$$5$$."),
        ("5", r"\(5\)"),
        ("5", r"\[ 5 \]"),
        ("5", "x = 5"),
        ("x_1=5", "5"),
        ("y = 2x + 3", "2x+3"),
        ("f(x)=x^2", "x^2"),
        (r"x \in [1,2]", "[1,2]"),
        (r"\frac{1}{2}", "0.5"),
        (r"\frac12", "1/2"),
        (r"\frac{1}{2}", r"\dfrac 1 2"),
        (r"\frac{3}{4}", r"\tfrac{3}4"),
        (r"-\frac{1}{2}", "-0.50"),
        (r"1\frac{1}{2}", "1.5"),
        (r"\sqrt3", r"\sqrt{3}"),
        (r"(1,\frac12)", r"\left( 1, \frac{1}{2} \right)"),
        (r"(-\infty, 2)", r"\left(-\infty,2\right)"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"\text{(A)}", "A"),
        (r"\text{even}", r"\mathrm{even}"),
        ("4210_5", "4210_{5}"),
        (r"90^\circ", "90"),
        ("90", r"90^{\circ}"),
        ("11,111", "11111"),
        ("11,111", r"11{,}111"),
        (r"5\text{ cm}^2", "5"),
        ("5", r"5 \text{ inches}"),
        (r"\$5", "5.00"),
        (r"50\%", "50"),
        (r"50\%", "0.5"),
        (r"\frac12", "50%"),
        (r".5\pi", r"0.5 \pi"),
        (r"2\pi", "2\u03c0"),
        (r"x\le 3", r"x \leq 3"),
        ("-3", "\u22123"),
        (r"\pi x", r"\pi  x"),
        (r"\{1, 2\}", r"\lbrace 1,2 \rbrace"),
    ],
)
def test_plainly_the_same_answers(gold, answer):
    assert latex.compare(gold, answer) is True
    assert latex.compare(answer, gold) is True


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "6"),
        ("5", "-5"),
        ("5", ""),
        ("5", " "),
        (r"\frac{1}{3}", "0.333"),
        ("3.14", r"\frac{22}{7}"),
        (r"50\%", "5"),
        (r"50\%", r"0.5\%"),
        ("5", "5" * 1001),
    ],
)
def test_plainly_different_answers(gold, answer):
    assert latex.compare(gold, answer) is False


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("x^2-1", "(x-1)(x+1)"),
        ("1,2", "2,1"),
        ("[2,5)", "[2,5]"),
        (r"\pi", "3.14159"),
        ("5x", "5 y"),
        ("6", "5+1"),
        ("a+b=c", "c"),
        ("Evelyn", "evelyn and others"),
        ("5", "17 or 5"),
        ("1000000", "10^6"),
    ],
)
def test_undecided_answers_need_algebra(gold, answer):
    assert latex.compare(gold, answer) is None
    assert latex.compare(answer, gold) is None


PIECES = ["\\frac", "\\sqrt", "\\text{", "{", "}", "$", " ", "1", "x", "=", "^", "_", "\\circ", "%"]


@given(st.text() | st.lists(st.sampled_from([*PIECES, "\\", ",", "(", ")", "."])).map("".join))
@example("\\frac{" * 1500)
@example("{" * 3000 + "}" * 3000)
@example("1\\text{" + "a " * 3000)
@example("$" * 6000)
@example("=" * 6000)
@example("\\sqrt" * 1500)
def test_any_text_is_compared(text):
    latex.normalise(text)
    assert latex.compare("5", text) in (True, False, None)
    assert latex.compare(text, text) in (True, False)  # a text is never undecided with itself
