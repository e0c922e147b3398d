"""Handlers about models: lists, show, copy, delete, create, blobs."""

import time
from contextlib import aclosing
from typing import Final

from ollamamax.api.call import JSON, Call
from ollamamax.api.progress import progressed
from ollamamax.api.wording import is_valid_name, missing_model, short_name
from ollamamax.core.dialects import ollama_answers, ollama_models, openai_answers
from ollamamax.core.dialects.framing import encode
from ollamamax.core.errors import BadRequest, InvalidName, ModelNotFound, TemplateError
from ollamamax.core.modelspec import digests, names

_COPILOT: Final = "GitHubCopilotChat/"


def _zone_offset_s(unix_s: int) -> int:
    return time.localtime(unix_s).tm_gmtoff


async def tags(call: Call) -> None:
    """GET /api/tags."""
    call.services.gateway.authorize(call.context, "read", "")
    await call.reply(200, ollama_answers.tags(await call.services.fleet.records(), _zone_offset_s))


async def running(call: Call) -> None:
    """GET /api/ps."""
    call.services.gateway.authorize(call.context, "read", "")
    rows = await call.services.fleet.running()
    await call.reply(200, ollama_answers.running(rows, call.services.clock.wall_ns(), _zone_offset_s))


async def show(call: Call) -> None:
    """POST /api/show."""
    request = ollama_models.show_request(await call.body())
    call.services.gateway.authorize(call.context, "read", request.model)
    try:
        shown = await call.services.library.show(request.model, request.verbose, request.system, request.options)
    except (InvalidName, ModelNotFound):
        described = await call.services.fleet.describe(request.model)
        if described is None:
            raise missing_model(
                request.model,
                f"model '{short_name(request.model)}' not found",
                cloud="remote model details are unavailable",
            ) from None
        shown = described
    if call.header(b"user-agent").startswith(_COPILOT):
        # Copilot takes this for the model's display name.
        shown = {**shown, "model_info": {**(shown.get("model_info") or {}), "general.basename": request.model}}
    await call.reply(200, encode(shown))


async def copy(call: Call) -> None:
    """POST /api/copy."""
    source, destination = ollama_models.copy_request(await call.body())
    call.services.gateway.authorize(call.context, "manage_models", destination)
    for part, name in (("source", source), ("destination", destination)):
        if not is_valid_name(name):
            raise InvalidName(f'{part} "{name}" is invalid')
    try:
        await call.services.library.copy(source, destination)
    except ModelNotFound:
        raise missing_model(source, 'model "{}" not found') from None
    await call.services.fleet.local_changed()
    await call.reply(200)


async def delete(call: Call) -> None:
    """DELETE /api/delete."""
    model = ollama_models.delete_request(await call.body())
    call.services.gateway.authorize(call.context, "manage_models", model)
    try:
        await call.services.library.delete(model)
    except (InvalidName, ModelNotFound):
        raise missing_model(model, "model '{}' not found", 'name "{}" is invalid') from None
    await call.services.fleet.local_changed()
    await call.reply(200)


async def create(call: Call) -> None:
    """POST /api/create."""
    request, streamed = ollama_models.create_request(await call.body())
    call.services.gateway.authorize(call.context, "manage_models", request.model)
    names.parse(request.model)
    try:
        await progressed(call, call.services.library.create(request), streamed)
    except TemplateError as error:
        raise BadRequest(f"template error: {error}") from None


async def has_blob(call: Call) -> None:
    """HEAD /api/blobs/:digest."""
    digest = digests.normalise(call.parameter("digest"))
    call.services.gateway.authorize(call.context, "read", digest)
    await call.reply(200 if await call.services.library.has_blob(digest) else 404)


async def put_blob(call: Call) -> None:
    """POST /api/blobs/:digest. The body of a blob that is here already is read away, so that the sender gets to end."""
    digest = digests.normalise(call.parameter("digest"))
    call.services.gateway.authorize(call.context, "manage_models", digest)
    async with aclosing(call.pieces()) as pieces:
        created = await call.services.library.put_blob(digest, pieces)
        async for _ in pieces:
            pass
    await call.reply(201 if created else 200)


async def openai_models(call: Call) -> None:
    """GET /v1/models."""
    call.services.gateway.authorize(call.context, "read", "")
    await call.reply(200, openai_answers.model_list(await call.services.fleet.records()))


async def openai_model(call: Call) -> None:
    """GET /v1/models/:model; the name may hold slashes."""
    model = call.parameter("model")
    call.services.gateway.authorize(call.context, "read", model)
    key = names.key(model)
    for record in await call.services.fleet.records():
        if names.key(record.name) == key:
            await call.reply(200, encode(openai_answers.model_object(model, record)), JSON)
            return
    raise missing_model(model, "model '{}' not found")
