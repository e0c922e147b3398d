"""Go's Sprint, Sprintln, Sprintf and quoting, as far as templates can call them.

Sprintf knows the verbs v s q t d b o x X c U e E f F g G T, the flags `+`, `-`, `#`, `0` and space, widths, precisions
and `*`. A wrong verb, a missing or a surplus argument is spelled into the text, as Go does.
Deliberate limits: explicit argument indexes (`%[1]d`) and `%p` count as wrong verbs; `%#v` differs from `%v` for
strings alone. Source: Go, packages fmt and strconv (Quote).
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from ollamamax.core.modelspec.template.values import MAX_TEXT_CHARS, Fault, Record, float_text, kind_of, to_text

MAX_WIDTH: Final = 10_000
"""The widest field, in characters, and the highest precision."""

_DIRECTIVE: Final = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>\d+|\*)?(?P<point>\.(?P<precision>\d+|\*)?)?(?P<verb>.)?", re.DOTALL
)
_QUOTED: Final = dict(zip('\a\b\f\n\r\t\v\\"', (r"\a \b \f \n \r \t \v \\ " + r"\"").split(), strict=True))
_OF_INTEGERS: Final = {"d": "d", "v": "d", "b": "b", "o": "o", "x": "x", "X": "X"}


def sprint(values: Sequence[Any]) -> str:
    """Texts in a row, with a space between two that are both no strings."""
    found: list[str] = []
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            found.append(" ")
        found.append(to_text(value))
    return "".join(found)


def sprintln(values: Sequence[Any]) -> str:
    """Texts parted by spaces, and a line end."""
    return " ".join(map(to_text, values)) + "\n"


def quote(text: str) -> str:
    """A double-quoted Go string."""
    return f'"{"".join(_QUOTED.get(character) or _escaped(character) for character in text)}"'


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def sprintf(template: str, values: Sequence[Any]) -> str:
    """`template` with its directives replaced. Raises: Fault for a text or width beyond its bound."""
    rest = list(values)
    room_chars = MAX_TEXT_CHARS

    def replaced(match: re.Match[str]) -> str:
        nonlocal room_chars
        text = _directive(match, rest)
        room_chars -= len(text)
        if room_chars < 0:
            raise Fault(f"printf: a text of more than {MAX_TEXT_CHARS} characters")
        return text

    text = _DIRECTIVE.sub(replaced, template)
    if not rest:
        return text
    extra = ", ".join("<nil>" if value is None else f"{kind_of(value)}={to_text(value)}" for value in rest)
    return f"{text}%!(EXTRA {extra})"


def _directive(match: re.Match[str], rest: list[Any]) -> str:
    flags, verb = match["flags"], match["verb"]
    width, precision = _size(match["width"], rest), _size(match["precision"], rest)
    if match["point"] == ".":
        precision = 0
    if verb is None:
        return "%!(NOVERB)"
    if verb == "%":
        return "%"
    if width is not None and width < 0:
        flags, width = f"{flags}-", -width
    if not rest:
        return f"%!{verb}(MISSING)"
    return _padded(_verb(verb, flags, precision, rest.pop(0)), flags, width or 0, verb)


def _size(text: str | None, rest: list[Any]) -> int | None:
    """A width or precision, which `*` takes from the arguments."""
    if text is None:
        return None
    size = (rest.pop(0) if rest else None) if text == "*" else int(text[:9])
    if type(size) is int and abs(size) > MAX_WIDTH:
        raise Fault(f"printf: a width of more than {MAX_WIDTH}")
    return size if type(size) is int else None


def _padded(text: str, flags: str, width: int, verb: str) -> str:
    if "-" in flags:
        return text.ljust(width)
    if "0" not in flags:
        return text.rjust(width)
    return text.zfill(width) if verb in "dboxXeEfFgGv" else text.rjust(width, "0")


def _verb(verb: str, flags: str, precision: int | None, value: Any) -> str:
    """One value under one verb, unpadded."""
    if verb == "T":
        return kind_of(value)
    if verb == "v" and not isinstance(value, str | int | float):
        return to_text(value)
    found: str | None = None
    match value:
        case bool():
            found = to_text(value) if verb in "tv" else None
        case str():
            found = _of_text(verb, flags, precision, value)
        case int():
            found = _of_integer(verb, flags, value)
        case float():
            found = _of_float(verb, flags, precision, value)
        case list() if type(value) is list:
            return f"[{' '.join(_verb(verb, flags, precision, item) for item in value)}]"
        case list() | dict() | Record():
            found = _of_text(verb, flags, precision, to_text(value))
    if found is not None:
        return found
    return f"%!{verb}(<nil>)" if value is None else f"%!{verb}({kind_of(value)}={to_text(value)})"


def _of_text(verb: str, flags: str, precision: int | None, value: str) -> str | None:
    cut = value if precision is None else value[:precision]
    if verb in "sv":
        return quote(cut) if verb == "v" and "#" in flags else cut
    if verb == "q":
        return quote(cut)
    if verb in "xX":
        data = value.encode("utf-8", "replace")[:precision]
        encoded = data.hex(" ") if " " in flags else data.hex()
        return encoded.upper() if verb == "X" else encoded
    return None


def _of_integer(verb: str, flags: str, value: int) -> str | None:
    if verb in _OF_INTEGERS:
        return format(value, _sign(flags) + ("#" if "#" in flags and verb in "xX" else "") + _OF_INTEGERS[verb])
    if verb in "cqU":
        is_valid = 0 <= value < 0x110000 and not 0xD800 <= value < 0xE000
        character = chr(value) if is_valid else "\ufffd"
        return {"c": character, "q": f"'{quote(character)[1:-1]}'", "U": f"U+{value:04X}"}[verb]
    return None


def _of_float(verb: str, flags: str, precision: int | None, value: float) -> str | None:
    if verb not in "veEfFgG":
        return None
    if precision is None and verb in "vgG":
        text = float_text(value)
        sign = _sign(flags) if value >= 0 else ""
        return sign + (text.upper() if verb == "G" else text)
    return format(value, f"{_sign(flags)}.{6 if precision is None else precision}{'g' if verb == 'v' else verb}")


def _sign(flags: str) -> str:
    return "+" if "+" in flags else " " if " " in flags else ""
