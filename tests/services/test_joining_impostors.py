"""Who answers a joining node and is no member of the cluster: nothing is told to it, and it can break nothing."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from joining_world import HOUR_MS, Cluster, Meddler, RawTlsServer, assert_refused, changed

from ollamamax.adapters.identity.authority import FileAuthority
from ollamamax.adapters.identity.node_identity import FileIdentityStore
from ollamamax.adapters.network.join_client import TlsJoinLink
from ollamamax.core.catalog.join_token import JoinToken, encode
from ollamamax.core.errors import (
    CertificateRefused,
    OllamaMaxError,
    PeerError,
    PeerProtocol,
    PeerTimeout,
    PeerUnavailable,
    PeerVersion,
)
from ollamamax.ports import NodeKeys
from ollamamax.services import join_wire
from ollamamax.services.join_wire import Hello, JoinAnswer
from ollamamax.services.joining import found, join
from ollamamax.testing.clock import FakeClock, SeededDice


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path) as it:
        yield it


def _http(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
def foreign(tmp_path: Path) -> NodeKeys:
    """Papers of another authority, which calls itself by the same names."""
    now_ns = time.time_ns()
    directory = tmp_path / "foreign" / "cluster"
    authority = FileAuthority.create(directory, "c0ffee00c0ffee00", "home", None, now_ns)
    return found(FileIdentityStore(directory), authority, "0123456789abcdef", "founder", now_ns).keys


async def test_an_impostor_with_the_true_authority_hears_no_secret(
    cluster: Cluster, foreign: NodeKeys, tmp_path: Path
) -> None:
    hello = await TlsJoinLink().hello(cluster.founder.address)
    async with RawTlsServer(foreign, tmp_path, lambda head: _http(hello)) as impostor:
        token = changed(await cluster.founder.token(), addresses=(impostor.address,))
        await assert_refused(
            cluster, token, CertificateRefused, "a certificate that the cluster's authority did not sign"
        )
        assert [head.split()[1] for head in impostor.heard] == [b"/v1/cluster.hello"]


async def test_an_authority_smuggled_in_beside_the_true_one_is_not_trusted(
    cluster: Cluster, foreign: NodeKeys, tmp_path: Path
) -> None:
    hello = msgspec.msgpack.decode(await TlsJoinLink().hello(cluster.founder.address), type=Hello)
    for ca in (hello.ca + foreign.ca, foreign.ca + hello.ca, b"\n" + hello.ca + b"\n" + foreign.ca):
        said = join_wire.encode(msgspec.structs.replace(hello, ca=ca))
        async with RawTlsServer(foreign, tmp_path, lambda head, said=said: _http(said)) as impostor:  # type: ignore[misc]
            token = changed(await cluster.founder.token(), addresses=(impostor.address,))
            await assert_refused(cluster, token, CertificateRefused, "more than one certificate")
            assert len(impostor.heard) == 1


async def test_a_member_of_another_cluster_of_the_same_authority_hears_no_secret(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Not by its authority, only by its certificate can it be told apart."""
    keys = cluster.founder.identity.keys
    async with RawTlsServer(keys, tmp_path, lambda head: _http(b"")) as other:
        with pytest.raises(CertificateRefused, match="not one of cluster dead00000000beef"):
            await TlsJoinLink().join(other.address, keys.ca, "dead00000000beef", b"secret")
        assert other.heard == []


def _self_told(hello: bytes, **parts: object) -> bytes:
    return join_wire.encode(msgspec.structs.replace(msgspec.msgpack.decode(hello, type=Hello), **parts))


async def test_versions_that_do_not_meet(cluster: Cluster) -> None:
    token = await cluster.founder.token()
    for low, high, who in ((7, 9, "upgrade this machine"), (0, 0, "upgrade it")):
        link = Meddler(on_hello=lambda data, low=low, high=high: _self_told(data, protocol_min=low, protocol_max=high))  # type: ignore[misc]
        with pytest.raises(PeerVersion, match=rf"speaks versions {low} to {high} .*{who}"):
            await cluster.newcomer("box").join(token, link)
        assert link.joins == 0


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (b"", PeerUnavailable, "closed the connection"),
        (b"\x00garbage\r\n\r\n", PeerProtocol, "can't be understood"),
        (_http(b"\xc1"), PeerProtocol, "can't be read"),
        (_http(b""), PeerProtocol, "can't be read"),
        (_http(b"<html>", "404 Not Found"), PeerProtocol, "can't be read"),
        (_http(b"", "302 Found\r\nLocation: https://127.0.0.1:1/"), PeerProtocol, "can't be read"),
        (_http(b"x" * 70_000), PeerProtocol, "more than 65536 bytes"),
        (_http(b"x" * 70_000, "500 Oops"), PeerProtocol, "more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", PeerUnavailable, "closed the connection"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000 + b"\r\n", PeerProtocol, "can't be understood"),
        (None, PeerTimeout, "did not answer within 0.3 s"),
        (
            _http(msgspec.msgpack.encode({"code": "peer_version", "text": "\x1b[2J too old\n"}), "422 No"),
            PeerVersion,
            r": +\[2J too old $",
        ),
        (
            _http(msgspec.msgpack.encode({"code": "token_refused", "text": "send it again, please"}), "422 No"),
            PeerProtocol,
            "send it again",
        ),
    ],
    ids=[
        "nothing", "garbage", "bad msgpack", "empty", "404", "redirect", "too much", "error too large", "cut off",
        "endless head", "silence", "an error", "an error out of place",
    ],
)  # fmt: skip
async def test_bad_answers(
    cluster: Cluster,
    foreign: NodeKeys,
    tmp_path: Path,
    answer: bytes | None,
    kind: type[PeerError],
    text: str,
) -> None:
    async with RawTlsServer(foreign, tmp_path, lambda head: answer) as server:
        token = changed(await cluster.founder.token(), addresses=(server.address,))
        newcomer = cluster.newcomer("box")
        with pytest.raises(kind, match=text) as told:
            await newcomer.join(token, TlsJoinLink(hello_timeout_s=0.3))
        assert str(told.value).isprintable()
        assert server.address in str(told.value) or "can't be read" in str(told.value)
        assert newcomer.store.load() is None


@pytest.mark.parametrize(
    ("said", "kind", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", PeerProtocol, "does not speak TLS"),
        (b"", PeerUnavailable, "closed the connection"),
        (None, PeerTimeout, "did not answer"),
    ],
    ids=["plain HTTP", "closed", "silent"],
)
async def test_who_speaks_no_tls(said: bytes | None, kind: type[PeerError], text: str) -> None:
    is_over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if said is None:
            await is_over.wait()
        writer.write(said or b"")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(kind, match=text):
            await TlsJoinLink(hello_timeout_s=0.3).hello(address)
    finally:
        is_over.set()
        server.close()
        await server.wait_closed()


async def test_old_tls_is_not_spoken(cluster: Cluster) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", cluster.founder.port, ssl=context, server_hostname="join.ollamamax")


def _replaced(**parts: object) -> Callable[[bytes], bytes]:
    return lambda data: join_wire.encode(
        msgspec.structs.replace(msgspec.msgpack.decode(data, type=JoinAnswer), **parts)
    )


async def test_answers_that_are_not_what_was_asked_for(cluster: Cluster, foreign: NodeKeys) -> None:
    token = await cluster.founder.token(uses=20)
    own = cluster.founder.identity.keys
    empty = msgspec.structs.replace(cluster.founder.replica.catalog.entries(), entries=())
    for meddle, kind, text in (
        (_replaced(ca=foreign.ca), CertificateRefused, "another authority"),
        (_replaced(ca=own.ca + foreign.ca), CertificateRefused, "more than one"),
        (_replaced(certificate=own.certificate), CertificateRefused, "belongs to another key"),
        (_replaced(certificate=b"junk"), CertificateRefused, "can't be read"),
        (_replaced(name="../.."), PeerProtocol, "no node name"),
        (_replaced(state=empty), PeerProtocol, "whole state"),
        (_replaced(holder_id="f" * 16), PeerProtocol, "whole state"),
        (lambda data: data[:-1], PeerProtocol, "can't be read"),
        (lambda data: b"", PeerProtocol, "can't be read"),
    ):
        newcomer = cluster.newcomer("box")
        with pytest.raises(kind, match=text):
            await newcomer.join(token, Meddler(on_join=meddle))
        assert newcomer.store.load() is None


@pytest.mark.parametrize("days", [8, 30])
async def test_a_clock_that_is_days_wrong_is_told(cluster: Cluster, days: int) -> None:
    newcomer = cluster.newcomer("box")
    late = FakeClock(wall_ns=cluster.clock.wall_ns() + days * 24 * HOUR_MS * 10**6)
    with pytest.raises(CertificateRefused, match="clock"):
        await join(
            await cluster.founder.token(),
            TlsJoinLink(),
            newcomer.store,
            name="box",
            addresses=("127.0.0.1:9",),
            version="1",
            clock=late,
            dice=cluster.dice,
        )
    assert newcomer.store.load() is None


async def test_an_expired_member_is_told_as_such(cluster: Cluster, tmp_path: Path) -> None:
    founder = cluster.founder
    assert founder.authority is not None
    past_ns = time.time_ns() - 20 * 24 * HOUR_MS * 10**6
    request = founder.store.request(founder.identity.keys.private_key)
    old = founder.authority.sign(request, founder.identity.node_id, past_ns)
    keys = msgspec.structs.replace(founder.identity.keys, certificate=old)
    async with RawTlsServer(keys, tmp_path, lambda head: _http(b"")) as server:
        with pytest.raises(CertificateRefused, match=r"expired: check the clocks"):
            await TlsJoinLink().join(server.address, keys.ca, cluster.cluster_id, b"secret")
        assert server.heard == []


class _Babbler:
    """A JoinLink that says the same whatever it is asked."""

    def __init__(self, hello: bytes) -> None:
        self._hello = hello

    async def hello(self, address: str) -> bytes:
        return self._hello

    async def join(self, address: str, ca: bytes, cluster_id: str, body: bytes) -> bytes:
        raise AssertionError("the secret is out")


_HELLO = Hello(cluster_id="a" * 16, cluster_name="x", node_id="b" * 16, node_name="n", version="1", ca=b"")
_TOKEN = encode(
    JoinToken(cluster_id="a" * 16, token_id="b" * 16, secret="c" * 32, ca_hash="d" * 64, addresses=("127.0.0.1:9",))
)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda ca, low, text: join_wire.encode(
                msgspec.structs.replace(_HELLO, ca=ca, protocol_min=low, version=text)
            ),
            st.binary(max_size=100),
            st.integers(-(2**40), 2**40),
            st.text(max_size=50),
        ),
        st.recursive(
            st.none() | st.integers(-(2**31), 2**31) | st.text(max_size=9) | st.binary(max_size=9),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
        ).map(msgspec.msgpack.encode),
    )
)
@example_settings(max_examples=200, deadline=None)
def test_whatever_a_stranger_says_nothing_is_told_to_it(hello: bytes) -> None:
    store = FileIdentityStore(Path("/nonexistent/cluster"))
    with pytest.raises(OllamaMaxError) as told:
        asyncio.run(
            join(
                _TOKEN,
                _Babbler(hello),
                store,
                name="box",
                addresses=("127.0.0.1:9",),
                version="1",
                clock=FakeClock(),
                dice=SeededDice(),
            )
        )
    assert str(told.value).isprintable()
