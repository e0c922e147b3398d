"""Handlers that move models between this node and registries: pull, push."""

from collections.abc import AsyncGenerator

from ollamamax.api.call import Call
from ollamamax.api.streaming import Watch, watched
from ollamamax.core.dialects import ollama_answers, ollama_models
from ollamamax.core.dialects.framing import NDJSON_TYPE, encode, ndjson
from ollamamax.core.errors import BadRequest, DigestMismatch, NotFound, RegistryError
from ollamamax.core.modelspec import names
from ollamamax.core.types import Progress


async def pull(call: Call) -> None:
    """POST /api/pull."""
    request, streamed = ollama_models.pull_request(await call.body())
    call.services.gateway.authorize(call.context, "manage_models", request.model)
    names.parse(request.model)
    await _transfer(call, call.services.library.pull(request), streamed, changes_store=True)


async def push(call: Call) -> None:
    """POST /api/push."""
    request, streamed = ollama_models.push_request(await call.body())
    call.services.gateway.authorize(call.context, "manage_models", request.model)
    await _transfer(call, call.services.library.push(request), streamed, changes_store=False)


async def _transfer(call: Call, steps: AsyncGenerator[Progress, None], streamed: bool, *, changes_store: bool) -> None:
    """What fails is a status of 500 where nothing was streamed, whatever it was: the request itself was fine."""

    async def work(watch: Watch) -> None:
        last = Progress("success")
        async for last in steps:
            if changes_store and last.status == "success":
                await call.services.fleet.local_changed()
            if streamed:
                if not call.status:
                    await call.start(200, NDJSON_TYPE.encode())
                await watch.write(ndjson(ollama_answers.progress(last)))
        if streamed:
            await call.write(b"", more=False)
        else:
            await call.reply(200, encode(ollama_answers.progress(last)))

    try:
        await watched(call, steps, lambda text: ndjson({"error": text}), work)
    except (BadRequest, NotFound, DigestMismatch) as error:
        raise RegistryError(str(error)) from error
