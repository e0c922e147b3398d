"""Handlers that answer with a model: /api/chat, /api/generate, /api/embed(dings), /v1/chat/completions.

What all handlers of that kind share stands here too.
"""

from typing import Final

from ollamamax.api.call import Call
from ollamamax.api.streaming import Watch, Writer, answer
from ollamamax.api.wording import REMOTE_MODEL, missing_model
from ollamamax.core.dialects import ollama, openai
from ollamamax.core.dialects.framing import NDJSON_TYPE, SSE_TYPE, Stamp
from ollamamax.core.dialects.ollama_answers import OllamaAnswer, embedding, embeddings
from ollamamax.core.dialects.openai_answers import OpenAiAnswer
from ollamamax.core.errors import InvalidName, ModelNotFound
from ollamamax.core.types import ChatRequest, Chunk, EmbedRequest, EmbedResult

_NDJSON: Final = NDJSON_TYPE.encode()
SSE: Final = SSE_TYPE.encode()
"""Content type of a stream of events."""
_COMPLETION_IDS: Final = 999


async def chat(call: Call) -> None:
    """POST /api/chat."""
    await _ollama(call, ollama.chat_request(await call.body()), is_chat=True)


async def generate(call: Call) -> None:
    """POST /api/generate."""
    await _ollama(call, ollama.generate_request(await call.body()), is_chat=False)


async def _ollama(call: Call, request: ChatRequest, is_chat: bool) -> None:
    # To load or unload is no conversation: one object, even to those who want a stream.
    is_load = not request.messages and request.prompt is None
    if request.render_only and not is_load:
        images = sum(len(message.images) for message in request.messages)
        await respond(call, request, _RenderedAnswer(request.model, is_chat, call.services.stamp, images), b"")
        return
    writer = OllamaAnswer(request.model, is_chat, call.services.stamp)
    await respond(call, request, writer, _NDJSON if request.stream and not is_load else b"")


class _RenderedAnswer(OllamaAnswer):
    """Of the whole answer, which is the prompt, only that."""

    __slots__ = ("_images",)

    def __init__(self, model: str, is_chat: bool, stamp: Stamp, images: int) -> None:
        super().__init__(model, is_chat, stamp)
        self._images = images

    def whole(self, chunk: Chunk, wall_ns: int, elapsed_ns: int) -> bytes:
        return self.rendered(chunk.text, self._images, wall_ns)


async def chat_completion(call: Call) -> None:
    """POST /v1/chat/completions."""
    asked = openai.chat_completion(await call.body())
    request = asked.request
    writer = OpenAiAnswer(
        request.model,
        completion_id(call, "chatcmpl"),
        call.services.clock.wall_ns() // 1_000_000_000,
        asked.include_usage,
    )
    await respond(call, request, writer, SSE if request.stream else b"")


def completion_id(call: Call, prefix: str) -> str:
    """An id in the form that Ollama gives to completions."""
    return f"{prefix}-{int(call.services.dice.random() * _COMPLETION_IDS)}"


async def respond(call: Call, request: ChatRequest, writer: Writer, stream_type: bytes) -> None:
    """Answer a request in a dialect. stream_type: b"" if it is to be sent whole. Raises: what may still be told."""
    if not request.model:
        raise ModelNotFound("model '' not found")
    call.handed_over = True
    try:
        await answer(call, call.services.gateway.chat(call.context, request), writer, stream_type)
    except (InvalidName, ModelNotFound):
        raise missing_model(request.model, "model '{}' not found", cloud=REMOTE_MODEL) from None


async def embed(call: Call) -> None:
    """POST /api/embed."""
    request = ollama.embed_request(await call.body())
    result = await vectors_of(call, request)
    await call.reply(200, embeddings(request.model, result, call.elapsed_ns()))


async def embed_one(call: Call) -> None:
    """POST /api/embeddings, the older form."""
    await call.reply(200, embedding(await vectors_of(call, ollama.embeddings_request(await call.body()))))


async def vectors_of(call: Call, request: EmbedRequest) -> EmbedResult:
    """The vectors, unless the client leaves meanwhile. Raises: what may still be told; ClientGone."""
    if not request.model:
        raise ModelNotFound("model '' not found")
    call.handed_over = True
    try:
        async with Watch(call):
            return await call.services.gateway.embed(call.context, request)
    except (InvalidName, ModelNotFound):
        not_found = 'model "{}" not found, try pulling it first'
        raise missing_model(request.model, not_found, cloud=REMOTE_MODEL) from None
