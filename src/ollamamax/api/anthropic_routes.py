"""Handlers of Anthropic's API: /v1/messages and /v1/messages/count_tokens."""

from msgspec.structs import replace

from ollamamax.api.call import Call
from ollamamax.api.inference import SSE, respond
from ollamamax.core.dialects import anthropic
from ollamamax.core.dialects.anthropic_answers import MessageAnswer, token_count
from ollamamax.core.modelspec import names
from ollamamax.core.types import ChatRequest, Chunk

_ID_BYTES = 12


async def messages(call: Call) -> None:
    """POST /v1/messages."""
    _add_request_id(call)
    request = await _as_it_can(call, anthropic.messages_request(await call.body()))
    writer = MessageAnswer(
        request.model,
        f"msg_{call.services.dice.token_hex(_ID_BYTES)}",
        anthropic.estimated_tokens(request) if request.stream else 0,
        call.request_id,
    )
    if request.stream:
        call.extra_headers.append((b"cache-control", b"no-cache"))
    await respond(call, request, writer, SSE if request.stream else b"")


async def count_tokens(call: Call) -> None:
    """POST /v1/messages/count_tokens: by the engine that has the model, or an error if that can't count."""
    _add_request_id(call)
    request = await _as_it_can(call, anthropic.count_request(await call.body()))
    await respond(call, request, _CountAnswer(request.model, "", 0, call.request_id), b"")


class _CountAnswer(MessageAnswer):
    """Of the whole answer tells only the count."""

    def whole(self, chunk: Chunk, wall_ns: int, elapsed_ns: int) -> bytes:
        return token_count(chunk.stats)


def _add_request_id(call: Call) -> None:
    """Anthropic's clients look for the id under a name of their own."""
    call.extra_headers.append((b"request-id", f"req_{call.request_id}".encode()))


async def _as_it_can(call: Call, request: ChatRequest) -> ChatRequest:
    """The same without thinking if the model is known not to think: these clients ask for it of any model."""
    if not request.think:
        return request
    key = names.key(request.model)
    for record in await call.services.fleet.records():
        if names.key(record.name) == key:
            can_think = not record.capabilities or "thinking" in record.capabilities
            return request if can_think else replace(request, think=None)
    return request
