"""Durations as Go writes them: `300ms`, `1h30m`, `-1.5s`, `0`.

Source: Go's `time.ParseDuration`, with its error texts; keep_alive as in Ollama's `api.Duration`.
"""

import re
from math import ceil
from typing import Any, Final

from ollamamax.core.errors import BadRequest
from ollamamax.core.types import FOREVER_MS

_UNIT_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_LIMIT_NS: Final = float((1 << 63) - 1)
_TERM: Final = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?P<unit>[^.0-9]*)", re.ASCII)
_GO_TYPE: Final = {bool: "bool", dict: "map[string]interface {}", list: "[]interface {}"}


def parse_duration(text: str) -> float:
    """Nanoseconds. Raises: BadRequest in Go's words."""
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    total_ns, position = 0.0, 0
    while position < len(rest):
        term = _TERM.match(rest, position)
        if term is None:
            raise _invalid(text)
        if not term["unit"]:
            raise BadRequest(f'time: missing unit in duration "{text}"')
        if term["unit"] not in _UNIT_NS:
            raise BadRequest(f'time: unknown unit "{term["unit"]}" in duration "{text}"')
        total_ns += float(term["number"]) * _UNIT_NS[term["unit"]]
        position = term.end()
    if position == 0 or total_ns > _LIMIT_NS:
        raise _invalid(text)
    return sign * total_ns


def keep_alive_ms(value: Any) -> int | None:
    """A request's keep_alive in ms: None = not said, 0 = unload after, FOREVER_MS = never.

    A number means seconds; below zero means for ever. What is positive never rounds to 0. Raises: BadRequest.
    """
    if value is None:
        return None
    if isinstance(value, str):
        duration_ns = parse_duration(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        # Bounded first: a valid JSON number can be an integer that no float holds.
        duration_ns = float(max(-1, min(value, _LIMIT_NS))) * 1e9
    else:
        raise BadRequest(f"Unsupported type: '{_GO_TYPE[type(value)]}'")
    if duration_ns < 0:
        return FOREVER_MS
    return ceil(min(duration_ns, _LIMIT_NS) / 1e6)


def _invalid(text: str) -> BadRequest:
    return BadRequest(f'time: invalid duration "{text}"')
