"""The admin API of the attached engines."""

from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import Body, FastAPI, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from ollamamax.api.admin_call import context_of
from ollamamax.api.ports import Services
from ollamamax.core.types import AttachedEngine, EngineKind

_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class EngineToAttach(BaseModel):
    """A server elsewhere that runs models."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=_NAME, description="how it is called here")
    kind: Literal["ollama", "openai"] = Field(description="the API it speaks")
    url: str = Field(description="its address, e.g. http://10.0.0.2:11434 or https://host/v1")
    api_key: str = Field(default="", description="sent as a bearer token; never shown again")
    slots: int = Field(default=4, ge=1, le=4096, description="requests it is given at once")


def add_engines(app: FastAPI, services: Services) -> None:
    """Its routes."""
    gateway, fleet = services.gateway, services.fleet

    @app.get("/engines")
    async def list_engines(request: Request) -> dict[str, Any]:
        """All engines with their rates and breaker states."""
        gateway.authorize(context_of(request), "read", "")
        return {"engines": [msgspec.to_builtins(status) for status in fleet.statuses()]}

    @app.post("/engines", status_code=201)
    async def attach_engine(request: Request, engine: Annotated[EngineToAttach, Body()]) -> dict[str, Any]:
        """Attach an engine; it is remembered across restarts."""
        gateway.authorize(context_of(request), "manage_engines", engine.name)
        await fleet.add(
            AttachedEngine(
                name=engine.name,
                kind=EngineKind(engine.kind),
                url=engine.url,
                api_key=engine.api_key,
                slots=engine.slots,
            )
        )
        return {"name": engine.name, "kind": engine.kind, "url": engine.url, "slots": engine.slots}

    @app.delete("/engines/{name:path}")
    async def detach_engine(request: Request, name: Annotated[str, Path(max_length=256)]) -> dict[str, Any]:
        """Detach an engine; requests that it is answering go on."""
        gateway.authorize(context_of(request), "manage_engines", name)
        await fleet.remove(name)
        return {"name": name}
