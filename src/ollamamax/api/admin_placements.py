"""The admin API of placements: which models run where, and which nodes are emptied."""

from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import Body, FastAPI, Path, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from ollamamax.api.admin_call import call_of, cluster_of, context_of, placements_of
from ollamamax.api.admin_ha import STEPS, Steps
from ollamamax.api.ports import Services
from ollamamax.core.types import PlacementWish

_MAX_REPLICAS: Final = 1_000
_MAX_IDLE_MS: Final = 30 * 86_400_000
_MODEL = Annotated[str, Path(max_length=512, description="a model, as people write it")]
_NODE = Annotated[str, Path(max_length=64, description="a node's name or id")]
_NAME = Annotated[str, Field(min_length=1, max_length=64)]


class WantedPlacement(BaseModel):
    """How a model ought to run."""

    model_config = ConfigDict(extra="forbid")

    replicas: int = Field(default=1, ge=0, le=_MAX_REPLICAS, description="kept loaded; 0 keeps none")
    pins: list[_NAME] = Field(default=[], max_length=_MAX_REPLICAS, description="nodes that each run one of them")
    labels: dict[str, str] = Field(default={}, max_length=64, description="a node needs all of them")
    max_replicas: int = Field(
        default=0, ge=0, le=_MAX_REPLICAS, description="as many there may be while requests wait; 0: no more than asked"
    )
    idle_ms: int = Field(
        default=300_000, ge=0, le=_MAX_IDLE_MS, description="an extra replica that was idle for so long goes"
    )


class WantedSpread(BaseModel):
    """Where a model's files ought to be."""

    model_config = ConfigDict(extra="forbid")

    nodes: str = Field(max_length=512, description='"all", how many in all, or labels: "gpu=4090,room=attic"')


class WantedDrain(BaseModel):
    """How a node is emptied."""

    model_config = ConfigDict(extra="forbid")

    timeout_ms: int = Field(default=0, ge=0, le=_MAX_IDLE_MS, description="0: it may take as long as it takes")
    on_timeout: Literal["stop", "keep"] = Field(
        default="stop", description="what becomes of answers that are left then: they are ended, or end by themselves"
    )


def add_placements(app: FastAPI, services: Services) -> None:
    """Routes below /placements."""
    gateway = services.gateway

    @app.get("/placements")
    async def list_placements(request: Request) -> dict[str, Any]:
        """All models that were placed: what was asked for, what runs where, and why."""
        gateway.authorize(context_of(request), "read", "")
        return {"placements": [msgspec.to_builtins(one) for one in placements_of(services).all()]}

    @app.post("/placements/{model:path}/explain")
    async def explain_placement(request: Request, model: _MODEL, wanted: Annotated[WantedPlacement, Body()]) -> Any:
        """Where the model would run if it were placed like that, and why. Changes nothing."""
        gateway.authorize(context_of(request), "read", model)
        return msgspec.to_builtins(placements_of(services).explain(model, _wish(wanted)))

    @app.get("/placements/{model:path}")
    async def show_placement(request: Request, model: _MODEL) -> Any:
        """One model that was placed, with the whole decision in words."""
        gateway.authorize(context_of(request), "read", model)
        placements = placements_of(services)
        shown: dict[str, Any] = msgspec.to_builtins(placements.one(model))
        return shown | {"explanation": placements.explained(model).text}

    @app.put("/placements/{model:path}")
    async def place_model(request: Request, model: _MODEL, wanted: Annotated[WantedPlacement, Body()]) -> Any:
        """Have a model run like that, whatever was asked for before."""
        gateway.authorize(context_of(request), "manage_cluster", model)
        return msgspec.to_builtins(await placements_of(services).place(model, _wish(wanted)))

    @app.delete("/placements/{model:path}")
    async def remove_placement(request: Request, model: _MODEL) -> dict[str, Any]:
        """Keep the model loaded nowhere any more. Its files stay, and requests load it as any other."""
        gateway.authorize(context_of(request), "manage_cluster", model)
        await placements_of(services).remove(model)
        return {"name": model}


def add_spreading(app: FastAPI, services: Services) -> None:
    """Routes of giving models to nodes ahead of time."""
    gateway = services.gateway

    @app.post("/models/{model:path}/spread", response_class=Response, responses=STEPS)
    async def spread_model(request: Request, model: _MODEL, wanted: Annotated[WantedSpread, Body()]) -> Response:
        """Have a model's files on other nodes: steps by node as lines, the last one "success"."""
        gateway.authorize(context_of(request), "manage_models", model)
        return Steps(call_of(request), placements_of(services).spread(model, wanted.nodes))


def add_drains(app: FastAPI, services: Services) -> None:
    """Routes of emptying a node."""
    gateway = services.gateway

    @app.post("/nodes/{name}/drain")
    async def drain_node(request: Request, name: _NODE, wanted: Annotated[WantedDrain, Body()]) -> Any:
        """Begin to empty a node: no new requests, replicas elsewhere first, answers under way end."""
        gateway.authorize(context_of(request), "manage_cluster", name)
        cluster = cluster_of(services)
        await cluster.drain(name, wanted.timeout_ms, wanted.on_timeout)
        return msgspec.to_builtins(cluster.node(name))

    @app.delete("/nodes/{name}/drain")
    async def end_drain(request: Request, name: _NODE) -> Any:
        """Let a node that is drained take work again."""
        gateway.authorize(context_of(request), "manage_cluster", name)
        cluster = cluster_of(services)
        await cluster.undrain(name)
        return msgspec.to_builtins(cluster.node(name))


def _wish(wanted: WantedPlacement) -> PlacementWish:
    return PlacementWish(
        replicas=wanted.replicas,
        pins=tuple(wanted.pins),
        labels=wanted.labels,
        max_replicas=wanted.max_replicas,
        idle_ms=wanted.idle_ms,
    )
