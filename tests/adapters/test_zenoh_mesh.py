"""The mesh over zenoh where it differs from its twin: who is let in, what is refused, and zenoh's traps."""

import asyncio
import base64
import datetime
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zenoh
from msgspec.structs import replace

from mesh_world import (
    WAIT_S,
    Ear,
    Nodes,
    comes_to,
    free_address,
    heard_by,
    hears,
    is_told,
    mesh_nodes,
    node_id,
    told_to,
)
from ollamamax.adapters.network import zenoh_config
from ollamamax.adapters.network.zenoh_mesh import ZenohMesh
from ollamamax.adapters.network.zenoh_scout import ZenohScout, _peer_addresses
from ollamamax.core.errors import PeerUnavailable
from ollamamax.core.membership.deltas import MAX_MESSAGE_BYTES
from ollamamax.ports import MeshConfig, MeshRole
from peer_world import Cluster

ROUTER, CLIENT = MeshRole.ROUTER, MeshRole.CLIENT
HOUR = datetime.timedelta(hours=1)
SECONDS = datetime.timedelta(seconds=1)


@pytest.fixture
async def nodes() -> AsyncGenerator[Nodes, None]:
    async with mesh_nodes(ZenohMesh) as made:
        yield made


async def settled(nodes: Nodes, a: Ear, stranger: Ear) -> None:
    """A member has come after the stranger and been heard, so the stranger would have been."""
    b = await nodes.client("b")
    await a.sees("ab")
    await b.sees("ab")
    await stranger.mesh.publish(b"let me in")
    await a.mesh.publish(b"a secret")
    await b.until(lambda: ("a", b"a secret") in b.messages)
    assert await told_to(stranger) == {}
    assert await heard_by(stranger) <= {"d"}
    assert stranger.messages == []
    assert a.messages == b.messages[1:] == []
    assert a.alive == b.alive == set("ab")


# --- who is let in ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [CLIENT, ROUTER])
async def test_papers_of_another_authority_are_refused(nodes: Nodes, role: MeshRole) -> None:
    a = await nodes.router("a")
    foreign = Cluster(nodes.cluster.cluster_id)
    stranger = await nodes.open(nodes.config("d", role, "a", cluster=foreign))
    nodes.addresses.pop("d", None)
    await settled(nodes, a, stranger)


async def test_a_member_does_not_talk_to_a_router_of_another_authority(nodes: Nodes) -> None:
    foreign = Cluster(nodes.cluster.cluster_id)
    stranger = await nodes.open(nodes.config("d", ROUTER, "", cluster=foreign))
    b = await nodes.client("b", "d")
    await b.mesh.publish(b"a secret")
    assert await heard_by(b) == set()
    assert stranger.messages == []


async def test_a_certificate_that_expired_is_refused(nodes: Nodes) -> None:
    a = await nodes.router("a")
    nodes.papers["d"] = nodes.cluster.keys(node_id("d"), -HOUR)
    stranger = await nodes.client("d", "a")
    await settled(nodes, a, stranger)


async def test_a_certificate_that_expires_ends_the_session(nodes: Nodes) -> None:
    a = await nodes.router("a")
    for seconds in (3, 6, 12, 24, 48):  # a machine may be too slow to connect before it ends
        nodes.papers["d"] = nodes.cluster.keys(node_id("d"), seconds * SECONDS)
        d = await nodes.client("d", "a")
        with suppress(AssertionError):
            await a.until(lambda: ("d", True) in a.signs, seconds)
            break
        await d.close()
    assert ("d", True) in a.signs
    await a.sees("a")
    await d.sees("")


@pytest.mark.parametrize("role", [CLIENT, ROUTER])
async def test_a_removed_node_is_denied_all(nodes: Nodes, role: MeshRole) -> None:
    a = await nodes.router("a", denied="d")
    stranger = await nodes.open(nodes.config("d", role, "a"))
    nodes.addresses.pop("d", None)
    await settled(nodes, a, stranger)


async def test_who_hangs_on_a_removed_router_tells_it_nothing(nodes: Nodes) -> None:
    d = await nodes.router("d")
    b = await nodes.client("b", "d", denied="d")
    await b.mesh.publish(b"a secret")
    await d.mesh.publish(b"listen to me")
    assert await told_to(b) == {}
    assert await told_to(d) == {}
    await hears(d, "d")
    assert b.messages == d.messages == []


async def test_a_caller_without_a_certificate_is_refused(nodes: Nodes) -> None:
    a = await nodes.router("a")
    host, _, port = nodes.addresses["a"].rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def call() -> bytes:
        with socket.create_connection((host, int(port)), WAIT_S) as plain, context.wrap_socket(plain) as secured:
            return secured.recv(1)

    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.to_thread(call)
    assert a.alive <= {"a"}


async def test_plain_tcp_is_refused(nodes: Nodes) -> None:
    await nodes.router("a")
    config = zenoh.Config.from_json5(
        json.dumps(
            {
                "mode": "client",
                "connect": {"endpoints": [f"tcp/{nodes.addresses['a']}"], "timeout_ms": 0},
                "scouting": {"multicast": {"enabled": False}},
            }
        )
    )
    with pytest.raises(zenoh.ZError):
        await asyncio.to_thread(zenoh.open, config)


# --- what a member may send ------------------------------------------------------------------------------------


class Raw:
    """A member's own zenoh session, that sends whatever a test wants."""

    def __init__(self, config: MeshConfig) -> None:
        self.session: Any = zenoh.open(zenoh_config.session_config(config))
        self.root = f"omx/{config.keys.cluster_id}"
        self.tokens: list[Any] = []

    def token(self, key: str) -> None:
        self.tokens.append(self.session.liveliness().declare_token(f"{self.root}/alive/{key}"))


@pytest.fixture
async def raw(nodes: Nodes) -> AsyncGenerator[Raw, None]:
    await nodes.router("a")
    made = await asyncio.to_thread(Raw, nodes.config("c", CLIENT))
    try:
        yield made
    finally:
        await asyncio.to_thread(made.session.close)


async def test_what_is_no_nodes_or_too_much_is_not_heard(nodes: Nodes, raw: Raw) -> None:
    a = nodes.ears[0]
    for key in ("facts/junk", f"facts/{'x' * 16}", f"facts/{node_id('a')}", f"facts/{node_id('e')}/more"):
        raw.session.put(f"{raw.root}/{key}", b"junk")
    raw.session.put(f"{raw.root}/facts/{node_id('c')}", b"x" * (MAX_MESSAGE_BYTES + 1))
    raw.session.delete(f"{raw.root}/facts/{node_id('c')}")
    raw.token("junk")
    raw.session.put(f"{raw.root}/facts/{node_id('c')}", b"good")
    raw.token(node_id("c"))
    await a.sees("ac")
    await a.until(lambda: len(a.messages) > 0)
    assert a.messages == [("c", b"good")]


async def test_answers_that_are_too_large_or_of_nobody_are_left_out(nodes: Nodes, raw: Raw) -> None:
    def answer(query: Any) -> None:
        with query:
            query.reply(f"{raw.root}/facts/{node_id('c')}", b"x" * (MAX_MESSAGE_BYTES + 1))
            query.reply(f"{raw.root}/facts/junk", b"junk")
            query.reply(f"{raw.root}/facts/{node_id('e')}", b"good")
            query.reply(f"{raw.root}/facts/{node_id('e')}", b"another")

    raw.session.declare_queryable(f"{raw.root}/facts/*", answer)
    raw.token(node_id("c"))
    a = nodes.ears[0]
    await a.sees("ac")
    await is_told(a, {"e": b"good"})


async def test_more_nodes_than_zenohs_queues_hold_are_counted(nodes: Nodes, raw: Raw) -> None:
    for number in range(400):
        raw.token(f"{number:016x}")
    a = nodes.ears[0]
    await a.until(lambda: len(a.signs) >= 401)

    async def counted() -> int:
        return len(await a.mesh.alive())

    await comes_to(401, counted)


# --- addresses -------------------------------------------------------------------------------------------------


async def test_an_ipv6_address_can_be_called(nodes: Nodes) -> None:
    port = free_address().rpartition(":")[2]
    nodes.addresses["a"] = f"[::1]:{port}"
    a = await nodes.router("a")
    b = await nodes.client("b")
    await a.sees("ab")
    await b.sees("ab")


async def test_a_node_that_listens_everywhere_is_reached_by_ipv4_too(nodes: Nodes) -> None:
    port = free_address().rpartition(":")[2]
    nodes.addresses["a"] = f"[::]:{port}"
    a = await nodes.router("a")
    nodes.addresses["a"] = f"127.0.0.1:{port}"
    await nodes.client("b")
    await a.sees("ab")


def require_multicast() -> None:
    """Skips where this machine sends no multicast; CI has to."""
    group, port = zenoh_config.SCOUT_ADDRESS.split(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.sendto(b"", (group, int(port)))
        except OSError as error:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no multicast here: {error}")


async def test_a_router_is_found_on_the_lan_and_by_clients_that_know_no_address(nodes: Nodes) -> None:
    require_multicast()
    port = free_address().rpartition(":")[2]
    nodes.addresses["a"] = f"0.0.0.0:{port}"
    a = await nodes.open(replace(nodes.config("a", ROUTER), multicast=True))

    async def is_found() -> bool:
        found = await ZenohScout().scout(1_000.0)
        addresses = [address for node in found for address in node.addresses]
        return str(int(port) - 1) in {address.rpartition(":")[2] for address in addresses}

    await comes_to(True, is_found)
    nodes.addresses["a"] = free_address()
    await nodes.open(replace(nodes.config("b", CLIENT), multicast=True))
    await a.sees("ab")


def test_only_addresses_of_our_kind_are_shown() -> None:
    locators = ["tls/[fd00::1]:11436", "tls/10.0.0.1:11436", "tcp/10.0.0.1:7447", "tls/[fe80::1]:11436", "tls/x:1"]
    assert _peer_addresses(locators) == ("10.0.0.1:11435", "[fd00::1]:11435")
    assert _peer_addresses(["tls/", "tls/:2", "tls/h:", "tls/h:99999", "", "tls/h:x"]) == ()
    assert len(_peer_addresses([f"tls/10.0.0.{number}:9" for number in range(100)])) == 16


# --- errors ----------------------------------------------------------------------------------------------------


async def test_no_error_tells_the_key(nodes: Nodes, capfd: pytest.CaptureFixture[str]) -> None:
    good = nodes.config("a", ROUTER)
    secret = base64.b64encode(good.keys.private_key).decode()
    broken = replace(good.keys, certificate=b"junk")
    with pytest.raises(PeerUnavailable) as caught:
        await nodes.open(replace(good, keys=broken))
    assert secret not in str(caught.value)
    assert len(str(caught.value)) < 400
    await nodes.open(replace(good, keys=broken, role=CLIENT, connect=(good.listen,)))
    assert secret[:40] not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("can't open tls/h:1#key=c2VjcmV0: no", "can't open tls/h:1"),
        ('bad {"listen_private_key_base64":"c2Vj"}', "bad"),
        ("in use at /root/src/lib.rs:4.", "in use"),
        ("", "zenoh does not say why"),
    ],
)
def test_reasons_are_cut_before_secrets(text: str, shown: str) -> None:
    assert zenoh_config.reason(zenoh.ZError(text)) == shown


async def test_a_session_that_breaks_is_as_good_as_lost_and_can_be_replaced(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Panic(BaseException):
        """As a panic of Rust code comes."""

    def panic(*_: object) -> None:
        raise Panic("boom")

    a = await nodes.router("a")
    b = await nodes.client("b")
    await b.sees("ab")
    monkeypatch.setattr(b.mesh._session, "alive", panic)
    monkeypatch.setattr(b.mesh._session, "put", panic)
    assert await b.mesh.alive() == frozenset()
    await b.sees("")
    await b.mesh.publish(b"lost")
    await b.mesh.open(nodes.config("b", CLIENT))
    await b.sees("ab")
    await b.mesh.publish(b"found")
    await a.until(lambda: a.messages == [("b", b"found")])


# --- processes that die or fall silent -------------------------------------------------------------------------


@asynccontextmanager
async def child(config: MeshConfig) -> AsyncIterator[subprocess.Popen[bytes]]:
    made = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent.parent / "mesh_child.py")],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert made.stdin is not None
    try:
        made.stdin.write(msgspec.json.encode(config) + b"\n")
        made.stdin.flush()
        yield made
    finally:
        made.kill()
        made.wait(WAIT_S)
        made.stdin.close()


async def test_a_silent_process_is_missed_after_its_lease_and_comes_back(nodes: Nodes) -> None:
    a = await nodes.router("a")
    b = await nodes.client("b")
    async with child(nodes.config("c", CLIENT, lease_ms=1_000)) as process:
        for ear in (a, b):
            await ear.sees("abc")
        process.send_signal(signal.SIGSTOP)
        for ear in (a, b):
            await ear.sees("ab")
        process.send_signal(signal.SIGCONT)
        for ear in (a, b):
            await ear.sees("abc")


async def test_a_killed_process_is_missed_without_waiting_for_its_lease(nodes: Nodes) -> None:
    a = await nodes.router("a")
    b = await nodes.client("b")
    async with child(nodes.config("c", CLIENT, lease_ms=1_000_000)) as process:
        for ear in (a, b):
            await ear.sees("abc")
        process.kill()
        for ear in (a, b):
            await ear.sees("ab")
