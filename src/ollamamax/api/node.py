"""Handlers about the node: the banner, version, health, readiness, metrics."""

import msgspec

from ollamamax.api.call import TEXT, Call
from ollamamax.core.dialects import ollama_answers
from ollamamax.core.dialects.framing import encode


async def banner(call: Call) -> None:
    """GET and HEAD /: what Ollama's clients look for."""
    await call.reply(200, b"Ollama is running", TEXT)


async def version(call: Call) -> None:
    """GET and HEAD /api/version."""
    await call.reply(200, encode(ollama_answers.version(call.services.version)))


async def healthy(call: Call) -> None:
    """GET and HEAD /healthz: the event loop turns."""
    await call.reply(200, b"ok", TEXT)


async def ready(call: Call) -> None:
    """GET and HEAD /readyz: 200, or 503 with the reasons why no requests should come here.

    degraded: what does not work although requests are welcome, e.g. writes while the state's holder is away.
    """
    reasons = list(await call.services.readiness.reasons())
    engines = [msgspec.to_builtins(status) for status in call.services.fleet.statuses()]
    cluster = call.services.cluster
    degraded = list(cluster.status().degraded) if cluster is not None else []
    body = encode({"ready": not reasons, "reasons": reasons, "degraded": degraded, "engines": engines})
    await call.reply(503 if reasons else 200, body)


async def metrics(call: Call) -> None:
    """GET /metrics."""
    call.services.gateway.authorize(call.context, "read", "")
    call.services.meter.queue(*call.services.gateway.load())
    if call.services.cluster is not None:
        call.services.meter.cluster(call.services.cluster.status())
    exposition, content_type = call.services.meter.render()
    await call.reply(200, exposition, content_type.encode())
