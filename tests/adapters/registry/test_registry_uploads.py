"""Uploads to registries that misbehave."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from aiohttp import web

from ollamamax.adapters.registry.client import RegistryClient
from ollamamax.adapters.registry.wire import WireLimits
from ollamamax.core.errors import (
    BlobNotFound,
    RegistryProtocol,
    RegistryUnavailable,
)
from registry_servers import DATA, DIGEST, data, remote, serving


async def test_an_upload_that_nobody_reads(registry: RegistryClient) -> None:
    async def handler(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield bytes(1 << 20)
        finally:
            closed.set()

    async with serving(handler) as host:
        with pytest.raises(RegistryUnavailable, match="said nothing for too long"):
            await registry.send_part(remote(host), f"http://{host}/upload", endless, 0, 1 << 30)
        await closed.wait()


async def test_a_part_is_sent_again_with_a_token(registry: RegistryClient) -> None:
    seen: list[tuple[str, str | None, bytes, str | None]] = []

    async def handler(request: web.Request) -> web.Response:
        if request.path == "/token":
            return web.json_response({"access_token": "secret"})
        body = await request.read()
        seen.append((request.method, request.headers.get("Authorization"), body, request.headers.get("Content-Range")))
        if "Authorization" not in request.headers:
            realm = f'Bearer realm="http://{request.host}/token"'
            return web.Response(status=401, headers={"WWW-Authenticate": realm})
        return web.Response(status=202, headers={"Location": "/next?_state=a%3D"})

    async with serving(handler) as host:
        reply = await registry.send_part(remote(host), f"http://{host}/upload", data, 100, 100 + len(DATA))
        assert reply.session == f"http://{host}/next?_state=a%3D"
    assert seen == [
        ("PATCH", None, DATA, "100-2659"),
        ("PATCH", "Bearer secret", DATA, "100-2659"),
    ]


async def test_a_part_that_is_wanted_elsewhere(registry: RegistryClient) -> None:
    got: list[tuple[str, bytes, str | None]] = []

    async def there(request: web.Request) -> web.Response:
        got.append((request.path_qs, await request.read(), request.headers.get("Authorization")))
        return web.Response()

    async with serving(there) as other:

        async def handler(request: web.Request) -> web.Response:
            assert request.headers["X-Redirect-Uploads"] == "1"
            headers = {"Location": f"http://{other}/part?n=1", "Docker-Upload-Location": "/session/2"}
            return web.Response(status=307, headers=headers)  # without reading what is sent

        async with serving(handler) as host:
            reply = await registry.send_part(remote(host), f"http://{host}/session/1", data, 0, len(DATA))
            assert (reply.session, reply.direct) == (f"http://{host}/session/2", f"http://{other}/part?n=1")
            await registry.send_direct(remote(host), reply.direct, data, len(DATA))
    assert got == [("/part?n=1", DATA, None)]


async def test_an_early_answer_ends_the_sending(registry: RegistryClient) -> None:
    """The registry says where a large part is wanted before it has read any of it."""
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield bytes(1 << 16)
        finally:
            closed.set()

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with serving(handler) as host:
        reply = await registry.send_part(remote(host), f"http://{host}/session", endless, 0, 1 << 30)
        assert reply.direct == f"http://{host}/elsewhere"
        await closed.wait()


async def test_what_can_not_be_read_here_is_told_as_such(registry: RegistryClient) -> None:
    async def gone() -> AsyncGenerator[bytes, None]:
        raise BlobNotFound("it was deleted")
        yield b""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async with serving(handler) as host:
        with pytest.raises(BlobNotFound, match="it was deleted"):
            await registry.send_part(remote(host), f"http://{host}/upload", gone, 0, 10)


@pytest.mark.parametrize("status", [202, 307])
async def test_an_upload_that_goes_on_nowhere(registry: RegistryClient, status: int) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status)

    async with serving(handler) as host:
        with pytest.raises(RegistryProtocol, match="where the upload goes on"):
            await registry.send_part(remote(host), f"http://{host}/upload", data, 0, len(DATA))


@pytest.mark.parametrize("said", ["", "5-9", "0-x", "bytes", "0--1"])
async def test_an_upload_of_unknown_state(registry: RegistryClient, said: str) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=204, headers={"Range": said, "Location": "/x"})

    async with serving(handler) as host:
        with pytest.raises(RegistryProtocol, match="how much of the upload"):
            await registry.arrived(remote(host), f"http://{host}/upload")


async def test_the_end_of_an_upload(registry: RegistryClient, limits: WireLimits) -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.path_qs)
        await asyncio.sleep(limits.stall_s * 2)  # a registry reads all of it again before it answers
        return web.Response(status=201)

    async with serving(handler) as host:
        for session in ("/upload", "/upload?_state=a%3D"):
            await registry.end_upload(remote(host), f"http://{host}{session}", DIGEST, "m-2")
    asked = f"digest=sha256%3A{'ab' * 32}&etag=m-2"
    assert seen == [f"/upload?{asked}", f"/upload?_state=a%3D&{asked}"]
