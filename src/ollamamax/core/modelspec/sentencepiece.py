"""The vocabulary of a SentencePiece model (`tokenizer.model`): so much of Protocol Buffers as it takes to read it.

Source: google/sentencepiece `src/sentencepiece_model.proto`; the numbers of its types are those of GGUF's.
"""

import struct
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from ollamamax.core.errors import GgufError

NORMAL: Final = 1
_PIECES, _NORMALIZER = 1, 3
_TEXT, _SCORE, _TYPE = 1, 2, 3
_DUMMY_PREFIX: Final = 3
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES: Final = 10

Value = int | bytes


class Piece(Struct, frozen=True):
    """A token. kind: of GGUF's token types."""

    text: str
    score: float
    kind: int


class Vocabulary(Struct, frozen=True):
    """All tokens by id. adds_space: whether a text gets a space in front."""

    pieces: tuple[Piece, ...]
    adds_space: bool


def parse(data: bytes) -> Vocabulary:
    """Raises: GgufError."""
    pieces: list[Piece] = []
    adds_space = True
    try:
        for field, value in _fields(data):
            if field == _PIECES and isinstance(value, bytes):
                pieces.append(_piece(value))
            elif field == _NORMALIZER and isinstance(value, bytes):
                adds_space = bool(dict(_fields(value)).get(_DUMMY_PREFIX, 1))
    except (struct.error, LookupError, ValueError, TypeError) as error:
        raise GgufError(f"tokenizer.model is damaged: {error}") from error
    if not pieces:
        raise GgufError("tokenizer.model holds no tokens: it is no SentencePiece model")
    return Vocabulary(tuple(pieces), adds_space)


def _piece(data: bytes) -> Piece:
    values = dict(_fields(data))
    (score,) = struct.unpack("<f", bytes(values.get(_SCORE, b"\0\0\0\0")))
    return Piece(bytes(values[_TEXT]).decode(), score, int(values.get(_TYPE, NORMAL)))


def _fields(data: bytes) -> Iterator[tuple[int, Value]]:
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        field, form = tag >> 3, tag & 7
        value: Value
        if form == _VARINT:
            value, position = _varint(data, position)
        else:
            length = {_FIXED64: 8, _FIXED32: 4}.get(form, -1)
            if form == _BYTES:
                length, position = _varint(data, position)
            if not 0 <= length <= len(data) - position:
                raise ValueError(f"field {field} is cut off or of an unknown form")
            value = data[position : position + length]
            position += length
        yield field, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for place in range(_MAX_VARINT_BYTES):
        byte = data[position + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, position + place + 1
    raise ValueError("a number is too long")
