"""Who is kept out of the peer listener, each with a real connection, and who gets in."""

import asyncio
import datetime
import socket
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from ollamamax.adapters.network import sockets, tls
from ollamamax.adapters.network.peer_server import PeerServer
from ollamamax.core.errors import (
    CertificateRefused,
    Conflict,
    Denied,
    PeerUnavailable,
    SettingsError,
)
from ollamamax.ports import NodeKeys
from peer_raw import CLUSTER, HEAD, Answers, Raw, leakless, refused, told, works
from peer_world import A, B, C, Cluster, bounded, linked, listening, record


@pytest.fixture(autouse=True)
async def no_leaks() -> AsyncGenerator[None, None]:
    async with leakless():
        yield


@bounded
async def test_no_certificate() -> None:
    answers = Answers()
    async with listening(CLUSTER, [answers.methods]) as node:
        assert await refused(await Raw.open(node.port, None)) == b""
        assert answers.asked == []
        await works(node)


@pytest.mark.parametrize(
    "keys",
    [Cluster().keys(A, ca=CLUSTER.ca), CLUSTER.keys(A, ends_in=-datetime.timedelta(hours=1))],
    ids=["a foreign authority", "expired"],
)
@pytest.mark.parametrize("name", [f"{B}.ollamamax", tls.JOIN_NAME])
@bounded
async def test_certificates_that_are_refused_in_the_handshake(keys: NodeKeys, name: str) -> None:
    answers = Answers()
    async with listening(CLUSTER, [answers.methods]) as node:
        assert await refused(await Raw.open(node.port, keys, name)) == b""
        async with linked(keys) as link:
            with pytest.raises(PeerUnavailable, match="does not accept this node's certificate"):
                await link.call(node.record, "t.echo", b"", timeout_ms=5_000)
        assert answers.asked == []
        await works(node)


@bounded
async def test_a_certificate_that_names_no_node() -> None:
    answers = Answers()
    async with listening(CLUSTER, [answers.methods]) as node:
        assert await refused(await Raw.open(node.port, CLUSTER.keys(A, common_name="somebody"))) == b""
        assert answers.asked == []
        await works(node)


@bounded
async def test_who_listens_must_be_who_it_should_be() -> None:
    """From the other side: a listener of a foreign cluster, and another node of this one."""
    async with listening(Cluster(), []) as foreign, linked(CLUSTER.keys(A)) as link:
        with pytest.raises(CertificateRefused, match="somebody else"):
            await link.call(foreign.record, "t.echo", b"", timeout_ms=5_000)
    async with listening(CLUSTER, [], C) as other, linked(CLUSTER.keys(A)) as link:
        with pytest.raises(CertificateRefused, match="somebody else"):
            await link.call(record(B, other.port), "t.echo", b"", timeout_ms=5_000)


@bounded
async def test_a_removed_node_loses_its_connections_and_gets_no_new_ones() -> None:
    answers = Answers()
    async with listening(CLUSTER, [answers.methods]) as node, linked(CLUSTER.keys(A)) as link:
        waiting = asyncio.create_task(link.call(node.record, "t.wait", b"", timeout_ms=5_000))
        await answers.waiting.wait()
        node.revoked.add(A)
        await node.server.drop(A)
        with pytest.raises(PeerUnavailable):
            await waiting
        await answers.over.wait()
        with pytest.raises(CertificateRefused, match="removed"):
            await link.call(node.record, "t.echo", b"", timeout_ms=5_000)
        assert answers.asked == []
        await works(node)


@bounded
async def test_a_removed_node_that_nobody_dropped_yet_is_not_answered() -> None:
    answers = Answers()
    async with listening(CLUSTER, [answers.methods]) as node, linked(CLUSTER.keys(A)) as link:
        await link.call(node.record, "t.echo", b"", timeout_ms=5_000)
        node.revoked.add(A)
        with pytest.raises(CertificateRefused, match="removed"):
            await link.call(node.record, "t.echo", b"", timeout_ms=5_000)
        assert len(answers.asked) == 1


@bounded
async def test_a_removed_node_that_says_nothing_is_cut_off() -> None:
    async with listening(CLUSTER, []) as node:
        node.revoked.add(A)
        raw = await Raw.open(node.port, CLUSTER.keys(A))
        assert await raw.rest() == b""
        raw.close()


@bounded
async def test_plain_http_and_other_bytes_instead_of_a_handshake() -> None:
    answers = Answers()
    async with listening(CLUSTER, [answers.methods]) as node:
        for data in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            HEAD + b"\r\n",
            b"\0" * 5_000,
            b"\x16\x03\x01\xff\xff",
            b"\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
            writer.write(data)
            writer.write_eof()
            raw = Raw(reader, writer)
            assert b"HTTP" not in await raw.rest()
            raw.close()
        assert answers.asked == []
        await works(node)


@bounded
async def test_those_who_join_get_the_open_methods_and_no_other() -> None:
    answers = Answers()
    async with listening(CLUSTER, [answers.methods]) as node:
        for method, kind in (("t.join", None), ("t.echo", Denied), ("t.flood", Denied), ("t.none", Denied)):
            raw = await Raw.open(node.port, None, tls.JOIN_NAME)
            await raw.send(HEAD.replace(b"t.echo", method.encode()) + b"Content-Length: 0\r\n\r\n")
            status, body = await raw.answer()
            if kind is None:
                assert (status, body) == (200, b"welcome")
            else:
                told(body, kind)
            assert await raw.rest() == b""  # one question, one connection
            raw.close()
        assert [(what, caller.node_id) for what, caller in answers.asked] == [("join", "")]
        assert answers.asked[0][1].address == "127.0.0.1"
        async with linked(CLUSTER.keys(A)) as link:
            assert await link.call(node.record, "t.join", b"", timeout_ms=5_000) == b"welcome"


@bounded
async def test_renewed_papers_are_shown_on_new_connections() -> None:
    other = Cluster(CLUSTER.cluster_id)
    async with listening(CLUSTER, [Answers().methods]) as node, linked(CLUSTER.keys(A)) as link:
        await link.call(node.record, "t.echo", b"", timeout_ms=5_000)
        node.server.replace_keys(other.keys(B))
        await link.call(node.record, "t.echo", b"", timeout_ms=5_000)  # over the old connection
        async with linked(other.keys(A)) as renewed:
            await renewed.call(node.record, "t.echo", b"", timeout_ms=5_000)
        await link.forget(B)
        with pytest.raises(CertificateRefused):
            await link.call(node.record, "t.echo", b"", timeout_ms=5_000)
        link.replace_keys(other.keys(A))
        await link.call(node.record, "t.echo", b"", timeout_ms=5_000)


@bounded
async def test_papers_that_can_t_be_used(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    good, other = CLUSTER.keys(A), CLUSTER.keys(B)
    tls.link_context(good)
    for keys in (
        NodeKeys(**{**_fields(good), "private_key": other.private_key}),
        NodeKeys(**{**_fields(good), "certificate": b"nothing"}),
        NodeKeys(**{**_fields(good), "ca": b"nothing"}),
        NodeKeys(**{**_fields(good), "ca": b"\xff"}),
    ):
        with pytest.raises(CertificateRefused, match="papers"):
            tls.listener_context(keys)
    assert list(tmp_path.iterdir()) == []  # no key is left behind


def _fields(keys: NodeKeys) -> dict[str, Any]:
    return {name: getattr(keys, name) for name in keys.__struct_fields__}


@bounded
async def test_addresses_that_can_t_be_had() -> None:
    async with listening(CLUSTER, []) as node:
        second = PeerServer([], CLUSTER.keys(C), lambda *_: False)
        with pytest.raises(Conflict, match=f"127.0.0.1:{node.port} is already in use"):
            await second.start("127.0.0.1", node.port)
        with pytest.raises(SettingsError, match="no address of this machine"):
            await second.start("192.0.2.1", 0)
        with pytest.raises(SettingsError, match="can't listen on"):
            await second.start("no.such.host.invalid", 0)
        await second.close(0)


@bounded
async def test_every_interface() -> None:
    server = PeerServer([Answers().methods], CLUSTER.keys(B), lambda *_: False)
    port = await server.start("", 0)

    hosts = ["127.0.0.1", "[::1]"] if _has_ipv6() else ["127.0.0.1"]
    for host in hosts:
        async with linked(CLUSTER.keys(A)) as link:
            assert await link.call(record(B, f"{host}:{port}"), "t.echo", b"hi", timeout_ms=5_000) == b"hi"
    await server.close(0)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_a_machine_without_ipv6_listens_on_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sockets._bind_one

    def bind_one(family: int, *rest: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *rest)

    monkeypatch.setattr(sockets, "_bind_one", bind_one)
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("0.0.0.0", 0)),
    ]
    (one,) = sockets.bind(found, "", 0, "--host")
    one.close()
    with pytest.raises(SettingsError, match="can't listen"):
        sockets.bind(found, "named", 0, "--host")


async def test_a_port_in_use_is_told() -> None:
    (one,) = await sockets.listening("127.0.0.1", 0, "--host")
    port = one.getsockname()[1]
    with pytest.raises(Conflict, match=rf"127.0.0.1:{port} is already in use; .*--host"):
        await sockets.listening("127.0.0.1", port, "--host")
    one.close()


@pytest.mark.parametrize(
    ("host", "text"), [("203.0.113.7", "no address of this machine"), ("no such host", "can't listen on no such host")]
)
async def test_addresses_that_are_not_ours_are_told(host: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        await sockets.listening(host, 0, "--host")
