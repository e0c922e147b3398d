import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.modelspec.media import audio_format


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"RIFF\x24\0\0\0WAVEfmt ", "wav"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", ""),
        (b"ID3\x04\0", "mp3"),
        (b"\xff\xfb\x90\x64", "mp3"),
        (b"\xff\xf3\x90\x64", "mp3"),
        (b"\xff\xd8\xff\xe0 JFIF", ""),
        (b"\xff\xf1 of AAC", ""),
        (b"\x89PNG\r\n\x1a\n", ""),
        (b"\xff", ""),
        (b"", ""),
    ],
)
def test_sound_is_known_by_its_first_bytes(data: bytes, kind: str) -> None:
    assert audio_format(data) == kind


@given(st.binary(max_size=20))
def test_any_bytes_have_an_answer(data: bytes) -> None:
    assert audio_format(data) in ("wav", "mp3", "")
