import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.errors import GgufError
from ollamamax.core.modelspec.sentencepiece import Piece, Vocabulary, parse
from sentencepiece_bytes import field, model


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
