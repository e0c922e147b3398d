"""Handlers of OpenAI's other routes: /v1/completions, /v1/embeddings, /v1/responses."""

from ollamamax.api.call import Call
from ollamamax.api.inference import SSE, completion_id, respond, vectors_of
from ollamamax.core.dialects import openai_completions, openai_embeddings, responses
from ollamamax.core.dialects.responses_answers import ResponseAnswer

_NS_PER_S = 1_000_000_000
_ID_BYTES = 12


async def completion(call: Call) -> None:
    """POST /v1/completions."""
    asked = openai_completions.completion(await call.body())
    request = asked.request
    writer = openai_completions.CompletionAnswer(
        request.model,
        completion_id(call, "cmpl"),
        call.services.clock.wall_ns() // _NS_PER_S,
        asked.include_usage,
    )
    await respond(call, request, writer, SSE if request.stream else b"")


async def embeddings(call: Call) -> None:
    """POST /v1/embeddings."""
    asked = openai_embeddings.embeddings(await call.body())
    result = await vectors_of(call, asked.request)
    await call.reply(200, openai_embeddings.embedding_list(asked.request.model, result, asked.as_base64))


async def response(call: Call) -> None:
    """POST /v1/responses."""
    asked = responses.response_request(await call.body())
    request = asked.request
    number = call.services.dice.token_hex(_ID_BYTES)
    writer = ResponseAnswer(request.model, asked.repeated, number, call.services.clock.wall_ns() // _NS_PER_S)
    if request.stream:
        call.extra_headers.append((b"cache-control", b"no-cache"))
    await respond(call, request, writer, SSE if request.stream else b"")
