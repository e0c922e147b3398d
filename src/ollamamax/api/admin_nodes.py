"""The admin API of the nodes and of the cluster as a whole."""

from typing import Annotated, Any, Final

import msgspec
from fastapi import Body, FastAPI, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from ollamamax.api.admin_call import cluster_of, context_of
from ollamamax.api.ports import Services

_MAX_LABELS: Final = 64
_NODE = Annotated[str, Path(max_length=64, description="a node's name or id")]


class NodeChange(BaseModel):
    """What to change of a node; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    cordoned: bool | None = Field(default=None, description="true keeps new requests away from it")
    labels: dict[str, str | None] = Field(
        default={}, max_length=_MAX_LABELS, description="labels to set; null removes one"
    )


class ClusterToJoin(BaseModel):
    """Where this node wants to become a member."""

    model_config = ConfigDict(extra="forbid")

    token: str = Field(min_length=1, max_length=4096, description="from `ollamamax token create` on a member")
    name: str = Field(default="", max_length=63, description="what this node is to be called there; empty: as it is")
    force: bool = Field(default=False, description="leave a cluster that has other members, too")


def add_nodes(app: FastAPI, services: Services) -> None:
    """Routes below /nodes."""
    gateway = services.gateway

    @app.get("/nodes")
    async def list_nodes(request: Request) -> dict[str, Any]:
        """All members, as this node sees them."""
        gateway.authorize(context_of(request), "read", "")
        return {"nodes": [msgspec.to_builtins(node) for node in cluster_of(services).nodes()]}

    @app.get("/nodes/{name}")
    async def show_node(request: Request, name: _NODE) -> Any:
        """One member."""
        gateway.authorize(context_of(request), "read", name)
        return msgspec.to_builtins(cluster_of(services).node(name))

    @app.delete("/nodes/{name}")
    async def remove_node(request: Request, name: _NODE) -> dict[str, Any]:
        """Revoke a member: it is refused by all others from now on, and comes back only with a new token."""
        gateway.authorize(context_of(request), "manage_cluster", name)
        await cluster_of(services).remove(name)
        return {"name": name}

    @app.patch("/nodes/{name}")
    async def change_node(request: Request, name: _NODE, change: Annotated[NodeChange, Body()]) -> Any:
        """Cordon a member or end that; set and remove its labels."""
        gateway.authorize(context_of(request), "manage_cluster", name)
        cluster = cluster_of(services)
        if change.labels:
            put = {key: value for key, value in change.labels.items() if value is not None}
            await cluster.label(name, put, [key for key, value in change.labels.items() if value is None])
        if change.cordoned is not None:
            await cluster.cordon(name, change.cordoned)
        return msgspec.to_builtins(cluster.node(name))


def add_cluster(app: FastAPI, services: Services) -> None:
    """Routes of the whole, of joining and of looking for others."""
    gateway = services.gateway

    @app.get("/cluster")
    async def cluster_status(request: Request) -> Any:
        """The cluster as a whole: its nodes by state, who holds its state, what does not work now."""
        gateway.authorize(context_of(request), "read", "")
        return msgspec.to_builtins(cluster_of(services).status())

    @app.post("/cluster/join")
    async def join_cluster(request: Request, wanted: Annotated[ClusterToJoin, Body()]) -> Any:
        """Make this node a member of the token's cluster."""
        gateway.authorize(context_of(request), "manage_cluster", "join")
        return msgspec.to_builtins(await cluster_of(services).join(wanted.token, wanted.name, wanted.force))

    @app.get("/discover")
    async def discover(request: Request, timeout_ms: Annotated[int, Query(ge=1, le=30_000)] = 2_000) -> dict[str, Any]:
        """Clusters on the LAN that answer within the time. Nothing that they say of themselves is verified."""
        gateway.authorize(context_of(request), "read", "")
        found = await cluster_of(services).discover(timeout_ms)
        return {"clusters": [msgspec.to_builtins(cluster) for cluster in found]}
