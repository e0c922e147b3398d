"""Frames, errors and versions as they travel between nodes."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.adapters.network import peer_frames
from ollamamax.adapters.network.peer_frames import (
    BEAT,
    END,
    MAX_FRAME_BYTES,
    FrameReader,
    check_versions,
    error_body,
    error_from,
    error_of,
    pack,
    pack_error,
)
from ollamamax.core.errors import (
    DiskFull,
    EngineRefused,
    ModelNotFound,
    OllamaMaxError,
    PeerError,
    PeerProtocol,
    PeerVersion,
    QueueFull,
)


def every_kind(root: type[OllamaMaxError] = OllamaMaxError) -> list[type[OllamaMaxError]]:
    return [kind for child in root.__subclasses__() for kind in [child, *every_kind(child)]]


def fed(data: bytes, cuts: list[int]) -> tuple[list[bytes], FrameReader]:
    reader = FrameReader()
    frames: list[bytes] = []
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(places):
        frames += reader.feed(data[start:end])
    return frames, reader


@given(
    batches=st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=4), max_size=6),
    beats=st.lists(st.booleans(), min_size=7, max_size=7),
    error=st.none() | st.text(max_size=20),
    cuts=st.lists(st.integers(0, 10_000), max_size=30),
)
def test_any_chunking_gives_the_same_frames(
    batches: list[list[bytes]], beats: list[bool], error: str | None, cuts: list[int]
) -> None:
    data = b""
    for batch, has_beat in zip(batches, beats, strict=False):
        data += pack(batch) + BEAT * has_beat
    data += END if error is None else pack_error(DiskFull(error))
    frames, reader = fed(data, cuts)
    assert frames == [frame for batch in batches for frame in batch]
    assert reader.is_over
    if error is None:
        assert reader.error is None
    else:
        assert isinstance(reader.error, DiskFull)
        assert str(reader.error) == error.encode("utf-8", "replace").decode()


@given(data=st.binary(max_size=60), cuts=st.lists(st.integers(0, 60), max_size=8))
def test_garbage_ends_as_a_typed_error_or_not_at_all(data: bytes, cuts: list[int]) -> None:
    try:
        frames, reader = fed(data, cuts)
    except PeerProtocol:
        return
    assert sum(len(frame) + 5 for frame in frames) <= len(data)
    assert reader.error is None or isinstance(reader.error, OllamaMaxError)


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0\0",  # no room for a type
        (MAX_FRAME_BYTES + 1).to_bytes(4, "big") + b"\0",
        b"HTTP/1.1 200 OK",
        b"\0\0\0\1\4",  # an unknown type
        b"\0\0\0\2\1x",  # an end with data
        b"\0\0\0\2\3x",  # a sign of life with data
        END + pack([b"more"]),
        END + END,
        END + b"\0",
        b"\0\0\0\3\2hi",  # an error that is none
    ],
)
def test_what_is_no_frame(data: bytes) -> None:
    with pytest.raises(PeerProtocol):
        FrameReader().feed(data)


def test_a_frame_may_be_as_large_as_that_and_no_larger() -> None:
    largest = bytes(MAX_FRAME_BYTES - 1)
    reader = FrameReader()
    packed = pack([largest])
    frames = [
        frame for start in range(0, len(packed), 1 << 18) for frame in reader.feed(packed[start : start + (1 << 18)])
    ]
    assert frames == [largest]
    with pytest.raises(PeerProtocol, match="more than"):
        pack([b"", bytes(MAX_FRAME_BYTES)])


@pytest.mark.parametrize("kind", every_kind(), ids=lambda kind: kind.__name__)
def test_every_error_arrives_as_its_class(kind: type[OllamaMaxError]) -> None:
    error = kind("what", 409) if issubclass(kind, EngineRefused) else kind("what")
    arrived = error_of(error_body(error))
    assert type(arrived) is kind
    assert str(arrived) == "what"
    assert getattr(arrived, "status", 409) == 409


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in every_kind()]
    assert len(codes) == len(set(codes))


def test_an_error_of_a_newer_program() -> None:
    body = msgspec.msgpack.encode({"code": "brand_new", "text": "what", "more": [1]})
    assert type(error_of(body)) is PeerError
    assert str(error_of(body)) == "what"
    assert type(error_from("internal", "x")) is PeerError


def test_nothing_is_told_of_what_is_not_ours() -> None:
    assert "secret" not in str(error_of(error_body(ValueError("secret"))))


def test_texts_are_bounded_and_never_break_the_coding() -> None:
    assert len(error_body(ModelNotFound("x" * 1_000_000))) < 10_000
    assert str(error_of(error_body(ModelNotFound("a\udcffb")))) == "a?b"
    assert str(error_of(error_body(QueueFull()))) == str(QueueFull())


@pytest.mark.parametrize(
    ("told", "here", "upgraded"),
    [("1-1", (1, 1), ""), ("1-3", (3, 5), ""), ("1-2", (3, 5), "caller"), ("6-9", (3, 5), "here"), ("3-5", (1, 9), "")],
)
def test_versions(told: str, here: tuple[int, int], upgraded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_frames, "PROTOCOL_MIN", here[0])
    monkeypatch.setattr(peer_frames, "PROTOCOL_MAX", here[1])
    if upgraded:
        with pytest.raises(PeerVersion, match=f"upgrade {upgraded}$"):
            check_versions(told, "caller", "here")
    else:
        check_versions(told, "caller", "here")


@pytest.mark.parametrize("told", [None, "", "1", "1-", "a-b", "1-2-3", "99999-99999", "-1-1"])
def test_versions_that_can_t_be_read(told: str | None) -> None:
    with pytest.raises(PeerProtocol, match="X-OllamaMax-Protocol"):
        check_versions(told, "caller", "here")
