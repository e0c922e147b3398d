"""The admin API of the cluster's state itself: on one node or on several, and copies of it."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final

import msgspec
from fastapi import Body, FastAPI, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ollamamax.api.admin_call import call_of, context_of, ha_of
from ollamamax.api.call import Call
from ollamamax.api.ports import Services
from ollamamax.api.progress import progressed
from ollamamax.core.types import Progress

_MAX_NODES: Final = 32
STEPS: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"application/x-ndjson": {}}}}
_FILE: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"application/octet-stream": {}}}}
_NODE = Annotated[str, Query(max_length=64, description="its name or id; empty: the one that is asked, if it can")]


class HaToEnable(BaseModel):
    """Who is to hold the cluster's state."""

    model_config = ConfigDict(extra="forbid")

    voters: int = Field(default=3, ge=1, le=7, description="how many nodes; odd")
    nodes: list[str] = Field(default=[], max_length=_MAX_NODES, description="names or ids; empty: they are chosen")
    external: bool = Field(default=False, description="in an etcd that others run: settings state.endpoints and so on")


class HostToReplace(BaseModel):
    """Who leaves those that hold the state, and who comes."""

    model_config = ConfigDict(extra="forbid")

    node: str = Field(min_length=1, max_length=64, description="who leaves: its name or id")
    by: str = Field(default="", max_length=64, description="who comes; empty: one that is there and holds nothing yet")
    nobody: bool = Field(default=False, description="nobody comes: the others go on without it")


def add_ha(app: FastAPI, services: Services) -> None:
    """Routes below /cluster."""
    gateway = services.gateway

    @app.get("/cluster/ha")
    async def ha_status(request: Request) -> Any:
        """Where the state lives, how those are that hold it, and what is wrong."""
        gateway.authorize(context_of(request), "read", "")
        return msgspec.to_builtins(await ha_of(services).status())

    @app.post("/cluster/ha", response_class=Response, responses=STEPS)
    async def enable_ha(request: Request, wanted: Annotated[HaToEnable, Body()] = HaToEnable()) -> Response:
        """Have the state on several nodes: steps as lines, the last one "success". It goes on when nobody listens."""
        gateway.authorize(context_of(request), "manage_cluster", "ha")
        return Steps(call_of(request), ha_of(services).enable(wanted.voters, wanted.nodes, wanted.external))

    @app.delete("/cluster/ha", response_class=Response, responses=STEPS)
    async def disable_ha(request: Request, node: _NODE = "") -> Response:
        """Have the state on one of those nodes alone: steps as lines, the last one "success"."""
        gateway.authorize(context_of(request), "manage_cluster", "ha")
        return Steps(call_of(request), ha_of(services).disable(node))

    @app.post("/cluster/ha/replace", response_class=Response, responses=STEPS)
    async def replace_host(request: Request, wanted: Annotated[HostToReplace, Body()]) -> Response:
        """Have another node in the place of one: steps as lines, the last one "success". May be repeated."""
        gateway.authorize(context_of(request), "manage_cluster", wanted.node)
        by = "-" if wanted.nobody else wanted.by
        return Steps(call_of(request), ha_of(services).replace(wanted.node, by))

    @app.get("/cluster/backup", response_class=Response, responses=_FILE)
    async def backup(request: Request) -> Response:
        """All that the cluster has agreed on, as a file for `ollamamax cluster restore`. It holds no secret keys."""
        gateway.authorize(context_of(request), "manage_cluster", "backup")
        return Response(await ha_of(services).backup(), media_type="application/octet-stream")


class Steps(Response):
    """Lines as they come, through the call itself, which knows about clients that leave."""

    def __init__(self, call: Call, steps: AsyncGenerator[Progress, None]) -> None:
        super().__init__()
        self._call = call
        self._steps = steps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises: what the work raises before its first step."""
        await progressed(self._call, self._steps, streamed=True, changes_store=False)
