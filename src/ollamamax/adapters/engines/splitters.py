"""Cutting a byte stream into server-sent events or lines, incrementally.

Source: WHATWG HTML, section 9.2.6 (event stream interpretation), the part that servers of models use: `data` fields
of one or more lines, comments, line ends of LF or CRLF.
Deliberate limits: `event`, `id` and `retry` fields are ignored; a lone CR is no line end; a byte order mark is not
skipped.
"""

from typing import Final

from ollamamax.core.errors import EngineProtocol

MAX_PIECE_BYTES: Final = 8 << 20
"""The longest event or line that is taken for sane; a final event may carry a whole schema or prompt."""
_FIELD: Final = b"data: "


class EventSplitter:
    """Bytes in, the `data` of each whole event out."""

    def __init__(self, max_bytes: int = MAX_PIECE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that `data` completes. Raises: EngineProtocol for an endless one."""
        buffered = self._rest + data if self._rest else data
        if b"\r" in buffered:  # JSON escapes control characters, so a raw CR can only belong to a line end
            buffered = buffered.replace(b"\r\n", b"\n")
        if buffered.startswith(_FIELD) and buffered.endswith(b"\n\n"):
            events = buffered[len(_FIELD) : -2].split(b"\n\n" + _FIELD)
            if buffered.count(b"\n") == 2 * len(events) and b"" not in events:
                # Whole events of one line each, as nearly all reads are.
                self._rest = b""
                return events
        *events, rest = buffered.split(b"\n\n")
        self._rest = _bounded(rest, self._max_bytes)
        return [
            found
            for event in events
            if (found := event[6:] if event.startswith(b"data: ") and b"\n" not in event else _data_of(event))
        ]

    def finish(self) -> list[bytes]:
        """The last event, where the stream ended without the blank line."""
        rest, self._rest = self._rest, b""
        found = _data_of(rest.rstrip(b"\r\n"))
        return [found] if found else []


class LineSplitter:
    """Bytes in, whole lines out; empty ones are skipped."""

    def __init__(self, max_bytes: int = MAX_PIECE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without their ends. Raises: EngineProtocol for an endless one."""
        *lines, rest = (self._rest + data if self._rest else data).split(b"\n")
        self._rest = _bounded(rest, self._max_bytes)
        return [line for line in lines if line.strip()]

    def finish(self) -> list[bytes]:
        """The last line, where the stream ended without a line end."""
        rest, self._rest = self._rest, b""
        return [rest] if rest.strip() else []


def _bounded(rest: bytes, max_bytes: int) -> bytes:
    if len(rest) > max_bytes:
        raise EngineProtocol(f"the engine sent more than {max_bytes} bytes without an end of line")
    return rest


def _data_of(event: bytes) -> bytes:
    fields = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(fields)
