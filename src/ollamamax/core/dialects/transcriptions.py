"""OpenAI's transcription of speech, as Ollama does it: a chat about the sound, with a model that can hear.

Of the reply's forms there are `json` and `text`; others count as `json`.
"""

from typing import Final

from msgspec import Struct

from ollamamax.core.dialects.forms import form_fields
from ollamamax.core.dialects.framing import encode
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import ChatRequest, Message, Options

_MAX_BYTES: Final = 25 << 20
_TASK: Final = "Write down what is said in the audio, word for word, in the language that is spoken. Add nothing."


class Transcription(Struct, frozen=True):
    """What is asked. as_text: the reply is plain text."""

    request: ChatRequest
    as_text: bool


def transcription(body: bytes, content_type: str) -> Transcription:
    """A body of /v1/audio/transcriptions. Raises: BadRequest."""
    if len(body) > _MAX_BYTES:
        raise BadRequest("failed to parse multipart form: http: request body too large")
    fields = form_fields(body, content_type)
    model, language, hint, kind = (
        fields.get(name, b"").decode("utf-8", "replace").strip()
        for name in ("model", "language", "prompt", "response_format")
    )
    if not model:
        raise BadRequest("model is required")
    if "file" not in fields:
        raise BadRequest("file is required: http: no such file")
    if not fields["file"]:
        raise BadRequest("audio file is empty")
    said = [f"The language is {language}."] * bool(language) + [f"Context: {hint}"] * bool(hint)
    request = ChatRequest(
        model=model,
        messages=(
            Message("system", " ".join([_TASK, *said])),
            Message("user", "Transcribe this audio.", images=(fields["file"],)),
        ),
        options=Options(temperature=0.0),
        stream=False,
    )
    return Transcription(request, kind == "text")


def transcript(text: str, as_text: bool) -> bytes:
    """The reply."""
    return text.strip().encode() if as_text else encode({"text": text.strip()})
