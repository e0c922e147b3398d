"""/api/pull and /api/push over HTTP."""

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest
from api_fakes import DIGEST, LIMIT_S, serving

from ollamamax.core.errors import (
    DigestMismatch,
    DiskFull,
    InvalidName,
    ModelNotFound,
    RegistryDenied,
    RegistryNotFound,
    RegistryUnavailable,
    ShuttingDown,
    Unsupported,
)
from ollamamax.core.types import Progress, TransferRequest

TOLD = [Progress("pulling manifest"), Progress("pulling abababababab", DIGEST, 9, 4), Progress("success")]


@pytest.mark.parametrize("verb", ["pull", "push"])
async def test_a_transfer_streams_its_steps(verb: str) -> None:
    async with serving() as node:
        node.library.steps = list(TOLD)
        reply = await node.post(f"/api/{verb}", {"name": "me/m", "insecure": True})
        assert (reply.status_code, reply.headers["content-type"]) == (200, "application/x-ndjson")
        assert [json.loads(line) for line in reply.text.splitlines()] == [
            {"status": "pulling manifest"},
            {"status": "pulling abababababab", "digest": DIGEST, "total": 9, "completed": 4},
            {"status": "success"},
        ]
        assert node.library.transfers == [(verb, TransferRequest("me/m", insecure=True))]
        assert node.gateway.asked == [("manage_models", "me/m")]
        assert node.fleet.changes == (1 if verb == "pull" else 0)


@pytest.mark.parametrize("verb", ["pull", "push"])
async def test_a_transfer_at_once(verb: str) -> None:
    async with serving() as node:
        node.library.steps = list(TOLD)
        reply = await node.post(f"/api/{verb}", {"model": "m", "stream": False})
        assert (reply.status_code, reply.json()) == (200, {"status": "success"})


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RegistryNotFound("pull model manifest: file does not exist"), 500),
        (RegistryDenied("unauthorized: access denied"), 500),
        (RegistryUnavailable("503: busy"), 500),
        (DigestMismatch("digest mismatch, file must be downloaded again: want a, got b"), 500),
        (ModelNotFound("model 'm' not found"), 500),
        (InvalidName("invalid model name"), 500),
        (Unsupported("no"), 500),
        (DiskFull("disk full"), 507),
        (ShuttingDown("stopping"), 503),
    ],
)
@pytest.mark.parametrize("verb", ["pull", "push"])
async def test_what_fails(verb: str, error: Exception, status: int) -> None:
    async with serving() as node:
        node.library.steps = [Progress("pulling manifest"), error]
        reply = await node.post(f"/api/{verb}", {"model": "m"})
        assert reply.status_code == 200
        assert json.loads(reply.text.splitlines()[-1]) == {"error": str(error)}
        reply = await node.post(f"/api/{verb}", {"model": "m", "stream": False})
        assert (reply.status_code, reply.json()) == (status, {"error": str(error)})
        assert node.fleet.changes == 0


@pytest.mark.parametrize(
    ("verb", "body", "text"),
    [
        ("pull", b"", "missing request body"),
        ("pull", b"{}", "invalid model name"),
        ("pull", b'{"model": "a b"}', "invalid model name"),
        ("push", b"", "missing request body"),
        ("push", b"{}", "model is required"),
    ],
)
async def test_bad_requests(verb: str, body: bytes, text: str) -> None:
    async with serving() as node:
        reply = await node.client.post(f"/api/{verb}", content=body)
        assert (reply.status_code, reply.json()) == (400, {"error": text})
        assert node.library.transfers == []


async def test_not_for_everybody() -> None:
    async with serving() as node:
        node.gateway.forbidden = {"manage_models"}
        for verb in ("pull", "push"):
            assert (await node.post(f"/api/{verb}", {"model": "m"})).status_code == 403
        assert node.library.transfers == []


async def test_a_client_that_goes_ends_the_work() -> None:
    ended = asyncio.Event()

    async def endless() -> AsyncGenerator[Progress, None]:
        try:
            yield Progress("pulling manifest")
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving() as node, asyncio.timeout(LIMIT_S):
        node.library._work = endless  # type: ignore[method-assign]
        async with node.client.stream("POST", "/api/pull", json={"model": "m"}) as reply:
            assert await anext(reply.aiter_lines()) == '{"status":"pulling manifest"}'
        await ended.wait()
