"""Handler of OpenAI's /v1/audio/transcriptions: a chat with a model that can hear."""

from contextlib import aclosing

from ollamamax.api.call import JSON, TEXT, Call
from ollamamax.api.streaming import Watch
from ollamamax.api.wording import REMOTE_MODEL, missing_model
from ollamamax.core.dialects import transcriptions
from ollamamax.core.dialects.gathering import Gatherer
from ollamamax.core.errors import EngineUnavailable, InvalidName, ModelNotFound, Unsupported
from ollamamax.core.modelspec.media import audio_format


async def transcription(call: Call) -> None:
    """POST /v1/audio/transcriptions. Raises: Unsupported for sound that is neither WAV nor MP3; what chats raise."""
    asked = transcriptions.transcription(await call.body(), call.header(b"content-type"))
    request = asked.request
    if not audio_format(request.messages[-1].images[0]):
        raise Unsupported("the audio is neither WAV nor MP3; convert it first")
    gatherer = Gatherer()
    call.handed_over = True
    try:
        async with aclosing(call.services.gateway.chat(call.context, request)) as chunks, Watch(call):
            async for batch in chunks:
                gatherer.add(batch)
    except (InvalidName, ModelNotFound):
        raise missing_model(request.model, "model '{}' not found", cloud=REMOTE_MODEL) from None
    whole = gatherer.whole()
    if whole is None:
        raise EngineUnavailable("the answer ended before it was complete")
    await call.reply(200, transcriptions.transcript(whole.text, asked.as_text), TEXT if asked.as_text else JSON)
