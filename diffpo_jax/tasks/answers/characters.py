"""Characters of Unicode that mean a sign of arithmetic, for every reader of answers."""

# Minus signs, hyphens and dashes: also full-width, small, heavy and raised ones.
MINUS = (
    "\u2212\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u207b\u208b\u02d7\u2796\u2e3a\u2e3b"
    "\ufe58\ufe63\uff0d"
)
PLUS = "\uff0b\u2795\ufe62"
TIMES = "\u00d7\u2715\u2a2f\u00b7\u22c5\u2219\u2217\uff0a\u204e"
DIVIDE = "\u00f7\u2215\u2044\uff0f"
SPACES = "\u00a0\u2007\u2009\u202f\u3000"
NOTHING = "\u200b\u2060\ufeff"  # of no width

SIGNS = {
    **dict.fromkeys(MINUS, "-"),
    **dict.fromkeys(PLUS, "+"),
    **dict.fromkeys(DIVIDE, "/"),
    **dict.fromkeys(SPACES, " "),
    **dict.fromkeys(NOTHING, ""),
    "\uff08": "(",
    "\uff09": ")",
    "\uff1d": "=",
    "\uff05": "%",
}
FRACTIONS = {"½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅛": (1, 8)}
SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789"))
