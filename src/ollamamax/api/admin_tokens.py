"""The admin API of the join tokens."""

from typing import Annotated, Any, Final

import msgspec
from fastapi import Body, FastAPI, Path, Request
from pydantic import BaseModel, ConfigDict, Field

from ollamamax.api.admin_call import cluster_of, context_of
from ollamamax.api.ports import Services

_HOUR_MS: Final = 3_600_000
_MAX_TTL_MS: Final = 30 * 24 * _HOUR_MS
_MAX_USES: Final = 1_000


class TokenToCreate(BaseModel):
    """How far a join token reaches."""

    model_config = ConfigDict(extra="forbid")

    ttl_ms: int = Field(default=_HOUR_MS, ge=1_000, le=_MAX_TTL_MS, description="how long it may be used")
    uses: int = Field(default=1, ge=1, le=_MAX_USES, description="how many nodes may join by it")


def add_tokens(app: FastAPI, services: Services) -> None:
    """Its routes."""
    gateway = services.gateway

    @app.get("/tokens")
    async def list_tokens(request: Request) -> dict[str, Any]:
        """All join tokens, without their secrets."""
        gateway.authorize(context_of(request), "read", "")
        return {"tokens": [msgspec.to_builtins(token) for token in cluster_of(services).tokens()]}

    @app.post("/tokens", status_code=201)
    async def create_token(
        request: Request, wanted: Annotated[TokenToCreate, Body()] = TokenToCreate()
    ) -> dict[str, Any]:
        """Make a join token. Its secret is in this answer and nowhere else."""
        gateway.authorize(context_of(request), "manage_cluster", "token")
        token = await cluster_of(services).create_token(wanted.ttl_ms, wanted.uses)
        built: dict[str, Any] = msgspec.to_builtins(token)
        return built

    @app.delete("/tokens/{token_id}")
    async def revoke_token(request: Request, token_id: Annotated[str, Path(max_length=64)]) -> dict[str, Any]:
        """Make a join token worthless. Nodes that joined by it stay."""
        gateway.authorize(context_of(request), "manage_cluster", token_id)
        await cluster_of(services).revoke_token(token_id)
        return {"token_id": token_id}
