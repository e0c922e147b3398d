"""What nodes say to each other over HTTP: frames of a streamed answer, the form of errors, and versions.

::

    request   = "POST /v1/" method, the header X-OllamaMax-Protocol: "<min>-<max>", a body of a known length
    answer    = status 200 and the body itself, or frames; any other status: an error as the body
    frame     = length (4 bytes, big endian, of what follows), type (1 byte), data
    type      = 0 data | 1 end | 2 error (the data is an error) | 3 a sign of life, without data
    error     = msgpack {"code": text, "text": text, "status": int (of engine_refused alone)}

A streamed answer ends with exactly one frame of type 1 or 2.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from ollamamax.core.errors import EngineRefused, OllamaMaxError, PeerError, PeerProtocol, PeerVersion
from ollamamax.core.types import PROTOCOL_MAX, PROTOCOL_MIN

PROTOCOL_HEADER: Final = "X-OllamaMax-Protocol"
PROTOCOL_RANGE: Final = f"{PROTOCOL_MIN}-{PROTOCOL_MAX}"
PATH_PREFIX: Final = "/v1/"
MAX_FRAME_BYTES: Final = 16 << 20
MAX_BODY_BYTES: Final = 64 << 20
MAX_ERROR_BYTES: Final = 64 << 10
_MAX_TEXT_CHARS: Final = 8_000
_RANGE: Final = re.compile(r"([0-9]{1,4})-([0-9]{1,4})")
_HEAD: Final = struct.Struct(">IB")
_LENGTH_BYTES: Final = 4
_DATA, _END, _ERROR, _BEAT = range(4)

END: Final = _HEAD.pack(1, _END)
"""The last frame of an answer that is whole."""
BEAT: Final = _HEAD.pack(1, _BEAT)
"""Says that the node is there while its handler has nothing to say."""


class WireError(msgspec.Struct, omit_defaults=True):
    """An error as it travels. status: see EngineRefused."""

    code: str
    text: str
    status: int = 0


_encode_error = msgspec.msgpack.Encoder().encode
_decode_error = msgspec.msgpack.Decoder(WireError).decode


def pack(payloads: Sequence[bytes]) -> bytes:
    """Data frames, one per payload. Raises: PeerProtocol for one that is too large."""
    if len(payloads) == 1:
        payload = payloads[0]
        if len(payload) >= MAX_FRAME_BYTES:
            raise _too_large()
        return _HEAD.pack(len(payload) + 1, _DATA) + payload
    return b"".join([pack((payload,)) for payload in payloads])


def pack_error(error: BaseException) -> bytes:
    """The last frame of an answer that failed."""
    body = error_body(error)
    return _HEAD.pack(len(body) + 1, _ERROR) + body


def error_body(error: BaseException) -> bytes:
    """An error as it travels; of one that is not ours nothing is told."""
    if not isinstance(error, OllamaMaxError):
        return _encode_error(WireError(OllamaMaxError.code, "internal error; the log of that node tells more"))
    status = error.status if isinstance(error, EngineRefused) else 0
    text = str(error)[:_MAX_TEXT_CHARS].encode("utf-8", "replace").decode()
    return _encode_error(WireError(error.code, text, status))


def error_of(body: bytes) -> OllamaMaxError:
    """The error that a body holds. Raises: PeerProtocol if it can't be read."""
    try:
        told = _decode_error(body)
    except msgspec.DecodeError:
        raise PeerProtocol("it answered with an error that can't be read") from None
    return error_from(told.code, told.text, told.status)


def error_from(code: str, text: str, status: int = 0) -> OllamaMaxError:
    """An error of the class that has the code; PeerError for a code that this program does not know."""
    kind = _KINDS.get(code, PeerError)
    if issubclass(kind, EngineRefused):
        return kind(text, status)
    return kind(text)


def _kinds(root: type[OllamaMaxError]) -> Iterator[tuple[str, type[OllamaMaxError]]]:
    for kind in root.__subclasses__():
        yield kind.code, kind
        yield from _kinds(kind)


_KINDS: Final = dict(_kinds(OllamaMaxError))


def check_versions(told: str | None, caller: str, here: str) -> None:
    """Whether both sides have a version in common. told: the caller's header.  caller, here: how texts call the sides.

    Raises: PeerProtocol for a header that is missing or unreadable; PeerVersion, which says who has to upgrade.
    """
    match = _RANGE.fullmatch(told or "")
    if match is None:
        raise PeerProtocol(f"the header {PROTOCOL_HEADER} is missing or can't be read: is that an OllamaMax node?")
    low, high = int(match[1]), int(match[2])
    if low <= PROTOCOL_MAX and high >= PROTOCOL_MIN:
        return
    old = caller if high < PROTOCOL_MIN else here
    raise PeerVersion(
        f"{caller} speaks versions {low} to {high} of the talk between nodes, {here} {PROTOCOL_MIN} to {PROTOCOL_MAX}: "
        f"upgrade {old}"
    )


class FrameReader:
    """Cuts bytes into frames. is_over: the last frame came.  error: what it said, None if all went well."""

    __slots__ = ("_needed", "_pending", "error", "is_over")

    def __init__(self) -> None:
        self._pending = bytearray()
        self._needed = _HEAD.size
        self.is_over = False
        self.error: OllamaMaxError | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The data frames that are whole now. Raises: PeerProtocol."""
        if self._pending:
            self._pending += data
            if len(self._pending) < self._needed:
                return []
            data = bytes(self._pending)
            self._pending.clear()
        frames: list[bytes] = []
        place, size = 0, len(data)
        while size - place >= _HEAD.size:
            length, kind = _HEAD.unpack_from(data, place)
            if not 0 < length <= MAX_FRAME_BYTES:
                raise _too_large() if length else PeerProtocol("an empty frame")
            end = place + _LENGTH_BYTES + length
            if end > size:
                break
            if kind == _DATA and not self.is_over:
                frames.append(data[place + _HEAD.size : end])
            else:
                self._take(kind, data[place + _HEAD.size : end])
            place = end
        if place < size:
            self._keep(data, place)
        return frames

    def _keep(self, data: bytes, place: int) -> None:
        """What is left is the beginning of a frame."""
        if self.is_over:
            raise PeerProtocol("bytes after the last frame")
        self._pending += data[place:]
        self._needed = _HEAD.size
        if len(self._pending) >= _HEAD.size:
            self._needed = _LENGTH_BYTES + _HEAD.unpack_from(self._pending)[0]

    def _take(self, kind: int, data: bytes) -> None:
        if self.is_over:
            raise PeerProtocol("a frame after the last one")
        if kind == _END and not data:
            self.is_over = True
        elif kind == _ERROR:
            self.is_over = True
            self.error = error_of(data)
        elif kind != _BEAT or data:
            raise PeerProtocol(f"a frame of an unknown form (type {kind})")


def _too_large() -> PeerProtocol:
    return PeerProtocol(f"a frame of more than {MAX_FRAME_BYTES} bytes")
