"""The client over TLS: whom it trusts, what it shows, what it does not wait for."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from certificates import Authority
from ollamamax.adapters.wire.client import WireClient
from ollamamax.adapters.wire.connection import WireClosed, WireUnreachable
from scripted_server import Line, ScriptedServer
from wire_talk import BRISK, ask, say_hi


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server_tls(authority: Authority) -> Iterator[ssl.SSLContext]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("localhost"))
    return context


def trusting(path: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(path))


async def test_tls(authority: Authority, server_tls: ssl.SSLContext) -> None:
    async with ScriptedServer(say_hi, server_tls) as server:
        client = WireClient(server.url, {}, tls=trusting(authority.path))
        for _ in range(3):
            assert await ask(client, b"x" * 300_000) == b"hi"
        assert len(server.lines) == 1
        await client.aclose()
        await server.lines[0].is_gone.wait()


async def test_a_server_that_nobody_vouches_for(server_tls: ssl.SSLContext) -> None:
    async with ScriptedServer(say_hi, server_tls) as server:
        with pytest.raises(WireUnreachable, match="certificate verify failed"):
            await ask(WireClient(server.url, {}))
        assert not server.lines


async def test_a_client_shows_its_certificate(authority: Authority, server_tls: ssl.SSLContext) -> None:
    server_tls.verify_mode = ssl.CERT_REQUIRED
    server_tls.load_verify_locations(str(authority.path))
    async with ScriptedServer(say_hi, server_tls) as server:
        context = trusting(authority.path)
        stranger = WireClient(server.url, {}, tls=context)
        with pytest.raises((WireUnreachable, WireClosed)):
            await ask(stranger)
        await stranger.aclose()
        known = trusting(authority.path)
        known.load_cert_chain(*authority.issue("node-1"))
        client = WireClient(server.url, {}, tls=known)
        assert await ask(client) == b"hi"
        await client.aclose()


async def test_a_handshake_that_does_not_end() -> None:
    async def play(line: Line) -> None:
        await line.closed()

    async with ScriptedServer(play) as server:
        client = WireClient(f"https://localhost:{server.port}", {}, BRISK)
        with pytest.raises(TimeoutError):
            await ask(client)
        await server.lines[0].is_gone.wait()


async def test_tls_that_is_none() -> None:
    async def play(line: Line) -> None:
        await line.reader.read(1)
        await line.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await line.closed()

    async with ScriptedServer(play) as server:
        with pytest.raises(WireUnreachable):
            await ask(WireClient(f"https://localhost:{server.port}", {}))
