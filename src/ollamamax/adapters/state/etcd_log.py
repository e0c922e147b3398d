"""What an etcd logs, as lines of ours; and what its last lines tell about why it ended."""

import asyncio
from collections import deque
from typing import Any, Final

import msgspec
import structlog

_MAX_LINE_BYTES: Final = 16 << 10
_TAIL_LINES: Final = 30
_LEAVE_OUT: Final = ("level", "ts", "caller", "msg", "stacktrace")

# What the last lines may tell, the most telling first, and what it means for people.
_CAUSES: Final = (
    ("no space left on device", "the disk that its data lie on is full; make room, it starts again by itself"),
    ("disk quota exceeded", "the disk that its data lie on is full; make room, it starts again by itself"),
    ("permanently removed from the cluster", "this member was removed from its cluster"),
    ("address already in use", "one of its ports is taken by another program ({line})"),
    ("can't assign requested address", "its address is none of this machine's ({line})"),
    ("cannot assign requested address", "its address is none of this machine's ({line})"),
    ("permission denied", "it may not use its files ({line})"),
    ("read-only file system", "its data lie on a disk that is read-only"),
    ("member count is unequal", "its members are not those that it was started with ({line})"),
    ("cluster id mismatch", "the data are another cluster's ({line})"),
    ("crc mismatch", "its data are damaged; remove this member and let it join anew ({line})"),
    ("failed to recover", "its data are damaged; remove this member and let it join anew ({line})"),
    ("failed to find database snapshot", "its data are damaged; remove this member and let it join anew ({line})"),
    ("x509", "its certificates are refused ({line})"),
    ("bad certificate", "its certificates are refused ({line})"),
    ("can't be started", "{line}"),
)


class EtcdLog:
    """name: of the member."""

    def __init__(self, name: str) -> None:
        self._log = structlog.get_logger("etcd").bind(member=name)
        self._tail: deque[tuple[str, str]] = deque(maxlen=_TAIL_LINES)  # (level, text)

    async def follow(self, stream: asyncio.StreamReader) -> None:
        """Read to the end."""
        rest = b""
        while data := await stream.read(1 << 16):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[-_MAX_LINE_BYTES:]
            for line in lines:
                self._note(line[:_MAX_LINE_BYTES])
        self._note(rest)

    def begin(self) -> None:
        """What an earlier run told is of no interest any more."""
        self._tail.clear()

    def cause(self) -> str:
        """What its last lines tell of why it ended or does not get on; "" if nothing."""
        for mark, meaning in _CAUSES:
            for _, text in reversed(self._tail):
                if mark in text.lower():
                    return meaning.format(line=text)
        return next((text for level, text in reversed(self._tail) if level in ("fatal", "panic")), "")

    def ended(self, reason: str, pause_s: float) -> None:
        """It ended by itself."""
        self._log.warning("etcd ended", reason=reason, again_in_s=pause_s)

    def _note(self, line: bytes) -> None:
        """One step below etcd's level: its information tells of daily business, its warnings of slow disks and of
        members that are away, of which the node itself has a view."""
        text = line.decode("utf-8", "replace").strip()
        if not text:
            return
        level, fields = "info", {}
        try:
            told = msgspec.json.decode(line)
            level, message = str(told["level"]), str(told["msg"])
            fields = {name: value for name, value in told.items() if name not in _LEAVE_OUT}
        except (msgspec.MsgspecError, TypeError, KeyError, AttributeError):
            level = "fatal" if text.startswith(("panic", "fatal")) else "info"
            message = text
        summary = ", ".join(f"{name}: {value}" for name, value in fields.items() if name in ("error", "address"))
        self._tail.append((level, f"{message}: {summary}" if summary else message))
        emit: Any = {"warn": self._log.info, "info": self._log.debug, "debug": self._log.debug}.get(
            level, self._log.warning
        )
        emit(message, etcd=fields) if fields else emit(message)
