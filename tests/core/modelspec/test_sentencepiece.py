import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.errors import GgufError
from ollamamax.core.modelspec.sentencepiece import Piece, Vocabulary, parse


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


@given(st.lists(st.tuples(st.text(), st.floats(width=32, allow_nan=False), st.integers(1, 6)), min_size=1))
def test_what_is_written_is_read(pieces: list[tuple[str, float, int]]) -> None:
    assert parse(model(list(pieces))) == Vocabulary(tuple(Piece(*each) for each in pieces), True)


def test_a_kind_that_is_not_said_is_normal() -> None:
    assert parse(model([("a", 0.5, None)], prefix=0)) == Vocabulary((Piece("a", 0.5, 1),), False)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "holds no tokens"),
        (field(2, 2, b""), "holds no tokens"),
        (field(1, 0, b"\x01"), "holds no tokens"),
        (b"\x0a", "is damaged"),
        (b"\x0a\x7f", "is damaged: field 1 is cut off or of an unknown form"),
        (b"\x0b", "is damaged: field 1 is cut off or of an unknown form"),
        (b"\xff" * 11, "a number is too long"),
        (field(1, 2, field(2, 5, b"\0\0\0\0")), "is damaged"),
        (field(1, 2, field(1, 2, b"\xff")), "is damaged"),
        (field(1, 2, field(1, 2, b"a") + field(2, 0, b"\x03")), "is damaged"),
    ],
)
def test_damage(data: bytes, text: str) -> None:
    with pytest.raises(GgufError, match=r"tokenizer\.model ") as caught:
        parse(data)
    assert text in str(caught.value)


@given(st.binary())
def test_any_bytes_are_a_vocabulary_or_refused(data: bytes) -> None:
    try:
        parse(data)
    except GgufError:
        pass
