"""The admin API of this node: what it is and does, and where a request would go."""

from typing import Any

import msgspec
from fastapi import FastAPI, Request

from ollamamax.api.admin_call import context_of
from ollamamax.api.ports import Services


def add_facts(app: FastAPI, services: Services) -> None:
    """Its routes."""
    gateway, fleet = services.gateway, services.fleet

    @app.get("/status")
    async def status(request: Request) -> dict[str, Any]:
        """What this node is and does now."""
        gateway.authorize(context_of(request), "read", "")
        waiting, running = gateway.load()
        return {
            "version": services.version,
            "uptime_s": round((services.clock.now_ms() - services.started_ms) / 1000, 3),
            "not_ready_because": list(await services.readiness.reasons()),
            "queue": {"waiting": waiting, "running": running},
            "loaded": [msgspec.to_builtins(model) for model in await fleet.running()],
            "engines": [msgspec.to_builtins(engine) for engine in fleet.statuses()],
        }

    @app.get("/route")
    async def route(request: Request, model: str) -> Any:
        """Where a request for the model would go now, and why."""
        gateway.authorize(context_of(request), "read", model)
        return msgspec.to_builtins(gateway.explain(model))
