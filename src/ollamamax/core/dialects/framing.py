"""Frames: objects to NDJSON lines and server-sent events, and the stamp that goes into each line.

Sources: ndjson.org; WHATWG HTML, section 9.2 "Server-sent events".
"""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import msgspec

encode: Final = msgspec.json.Encoder().encode
"""Any value to JSON bytes."""

NDJSON_TYPE: Final = "application/x-ndjson"
SSE_TYPE: Final = "text/event-stream"
SSE_DONE: Final = b"data: [DONE]\n\n"

_SECOND_NS: Final = 1_000_000_000
_LAST_SECOND: Final = 253_370_764_800  # 9999-01-01, so that no zone's offset leaves the calendar


def ndjson(value: Any) -> bytes:
    """One line."""
    return encode(value) + b"\n"


def sse(value: Any) -> bytes:
    """One event without a name."""
    return b"data: " + encode(value) + b"\n\n"


def sse_named(name: str, value: Any) -> bytes:
    """One event with a name, which must be one line of ASCII."""
    return b"event: " + name.encode() + b"\ndata: " + encode(value) + b"\n\n"


class Stamp:
    """Unix nanoseconds to RFC 3339 in UTC with nine fraction digits, as bytes. Keeps the last second's text."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = b""

    def at(self, wall_ns: int) -> bytes:
        """`2026-08-21T09:30:00.000000001Z`. Mutates the memory of the last second."""
        second, fraction_ns = divmod(wall_ns, _SECOND_NS)
        if second != self._second:
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
            self._second = second
        return b"%b.%09dZ" % (self._text, fraction_ns)


def local_time(wall_ns: int, offset_s: int) -> str:
    """RFC 3339 with nine fraction digits in a zone of `offset_s` east of Greenwich."""
    second, fraction_ns = divmod(wall_ns, _SECOND_NS)
    zone = timezone(timedelta(seconds=offset_s))
    moment = datetime.fromtimestamp(max(0, min(second, _LAST_SECOND)), zone)
    offset = moment.strftime("%z")
    suffix = f"{offset[:3]}:{offset[3:5]}" if offset_s else "Z"
    return f"{moment.strftime('%Y-%m-%dT%H:%M:%S')}.{fraction_ns:09d}{suffix}"
