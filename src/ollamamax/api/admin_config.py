"""The admin API of settings: what holds on a node, and what the cluster shares at run time."""

from typing import Annotated, Any, Final

import msgspec
from fastapi import Body, FastAPI, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from ollamamax.api.admin_call import context_of, shared_of
from ollamamax.api.ports import Services

_MAX_VERSION: Final = 10**10 - 1
_KEY = Annotated[str, Path(max_length=128, description="a setting, as of docs/settings.md")]
_NODE = Annotated[str, Query(max_length=64, description="a node's name or id")]
_VERSION = Annotated[int | None, Query(ge=0, le=_MAX_VERSION, description="a version; 0 is before anything was set")]


class SettingValue(BaseModel):
    """What to set."""

    model_config = ConfigDict(extra="forbid")

    value: str = Field(max_length=1024, description='as it is written on the command line: "7", "90s", "true"')
    node: str = Field(default="", max_length=64, description="the one node that it is for; empty: all")


class Rollback(BaseModel):
    """What to go back to."""

    model_config = ConfigDict(extra="forbid")

    version: int = Field(ge=0, le=_MAX_VERSION, description="one of the history; 0 is before anything was set")


def add_config(app: FastAPI, services: Services) -> None:
    """Routes below /config."""
    _add_reading(app, services)
    _add_writing(app, services)


def _add_reading(app: FastAPI, services: Services) -> None:
    gateway = services.gateway

    @app.get("/config")
    async def show_config(request: Request, node: _NODE = "") -> Any:
        """All settings of a running node, this one unless another is named: values, sources, and how they apply."""
        gateway.authorize(context_of(request), "read", node)
        shown = await shared_of(services).shown(node) if node else services.settings.shown()
        return msgspec.to_builtins(shown)

    @app.get("/config/history")
    async def config_history(request: Request) -> dict[str, Any]:
        """The versions of the cluster's settings that are kept, oldest first: what each changed, when, by whom."""
        gateway.authorize(context_of(request), "read", "")
        return {"versions": [msgspec.to_builtins(version) for version in shared_of(services).history()]}

    @app.get("/config/diff")
    async def config_diff(request: Request, before: _VERSION = None, after: _VERSION = None) -> dict[str, Any]:
        """What differs between two versions; unless said, between the newest and the one before it."""
        gateway.authorize(context_of(request), "read", "")
        older, newer, rows = shared_of(services).difference(before, after)
        return {"before": older, "after": newer, "changes": [msgspec.to_builtins(row) for row in rows]}


def _add_writing(app: FastAPI, services: Services) -> None:
    gateway = services.gateway

    @app.put("/config/{key}")
    async def set_config(request: Request, key: _KEY, wanted: Annotated[SettingValue, Body()]) -> Any:
        """Set it for all nodes, or for one; tells which have taken it over, and where something local wins."""
        context = context_of(request)
        gateway.authorize(context, "manage_cluster", key)
        shared, by = shared_of(services), context.principal.name
        return msgspec.to_builtins(await shared.change({key: wanted.value}, (), wanted.node, by))

    @app.delete("/config/{key}")
    async def unset_config(request: Request, key: _KEY, node: _NODE = "") -> Any:
        """The cluster sets it no more, for all nodes or for one."""
        context = context_of(request)
        gateway.authorize(context, "manage_cluster", key)
        return msgspec.to_builtins(await shared_of(services).change({}, (key,), node, context.principal.name))

    @app.post("/config/rollback")
    async def roll_back_config(request: Request, wanted: Annotated[Rollback, Body()]) -> Any:
        """Make the cluster's settings what they were in a version. That is a new version, so it can be undone, too."""
        context = context_of(request)
        gateway.authorize(context, "manage_cluster", "rollback")
        return msgspec.to_builtins(await shared_of(services).rollback(wanted.version, context.principal.name))
