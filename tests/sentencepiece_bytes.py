"""SentencePiece models byte by byte, for tests of what reads them."""

import struct


def varint(value: int) -> bytes:
    data = b""
    while value > 0x7F:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


def field(number: int, form: int, content: bytes) -> bytes:
    length = varint(len(content)) if form == 2 else b""
    return varint(number << 3 | form) + length + content


def piece(text: str, score: float, kind: int | None) -> bytes:
    data = field(1, 2, text.encode()) + field(2, 5, struct.pack("<f", score))
    return field(1, 2, data + (field(3, 0, varint(kind)) if kind is not None else b""))


def model(pieces: list[tuple[str, float, int | None]], prefix: int | None = None) -> bytes:
    """A tokenizer.model. prefix: what add_dummy_prefix says."""
    normalizer = field(1, 2, b"nmt") + (field(3, 0, varint(prefix)) if prefix is not None else b"")
    trainer = field(2, 2, field(3, 0, varint(2))) + field(9, 1, bytes(8)) + field(3, 0, b"\x05")
    return b"".join(piece(*each) for each in pieces) + trainer + field(3, 2, normalizer)
