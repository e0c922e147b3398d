"""What a 401 asks for: the grammar of WWW-Authenticate, read leniently. Source: RFC 9110, section 11.

::

    header    = challenge *( "," challenge )
    challenge = scheme [ token68 / param *( "," param ) ]
    param     = token "=" ( token / quoted-string )

An unquoted value may hold anything but commas, quotes and spaces. What can't be understood ends the reading.
"""

import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

_BLANK: Final = re.compile(r"[\s,]*", re.ASCII)
_SPACE: Final = re.compile(r"[ \t]*")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BARE: Final = re.compile(r'[^\s,"=][^\s,"]*', re.ASCII)
_TOKEN68: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))")
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


class Challenge(Struct, frozen=True):
    """scheme: in lower case.  parameters: by lower-case name; of repeated ones the first."""

    scheme: str
    parameters: dict[str, str] = {}


def parse(header: str) -> list[Challenge]:
    """All challenges of one header, as far as it can be understood."""
    found: list[Challenge] = []
    at = 0
    while token := _TOKEN.match(header, _end(_BLANK, header, at)):
        at = token.end()
        if found and (value := _value(header, at)) is not None:
            text, at = value
            found[-1].parameters.setdefault(token[0].lower(), text)
            continue
        found.append(Challenge(token[0].lower(), {}))
        if token68 := _TOKEN68.match(header, _end(_SPACE, header, at)):
            at = token68.end()
    return found


def bearer(headers: Iterable[str]) -> Challenge | None:
    """The first one that asks for a bearer token and says where to get it."""
    challenges = (challenge for header in headers for challenge in parse(header))
    return next((one for one in challenges if one.scheme == "bearer" and one.parameters.get("realm")), None)


def _value(header: str, at: int) -> tuple[str, int] | None:
    """What stands behind an equals sign, and where it ends; None where there is neither."""
    at = _end(_SPACE, header, at)
    if not header.startswith("=", at):
        return None
    at = _end(_SPACE, header, at + 1)
    if quoted := _QUOTED.match(header, at):
        return _ESCAPED.sub(r"\1", quoted[1]), quoted.end()
    if bare := _BARE.match(header, at):
        return bare[0], bare.end()
    return None


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    assert match is not None, "the pattern matches nothing at all, too"
    return match.end()
