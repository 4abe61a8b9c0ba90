r"""Reads expressions.

    sum       terms with + - \pm
    term      factors with * / \cdot \times \div or nothing between them
    factor    an operand with powers and factorials
    operand   a number, a letter, brackets, or a command with its arguments

Two numbers side by side and 1/2x are refused, since they can be read in two ways.  1\frac{1}{2} is
a mixed number, e and i are the constants, \log has base 10.
"""

from fractions import Fraction

from diffpo_jax.tasks.answers import units
from diffpo_jax.tasks.answers.math_tree import Apply, Expression, Name, NotUnderstood, Number
from diffpo_jax.tasks.answers.tex_tokens import GREEK, Token
from diffpo_jax.tasks.answers.token_cursor import Cursor

_MOST_SLASHES = 8  # of a product
CONSTANTS = {"pi", "infty"}  # beside the letters e and i
_FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
    "ln", "log", "exp",
}  # fmt: skip
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}


class ExpressionReader(Cursor):
    """A parser by recursive descent.  Every method reads what it is named after."""

    def _sum(self) -> Expression:
        terms = [self._signed_term()]
        while self._is("+", "-", "pm"):
            sign = self._take().text
            term = self._term()
            if sign == "pm":
                terms = [Apply("pm", (_joined("+", terms), term))]
            else:
                terms.append(term if sign == "+" else Apply("-", (term,)))
        return _joined("+", terms)

    def _signed_term(self) -> Expression:
        if self._accept("-"):
            return Apply("-", (self._term(),))
        if self._accept("pm"):
            return Apply("pm", (Number(Fraction(0)), self._term()))
        self._accept("+")
        return self._term()

    def _term(self) -> Expression:
        factors, slashes = [self._factor()], 0
        while True:
            if self._accept("*", "cdot", "times"):
                factors.append(self._signed_factor())
            elif self._is("/", "div") and not self._is_unit_ahead():
                self._take()
                slashes += 1
                factors = [Apply("/", (_joined("*", factors), self._signed_factor()))]
                if self._starts_factor() or slashes > _MOST_SLASHES:
                    raise NotUnderstood("a product after a slash can be read in two ways")
            elif self._starts_factor():
                factors.append(self._factor())
            else:
                return _joined("*", factors)

    def _is_unit_ahead(self) -> bool:
        return self._peek(1).kind in ("text", "word")

    def _starts_factor(self) -> bool:
        """Whether the next token begins a factor that multiplies what is before it."""
        token = self._peek()
        if token.kind == "name":
            return not self._starts_unit()
        if token.kind == "number":  # 3!5!; other numbers side by side are refused
            return self._place > 0 and self._tokens[self._place - 1].text == "!"
        if token.kind == "bold" or self._is("("):
            return True
        if token.kind != "command":
            return False
        named = token.text in GREEK or token.text in CONSTANTS or token.text in _FUNCTIONS
        return named or token.text in ("sqrt", "frac", "binom", "lfloor", "lceil")

    def _starts_unit(self) -> bool:
        """Whether the letters ahead are a unit of the number before them: 5 cm, 6cm, 8\\pi cm."""
        if not self._place:
            return False
        letters, ahead = "", 0
        while self._peek(ahead).kind == "name" and not (ahead and self._peek(ahead).spaced):
            letters, ahead = letters + self._peek(ahead).text, ahead + 1
        before = self._tokens[self._place - 1]
        spaced = self._peek().spaced and (before.kind == "number" or before.text in ("pi", "}"))
        # Without a space only if there is nothing else: 3k+6cm is a sum of products.
        alone = self._place == 1 and before.kind == "number" and self._peek(ahead).kind == "end"
        return (spaced or alone) and len(letters) > 1 and units.is_known(letters)

    def _signed_factor(self) -> Expression:
        if self._accept("-"):
            return Apply("-", (self._factor(),))
        return self._factor()

    def _factor(self) -> Expression:
        value = self._operand()
        while True:
            if self._accept("^"):
                value = Apply("^", (value, self._argument()))
                if self._is("^"):
                    raise NotUnderstood("a power of a power without braces")
            elif self._is("!") and not self._is("!", ahead=1):
                self._take()
                value = Apply("!", (value,))
            else:
                return value

    def _operand(self) -> Expression:
        token = self._take()
        if token.kind == "number":
            return self._number(token)
        if token.kind == "bold":
            return Name(f"bold {token.text}")
        if token.kind == "name" or (token.kind == "command" and token.text in GREEK):
            return self._subscripted(token.text)
        if token.kind == "sign" and token.text in ("(", "["):
            value = self._nested(self._sum)
            self._expect(")" if token.text == "(" else "]")
            return value
        if token.kind == "sign" and token.text == "{":
            value = self._nested(self._sum)
            self._expect("}")
            return value
        if token.kind == "sign" and token.text == "|":
            value = self._nested(self._sum)
            self._expect("|")
            return Apply("abs", (value,))
        if token.kind == "command":
            return self._command(token.text)
        raise NotUnderstood(f"{token.text!r} where a value should be")

    def _number(self, token: Token) -> Expression:
        decimals = len(token.text.partition(".")[2]) if "." in token.text else None
        number = Number(Fraction(token.text.rstrip(".")), decimals)
        if self._is("overline") and decimals is not None:
            return self._repeating(token.text)
        if token.text.endswith(".") and self._starts_factor():
            raise NotUnderstood("a decimal point without decimals")  # 0.(36)
        mixed = decimals is None and (self._mixed_fraction() or self._mixed_slash())
        if mixed:
            return Apply("+", (number, mixed))
        if self._peek().kind == "number":
            raise NotUnderstood("two numbers side by side")
        if self._is("_"):
            raise NotUnderstood("a number with a subscript")
        return number

    def _repeating(self, text: str) -> Number:
        r"""0.1\overline{6} is 1/6."""
        self._take()
        self._expect("{")
        digits = self._take()
        self._expect("}")
        if digits.kind != "number" or not digits.text.isdigit() or self._peek().kind == "number":
            raise NotUnderstood("a repeating decimal must end in its repeated digits")
        scale = 10 ** len(text.partition(".")[2])
        rest = Fraction(int(digits.text), scale * (10 ** len(digits.text) - 1))
        return Number(Fraction(text.rstrip(".")) + rest)

    def _mixed_fraction(self) -> Expression | None:
        r"""The fraction of 1\frac{1}{2}, or None."""
        start = self._place
        if self._accept("frac"):
            top, bottom = self._argument(), self._argument()
            plain = isinstance(top, Number) and isinstance(bottom, Number)
            if plain and 0 < top.value < bottom.value and not self._is("^"):
                return Apply("/", (top, bottom))
            if plain:
                raise NotUnderstood("a number beside an improper fraction")
        self._place = start
        return None

    def _mixed_slash(self) -> Expression | None:
        """The fraction of 1 1/2, or None."""
        top, slash, bottom = (self._peek(i) for i in range(3))
        if (top.kind, slash.text, bottom.kind) != ("number", "/", "number") or not top.spaced:
            return None
        if not (top.text.isdigit() and bottom.text.isdigit() and int(top.text) < int(bottom.text)):
            return None
        self._place += 3
        return Apply("/", (Number(Fraction(top.text)), Number(Fraction(bottom.text))))

    def _subscripted(self, name: str) -> Name:
        if not self._accept("_"):
            return Name(name)
        braced = self._accept("{")
        parts = [self._take()]
        while braced and not self._is("}"):
            parts.append(self._take())
        if braced:
            self._expect("}")
        if any(part.kind not in ("name", "number", "text", "word") for part in parts):
            raise NotUnderstood("a subscript that is not a name or a number")
        return Name(f"{name}_{''.join(part.text for part in parts)}")

    def _argument(self) -> Expression:
        """The argument of a command or a power: in braces, or one digit, letter or command."""
        if self._accept("{"):
            value = self._nested(self._sum)
            self._expect("}")
            return value
        if self._is("-"):  # 2^-1
            self._take()
            return Apply("-", (self._argument(),))
        token = self._peek()
        if token.kind == "number" and token.text.isdigit():
            before = self._tokens[self._place - 1].text
            if before not in ("^", "sqrt") and len(token.text) > 1:
                # \frac12 has two arguments in one run of digits.
                rest = Token("number", token.text[1:], False)
                self._tokens[self._place : self._place + 1] = [
                    token._replace(text=token.text[0]),
                    rest,
                ]
                token = self._peek()
            self._take()
            return Number(Fraction(token.text))
        if token.kind == "number":
            raise NotUnderstood("a decimal as an argument without braces")
        return self._nested(self._operand)

    def _command(self, name: str) -> Expression:
        if name in CONSTANTS:
            return Name(name)
        if name == "frac":
            return Apply("/", (self._argument(), self._argument()))
        if name == "binom":
            return Apply("binom", (self._argument(), self._argument()))
        if name == "sqrt":
            return self._root()
        if name in ("lfloor", "lceil"):
            value = self._nested(self._sum)
            self._expect("r" + name[1:])
            return Apply({"lfloor": "floor", "lceil": "ceiling"}[name], (value,))
        if name in _FUNCTIONS:
            return self._nested(lambda: self._function(name))
        raise NotUnderstood(f"\\{name}")

    def _root(self) -> Expression:
        degree: Expression = Number(Fraction(2))
        if self._accept("["):
            degree = self._nested(self._sum)
            self._expect("]")
        return Apply("root", (self._argument(), degree))

    def _function(self, name: str) -> Expression:
        base = None
        if name == "log" and self._accept("_"):
            base = self._argument()
        power = self._argument() if self._accept("^") else None
        if power == Apply("-", (Number(Fraction(1)),)):
            if name not in _INVERSES:
                raise NotUnderstood(f"\\{name}^{{-1}}")
            name, power = _INVERSES[name], None
        operand = self._function_argument(name)
        value = Apply(name, (operand,) if base is None else (operand, base))
        return value if power is None else Apply("^", (value, power))

    def _function_argument(self, name: str) -> Expression:
        """What a function is applied to: (...), or the product up to a sign or a function."""
        if self._is("("):
            self._take()
            value = self._degrees(name, self._nested(self._sum))
            self._expect(")")
            return value
        if self._is("{"):
            self._take()
            value = self._degrees(name, self._nested(self._sum))
            self._expect("}")
            return value
        factors = [self._factor()]
        while self._starts_factor() and self._peek().text not in _FUNCTIONS:
            factors.append(self._factor())
        if self._is("/"):
            raise NotUnderstood("a slash after the argument of a function")
        return self._degrees(name, _joined("*", factors))

    def _degrees(self, name: str, value: Expression) -> Expression:
        if self._peek().kind != "degree":
            return value
        if name not in _TRIGONOMETRIC:
            raise NotUnderstood("degrees where a number should be")
        self._take()
        return Apply("/", (Apply("*", (value, Name("pi"))), Number(Fraction(180))))


def _joined(function: str, operands: list[Expression]) -> Expression:
    return operands[0] if len(operands) == 1 else Apply(function, tuple(operands))
