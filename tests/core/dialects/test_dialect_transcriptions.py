import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.dialects.forms import form_fields
from ollamamax.core.dialects.transcriptions import transcript, transcription
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import Options

TYPE = "multipart/form-data; boundary=XX"
FIELDS = st.dictionaries(
    st.text("abcdefg_", min_size=1),
    st.binary(max_size=50).filter(lambda data: b"--XX" not in data and b"--a b" not in data),
)


def form(fields: dict[str, bytes], boundary: str = "XX") -> bytes:
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"; filename="a"\r\nContent-Type: x/y\r\n\r\n%b\r\n'
        % (boundary.encode(), name.encode(), content)
        for name, content in fields.items()
    ]
    return b"".join(parts) + b"--%b--\r\n" % boundary.encode()


@given(FIELDS)
def test_what_is_sent_is_read(fields: dict[str, bytes]) -> None:
    assert form_fields(form(fields), TYPE) == fields
    assert form_fields(b"preamble\r\n" + form(fields, "a b"), 'Multipart/Form-Data; Boundary="a b"; x=y') == fields


@given(st.binary(max_size=80), st.text(max_size=40))
def test_anything_is_read_or_refused(body: bytes, kind: str) -> None:
    for content_type in (TYPE, kind):
        with suppress(BadRequest):
            assert isinstance(form_fields(body, content_type), dict)


@pytest.mark.parametrize(
    ("body", "kind", "why"),
    [
        (form({"a": b""}), "application/json", "request Content-Type isn't multipart/form-data"),
        (form({"a": b""}), "multipart/form-data", "request Content-Type isn't multipart/form-data"),
        (form({"a": b""}), "multipart/form-data; x=y", "no multipart boundary param in Content-Type"),
        (b"", TYPE, "unexpected EOF"),
        (form({"a": b"x"})[:-6], TYPE, "unexpected EOF"),
        (b"--XX\r\nContent-Type: x/y\r\n\r\nz\r\n--XX--", TYPE, "a part has no name"),
        (b'--XX\r\nContent-Disposition: form-data; name="a"\r\n--XX--', TYPE, "a part has no name"),
    ],
)
def test_what_is_no_form(body: bytes, kind: str, why: str) -> None:
    with pytest.raises(BadRequest, match=f"^failed to parse multipart form: {why}$"):
        form_fields(body, kind)


def test_a_transcription_is_a_chat() -> None:
    fields = {"model": b" m ", "file": b"RIFF", "language": b"fr", "prompt": b"names", "response_format": b"text"}
    asked = transcription(form(fields), TYPE)
    assert asked.as_text
    system, user = asked.request.messages
    assert (asked.request.model, asked.request.stream, asked.request.options) == ("m", False, Options(temperature=0.0))
    assert system.content.endswith("The language is fr. Context: names")
    assert user.images == (b"RIFF",)
    plain = transcription(form({"model": b"m", "file": b"x"}), TYPE)
    assert not plain.as_text
    assert plain.request.messages[0].content.endswith("Add nothing.")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"file": b"x"}, "model is required"),
        ({"model": b"m"}, "file is required: http: no such file"),
        ({"model": b"m", "file": b""}, "audio file is empty"),
        ({"model": b"m", "file": bytes(25 << 20)}, "failed to parse multipart form: http: request body too large"),
    ],
)
def test_refusals(fields: dict[str, bytes], text: str) -> None:
    with pytest.raises(BadRequest, match=f"^{text}$"):
        transcription(form(fields), TYPE)


def test_the_reply() -> None:
    assert json.loads(transcript(" hi\n", False)) == {"text": "hi"}
    assert transcript(" hi\n", True) == b"hi"
