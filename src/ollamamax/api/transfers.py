"""Handlers that move models between this node and registries: pull, push."""

from collections.abc import AsyncGenerator

from ollamamax.api.call import Call
from ollamamax.api.progress import progressed
from ollamamax.core.dialects import ollama_models
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
    try:
        await progressed(call, steps, streamed, changes_store=changes_store)
    except (BadRequest, NotFound, DigestMismatch) as error:
        raise RegistryError(str(error)) from error
