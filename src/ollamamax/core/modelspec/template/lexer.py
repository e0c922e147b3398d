"""Template text to tokens.

::

    template = { text | "{{" [ "-" space ] action [ space "-" ] "}}" }
    action   = comment | { token | space }
    comment  = "/*" anything "*/"                 directly within the marks

A trim mark takes all white space off the text on its side. White space between tokens is a token of its own, because
it parts the arguments of a command. Source: Go, package text/template/parse, the lexical rules.
"""

import ast
import math
import re
from typing import Final

from msgspec import Struct

from ollamamax.core.errors import TemplateError

TEXT, OPEN, CLOSE, SPACE = "text", "open", "close", "space"
LITERAL, FIELD, VARIABLE, WORD, MARK = "literal", "field", "variable", "word", "mark"

_SPACES: Final = " \t\r\n"
_OPENING: Final = re.compile(r"\{\{(?P<trim>-(?=[ \t\r\n]))?")
_COMMENT: Final = re.compile(r"[ \t\r\n]?/\*(?P<inner>.*?)\*/(?P<trim>[ \t\r\n]-)?\}\}", re.DOTALL)
_TOKEN: Final = re.compile(
    r"""(?P<close>(?P<trim>[ \t\r\n]+-)?\}\})
    | (?P<space>[ \t\r\n]+)
    | (?P<string>"(?:\\[^\n]|[^"\\\n])*"|`[^`]*`)
    | (?P<char>'(?:\\[^\n]|[^'\\\n])+')
    | (?P<number>[+-]?(?:[0-9]|\.[0-9])(?:[eEpP][+-]|[\w.])*)
    | (?P<field>\.\w*)
    | (?P<variable>\$\w*)
    | (?P<word>[^\W\d]\w*)
    | (?P<mark>:=|[=|(),])""",
    re.VERBOSE,
)
_TERMINATOR: Final = re.compile(r"[ \t\r\n.,|:()]|\}\}|\Z")
_NAMED: Final = frozenset({"field", "variable", "word"})
_ESCAPE: Final = re.compile(
    r"""\\(?:[abfnrtv\\'"]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3})|[^\\]""", re.DOTALL
)
_DECIMAL: Final = re.compile(r"[+-]?\d*(\.\d*)?([eE][+-]?\d+)?", re.ASCII)
_WHOLE: Final = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO]?[0-7_]*|[1-9][0-9_]*)", re.ASCII)
_MAX_NUMBER_CHARS: Final = 64
_INT64: Final = 1 << 63


class Token(Struct, frozen=True):
    """kind: one of the constants above.  value: a literal's value, else the token's text.  line: from 1."""

    kind: str
    value: str | int | float
    line: int


def failure(line: int, cause: str) -> TemplateError:
    """The error for a cause found on a line."""
    return TemplateError(f"line {line}: {cause}")


def tokens(text: str) -> list[Token]:
    """All tokens, in order. Raises: TemplateError."""
    return _Lexer(text).run()


class _Lexer:
    def __init__(self, text: str) -> None:
        self._text = text
        self._found: list[Token] = []
        self._line = 1
        self._counted = 0  # where the line's number was last brought up to date

    def run(self) -> list[Token]:
        """All tokens."""
        position, trims = 0, False
        while opening := _OPENING.search(self._text, position):
            self._add_text(position, opening.start(), trims, bool(opening["trim"]))
            position, trims = self._action(opening)
        self._add_text(position, len(self._text), trims, False)
        return self._found

    def _add_text(self, start: int, end: int, trims_left: bool, trims_right: bool) -> None:
        text = self._text[start:end]
        text = text.lstrip(_SPACES) if trims_left else text
        text = text.rstrip(_SPACES) if trims_right else text
        if text:
            self._add(TEXT, text, start)

    def _action(self, opening: re.Match[str]) -> tuple[int, bool]:
        """Where the action that is opened ends, and whether the text after it is trimmed."""
        position = opening.end()
        has_comment = self._text.startswith("/*", position + 1 if opening["trim"] else position)
        if has_comment:
            comment = _COMMENT.match(self._text, position)
            if comment is None:
                raise failure(self._line_at(position), "unclosed comment")
            if "*/" in comment["inner"]:
                raise failure(self._line_at(position), "comment ends before closing delimiter")
            return comment.end(), bool(comment["trim"])
        self._add(OPEN, "{{", opening.start())
        while True:
            match = _TOKEN.match(self._text, position)
            if match is None:
                raise self._unlexable(position)
            position = match.end()
            self._take(match)
            if match.lastgroup == "close":
                return position, bool(match["trim"])

    def _take(self, match: re.Match[str]) -> None:
        kind, text, start = str(match.lastgroup), match.group(), match.start()
        line = self._line_at(start)
        if kind in _NAMED and not _TERMINATOR.match(self._text, match.end()):
            raise failure(line, f"bad character {self._text[match.end()]!r} after {text!r}")
        if kind == "string":
            self._add(LITERAL, _string(text, line), start)
        elif kind == "char":
            character = _unescaped(text, line)
            if len(character) != 1:
                raise failure(line, f"malformed character constant: {text}")
            self._add(LITERAL, ord(character), start)
        elif kind == "number":
            self._add(LITERAL, _number(text, line), start)
        else:
            self._add(kind, text, start)

    def _unlexable(self, position: int) -> TemplateError:
        line = self._line_at(position)
        if position >= len(self._text):
            return failure(line, "unclosed action")
        character = self._text[position]
        if character in "\"'`":
            return failure(line, "unterminated string" if character != "'" else "unterminated character constant")
        return failure(line, f"unexpected {character!r} in action")

    def _add(self, kind: str, value: str | int | float, start: int) -> None:
        self._found.append(Token(kind, value, self._line_at(start)))

    def _line_at(self, position: int) -> int:
        """Positions come in rising order, so that each line break is counted once."""
        self._line += self._text.count("\n", self._counted, position)
        self._counted = max(self._counted, position)
        return self._line


def _string(text: str, line: int) -> str:
    return text[1:-1].replace("\r", "") if text[0] == "`" else _unescaped(text, line)


def _unescaped(quoted: str, line: int) -> str:
    """What a quoted text means; Go's escapes are Python's, but for those it does not know."""
    inner = quoted[1:-1]
    if "\\" not in inner:
        return inner
    if "".join(_ESCAPE.findall(inner)) != inner:
        raise failure(line, f"unknown escape in {quoted}")
    try:
        value = ast.literal_eval(f"{quoted[0]}{inner}{quoted[0]}")
    except (SyntaxError, ValueError):
        raise failure(line, f"unknown escape in {quoted}") from None
    assert isinstance(value, str)
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise failure(line, f"unknown escape in {quoted}")
    return value


def _number(text: str, line: int) -> int | float:
    if len(text) > _MAX_NUMBER_CHARS:
        raise failure(line, "a number is too long")
    if _WHOLE.fullmatch(text):
        return _whole(text, line)
    if not _DECIMAL.fullmatch(text):
        raise failure(line, f"bad number syntax: {text!r}")
    value = float(text)
    if not math.isfinite(value):
        raise failure(line, f"number overflow: {text}")
    return value


def _whole(text: str, line: int) -> int:
    is_octal = len(text.lstrip("+-")) > 1 and text.lstrip("+-")[1:2] in "01234567_"
    try:
        value = int(text, 8 if text.lstrip("+-").startswith("0") and is_octal else 0)
    except ValueError:
        raise failure(line, f"bad number syntax: {text!r}") from None
    if not -_INT64 <= value < _INT64:
        raise failure(line, f"integer overflow: {text}")
    return value
