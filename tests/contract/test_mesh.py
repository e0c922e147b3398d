"""What every Mesh does: the one over zenoh, with real connections, and its twin in memory."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from mesh_world import WAIT_S, Nodes, heard_by, hears, is_told, mesh_nodes, tells, told_to
from ollamamax.adapters.network.zenoh_mesh import ZenohMesh
from ollamamax.core.errors import PeerUnavailable
from ollamamax.ports import MeshRole
from ollamamax.testing.mesh import MemoryHub

ROUTER, CLIENT = MeshRole.ROUTER, MeshRole.CLIENT


@pytest.fixture(params=["zenoh", "memory"])
async def nodes(request: pytest.FixtureRequest) -> AsyncGenerator[Nodes, None]:
    make = ZenohMesh if request.param == "zenoh" else MemoryHub().mesh
    async with mesh_nodes(make) as made:
        yield made


async def test_a_router_alone_hears_itself(nodes: Nodes) -> None:
    a = await nodes.router("a")
    await a.sees("a")
    await hears(a, "a")
    assert await told_to(a) == {}


async def test_nodes_appear_and_vanish(nodes: Nodes) -> None:
    a = await nodes.router("a")
    b = await nodes.client("b")
    c = await nodes.client("c")
    for ear in (a, b, c):
        await ear.sees("abc")
        await hears(ear, "abc")
    await c.close()
    for ear in (a, b):
        await ear.sees("ab")
        await hears(ear, "ab")


async def test_messages_reach_all_others_in_order(nodes: Nodes) -> None:
    a = await nodes.router("a")
    b = await nodes.client("b")
    c = await nodes.client("c")
    for ear in (a, b, c):
        await ear.sees("abc")
    expected = [("b", str(number).encode()) for number in range(100)]
    for _, data in expected:
        await b.mesh.publish(data)
    for ear in (a, c):
        await ear.until(lambda ear=ear: len(ear.messages) == 100)
        assert ear.messages == expected
    assert b.messages == []


async def test_whoever_asks_is_answered(nodes: Nodes) -> None:
    a = await nodes.router("a")
    b = await nodes.router("b")
    c = await nodes.client("c", "b")
    for ear in (a, b, c):
        await ear.sees("abc")
    await is_told(c, {"a": b"all of a", "b": b"all of b"})
    await is_told(a, {"c": b"all of c"}, "c")
    assert await told_to(a, "f") == {}


async def test_a_client_goes_on_trying_until_there_is_a_router(nodes: Nodes) -> None:
    config = nodes.config("a", ROUTER)
    b = await nodes.client("b")
    assert await heard_by(b) == set()
    assert await told_to(b) == {}
    await b.mesh.publish(b"nobody hears this")
    a = await nodes.open(config)
    await b.sees("ab")
    await a.sees("ab")
    assert a.messages == []


async def test_who_loses_the_last_router_sees_all_vanish_itself_too(nodes: Nodes) -> None:
    a = await nodes.router("a")
    b = await nodes.client("b")
    c = await nodes.client("c")
    for ear in (b, c):
        await ear.sees("abc")
    await a.close()
    for ear in (b, c):
        await ear.sees("")
        assert await heard_by(ear) == set()
    await nodes.router("a")
    for ear in (b, c):
        await ear.sees("abc")


async def test_clients_go_over_to_another_router(nodes: Nodes) -> None:
    await nodes.router("a")
    b = await nodes.router("b")
    c = await nodes.client("c", "ba")
    d = await nodes.client("d", "ab")
    for ear in (c, d):
        await ear.sees("abcd")
    await b.close()
    for ear in (c, d):
        await ear.sees("acd")


async def test_another_role_is_taken_without_a_gap(nodes: Nodes) -> None:
    a = await nodes.router("a")
    b = await nodes.client("b")
    c = await nodes.client("c")
    for ear in (a, b, c):
        await ear.sees("abc")
    await b.mesh.open(nodes.config("b", ROUTER))
    await b.mesh.publish(b"as a router")
    await b.mesh.open(nodes.config("b", CLIENT))
    await tells(b, b"as a client", a, c)
    for ear in (a, c):
        assert ("b", False) not in ear.signs
        assert ear.alive == set("abc")
    await hears(b, "abc")
    await is_told(b, {"c": b"all of c"}, "c")
    await c.close()
    await b.sees("ab")


async def test_a_router_takes_other_papers(nodes: Nodes) -> None:
    a = await nodes.router("a")
    b = await nodes.client("b")
    await b.sees("ab")
    nodes.papers.clear()
    await a.mesh.open(nodes.config("a", ROUTER))
    for ear in (a, b):
        await ear.sees("ab")
    await tells(a, b"renewed", b)


async def test_a_removed_node_hears_nothing_and_is_not_heard(nodes: Nodes) -> None:
    a = await nodes.router("a")
    b = await nodes.client("b")
    d = await nodes.client("d", "a")
    for ear in (a, b, d):
        await ear.sees("abd")
    await a.mesh.open(nodes.config("a", ROUTER, denied="d"))
    await b.mesh.open(nodes.config("b", CLIENT, denied="d"))
    for ear in (a, b):
        await ear.sees("ab")
    await d.until(lambda: d.alive <= {"d"})
    await d.mesh.publish(b"let me in")
    await tells(a, b"a secret", b)
    assert await told_to(d) == {}
    assert await heard_by(d) <= {"d"}
    await is_told(b, {"a": b"all of a"})
    await hears(b, "ab")
    assert d.messages == []
    assert ("d", b"let me in") not in [*a.messages, *b.messages]


async def test_a_router_needs_its_port(nodes: Nodes) -> None:
    await nodes.router("a")
    nodes.addresses["b"] = nodes.addresses["a"]
    with pytest.raises(PeerUnavailable, match="can't listen on"):
        await nodes.router("b")


async def test_who_answers_nothing_is_missing(nodes: Nodes) -> None:
    a = await nodes.router("a")
    mesh = nodes.make()
    try:
        await mesh.open(nodes.config("b", CLIENT))
        await a.sees("ab")
        assert await told_to(a) == {}
    finally:
        await mesh.close()


async def test_closing_ends_the_events_and_may_be_repeated(nodes: Nodes) -> None:
    a = await nodes.router("a")
    await a.sees("a")
    await a.mesh.close()
    await a.ended()
    await a.mesh.close()
    await a.mesh.publish(b"too late")
    assert await heard_by(a) == set()
    with pytest.raises(PeerUnavailable):
        await a.mesh.open(nodes.config("a", ROUTER))


async def test_a_mesh_that_was_never_open_closes(nodes: Nodes) -> None:
    mesh = nodes.make()
    assert await mesh.alive() == frozenset()
    await mesh.close()
    async with asyncio.timeout(WAIT_S):
        assert [event async for event in mesh.events()] == []
