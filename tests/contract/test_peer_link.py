"""What every PeerLink does, over real TLS on loopback and in memory."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

import pytest

from ollamamax.adapters.network import peer_link
from ollamamax.core.errors import (
    BadRequest,
    CertificateRefused,
    EngineRefused,
    ModelNotFound,
    OllamaMaxError,
    PeerError,
    PeerProtocol,
    PeerTimeout,
    PeerUnavailable,
    PeerVersion,
    QueueFull,
)
from ollamamax.core.types import NodeRecord
from ollamamax.ports import Caller, PeerLink, PeerMethods
from ollamamax.testing.peers import MemoryPeers
from peer_world import A, B, C, Cluster, bounded, linked, listening, record
from relay import relay

SOON_MS = 5_000.0
ERRORS = [ModelNotFound("no such"), QueueFull(), EngineRefused("no", 418), CertificateRefused("ends with ü")]


class Other:
    """The node that answers, and what it has seen. ended: streams that are over.  gate: held after each item."""

    def __init__(self) -> None:
        self.callers: list[Caller] = []
        self.begun = self.ended = self.made = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.changed = asyncio.Condition()
        self.methods = PeerMethods(
            unary={"t.echo": self.echo, "t.fail": self.fail, "t.wait": self.wait, "t.bug": self.bug},
            streams={"t.count": self.count, "t.late": self.late, "t.flood": self.flood},
        )

    async def echo(self, caller: Caller, body: bytes) -> bytes:
        self.callers.append(caller)
        return body

    async def fail(self, caller: Caller, body: bytes) -> bytes:
        raise ERRORS[int(body)]

    async def bug(self, caller: Caller, body: bytes) -> bytes:
        raise ValueError("a secret of this node")

    async def wait(self, caller: Caller, body: bytes) -> bytes:
        self.begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1
            await self.note()
        return b""

    async def count(self, caller: Caller, body: bytes) -> AsyncGenerator[list[bytes], None]:
        """As many items as the body says, two frames each and an empty one."""
        self.begun += 1
        try:
            for number in range(int(body)):
                yield [b"%d" % number, b"", b"x" * number]
                await self.gate.wait()
        finally:
            self.ended += 1
            await self.note()

    async def late(self, caller: Caller, body: bytes) -> AsyncGenerator[list[bytes], None]:
        """Fails after so many items."""
        for number in range(int(body)):
            yield [b"%d" % number]
        raise EngineRefused("late", 500)

    async def flood(self, caller: Caller, body: bytes) -> AsyncGenerator[list[bytes], None]:
        while True:
            self.made += 1
            yield [b"x" * 100_000]

    async def note(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until_ended(self, count: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.ended == count)


@dataclass
class World:
    """A's link to B. hold, cut: what a test does to the wire between them.  back: B's link.  versions: of A."""

    link: PeerLink
    node: NodeRecord
    other: Other
    hold: Callable[[], None]
    cut: Callable[[], None]
    revoke: Callable[[], None]
    age: Callable[[], None]
    back: PeerLink
    here: NodeRecord
    mine: Other


async def tls_world(stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch) -> World:
    cluster = Cluster()
    other, mine = Other(), Other()
    there = await stack.enter_async_context(listening(cluster, [other.methods]))
    here = await stack.enter_async_context(listening(cluster, [mine.methods], A))
    wire = await stack.enter_async_context(relay(there.port))
    link = await stack.enter_async_context(linked(cluster.keys(A), incoming=here.server.drop))
    back = await stack.enter_async_context(linked(cluster.keys(B), incoming=there.server.drop))

    def revoke() -> None:
        there.revoked.add(A)

    def age() -> None:
        monkeypatch.setattr(peer_link, "PROTOCOL_RANGE", "7-9")

    return World(link, record(B, wire.port), other, wire.hold, wire.cut, revoke, age, back, here.record, mine)


async def memory_world(stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch) -> World:
    peers = MemoryPeers()
    other, mine = Other(), Other()
    peers.listen(B, [other.methods])
    peers.listen(A, [mine.methods])

    def cut() -> None:
        peers.cut(A, B)
        peers.heal(A, B)

    return World(
        peers.link(A),
        record(B, 1),
        other,
        lambda: peers.hold(B),
        cut,
        lambda: peers.revoked.add(A),
        lambda: peers.speak(B, 7, 9),
        peers.link(B),
        record(A, 1),
        mine,
    )


@pytest.fixture(params=[tls_world, memory_world], ids=["tls", "memory"])
async def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[World, None]:
    async with AsyncExitStack() as stack:
        made = await request.param(stack, monkeypatch)
        yield made
        await made.link.close()
        await made.back.close()


async def call(world: World, method: str, body: bytes = b"", timeout_ms: float = SOON_MS) -> bytes:
    return await world.link.call(world.node, method, body, timeout_ms=timeout_ms)


async def frames(world: World, method: str, body: bytes) -> list[bytes]:
    answer = world.link.stream(world.node, method, body, idle_ms=SOON_MS)
    return [frame async for batch in answer for frame in batch]


@bounded
async def test_a_call_brings_the_answer_and_names_the_caller(world: World) -> None:
    for body in (b"", b"hello", b"\0" * 3_000_000):
        assert await call(world, "t.echo", body) == body
    assert {caller.node_id for caller in world.other.callers} == {A}
    assert all(caller.address for caller in world.other.callers)


@bounded
async def test_many_calls_at_once(world: World) -> None:
    bodies = [b"%d" % number for number in range(60)]
    assert await asyncio.gather(*(call(world, "t.echo", body) for body in bodies)) == bodies


@pytest.mark.parametrize("number", range(len(ERRORS)))
@bounded
async def test_errors_arrive_as_what_they_are(world: World, number: int) -> None:
    with pytest.raises(OllamaMaxError) as caught:
        await call(world, "t.fail", b"%d" % number)
    assert type(caught.value) is type(ERRORS[number])
    assert str(caught.value) == str(ERRORS[number])
    assert getattr(caught.value, "status", 0) == getattr(ERRORS[number], "status", 0)
    assert await call(world, "t.echo", b"after") == b"after"


@bounded
async def test_a_bug_over_there_is_told_without_details(world: World) -> None:
    with pytest.raises(PeerError) as caught:
        await call(world, "t.bug")
    assert "secret" not in str(caught.value)


@bounded
async def test_a_method_that_nobody_knows(world: World) -> None:
    with pytest.raises(PeerProtocol):
        await call(world, "t.nothing")
    with pytest.raises(PeerProtocol):
        await frames(world, "t.nothing", b"")


@bounded
async def test_frames_arrive_in_order(world: World) -> None:
    expected = [frame for number in range(300) for frame in (b"%d" % number, b"", b"x" * number)]
    assert await frames(world, "t.count", b"300") == expected
    assert await frames(world, "t.count", b"0") == []
    await world.other.until_ended(2)


@pytest.mark.parametrize("items", [0, 1, 5])
@bounded
async def test_a_stream_that_fails(world: World, items: int) -> None:
    seen: list[bytes] = []

    async def read() -> None:
        async for batch in world.link.stream(world.node, "t.late", b"%d" % items, idle_ms=SOON_MS):
            seen.extend(batch)

    with pytest.raises(EngineRefused, match="late") as caught:
        await read()
    assert caught.value.status == 500
    assert seen == [b"%d" % number for number in range(items)]


@bounded
async def test_nothing_is_sent_before_the_first_item_is_asked_for(world: World) -> None:
    answer = world.link.stream(world.node, "t.count", b"3", idle_ms=SOON_MS)
    await call(world, "t.echo")
    assert world.other.begun == 0
    await answer.aclose()


@bounded
async def test_closing_a_stream_ends_the_work_there(world: World) -> None:
    world.other.gate.clear()
    async with aclosing(world.link.stream(world.node, "t.count", b"3", idle_ms=SOON_MS)) as answer:
        assert (await anext(answer))[0] == b"0"
        assert world.other.ended == 0
    await world.other.until_ended(1)


@bounded
async def test_who_is_cancelled_ends_the_work_there(world: World) -> None:
    world.other.gate.clear()
    reading = asyncio.create_task(frames(world, "t.count", b"3"))
    waiting = asyncio.create_task(call(world, "t.wait"))
    while world.other.begun < 2:
        await call(world, "t.echo")
    for task in (reading, waiting):
        task.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError)
        for end in await asyncio.gather(reading, waiting, return_exceptions=True)
    )
    await world.other.until_ended(2)


@bounded
async def test_a_reader_that_rests_holds_the_other_side_back(world: World) -> None:
    async with aclosing(world.link.stream(world.node, "t.flood", b"", idle_ms=SOON_MS)) as answer:
        await anext(answer)
        made = -1
        while made != world.other.made:  # until it stands still
            made = world.other.made
            for _ in range(20):
                await call(world, "t.echo")
        assert made < 400  # 40 MB
        got = 1
        while got < made + 50:  # and goes on
            got += len(await anext(answer))
    assert world.other.made > made


@bounded
async def test_a_call_that_takes_too_long(world: World) -> None:
    with pytest.raises(PeerTimeout, match="node-b"):
        await call(world, "t.wait", timeout_ms=50)
    await world.other.until_ended(1)
    assert await call(world, "t.echo", b"after") == b"after"


@bounded
async def test_a_quiet_handler_is_no_silence_but_a_silent_node_is(world: World) -> None:
    world.other.gate.clear()
    async with aclosing(world.link.stream(world.node, "t.count", b"2", idle_ms=2_600)) as answer:
        await anext(answer)
        asyncio.get_running_loop().call_later(3.0, world.other.gate.set)
        assert (await anext(answer))[0] == b"1"
    world.other.gate.clear()
    async with aclosing(world.link.stream(world.node, "t.count", b"2", idle_ms=300)) as answer:
        await anext(answer)
        world.hold()
        with pytest.raises(PeerTimeout, match="node-b"):
            await anext(answer)


@bounded
async def test_a_cut_wire_breaks_what_is_under_way_and_no_more(world: World) -> None:
    world.other.gate.clear()
    reading = asyncio.create_task(frames(world, "t.count", b"3"))
    waiting = asyncio.create_task(call(world, "t.wait"))
    while world.other.begun < 2:
        await call(world, "t.echo")
    world.cut()
    for task in (reading, waiting):
        with pytest.raises(PeerUnavailable, match="node-b"):
            await task
    await world.other.until_ended(2)
    assert await call(world, "t.echo", b"after") == b"after"


@bounded
async def test_nobody_there(world: World) -> None:
    nobody = record(C, 1)
    with pytest.raises(PeerUnavailable, match="node-c"):
        await world.link.call(nobody, "t.echo", b"", timeout_ms=SOON_MS)
    with pytest.raises(PeerUnavailable, match="node-c"):
        await anext(world.link.stream(nobody, "t.count", b"1", idle_ms=SOON_MS))


@bounded
async def test_a_removed_node_is_told_so(world: World) -> None:
    world.revoke()
    with pytest.raises(CertificateRefused, match="removed"):
        await call(world, "t.echo")
    assert world.other.callers == []


@bounded
async def test_no_version_in_common(world: World) -> None:
    world.age()
    with pytest.raises(PeerVersion, match="7 to 9"):
        await call(world, "t.echo")
    with pytest.raises(PeerVersion, match="7 to 9"):
        await frames(world, "t.count", b"1")


@bounded
async def test_a_body_that_is_too_large_is_not_sent(world: World) -> None:
    with pytest.raises(BadRequest):
        await call(world, "t.echo", bytes((64 << 20) + 1))
    assert world.other.callers == []


@bounded
async def test_who_is_forgotten_loses_both_directions(world: World) -> None:
    world.other.gate.clear()
    world.mine.gate.clear()
    out = asyncio.create_task(frames(world, "t.count", b"3"))

    async def read_back() -> None:
        async for _ in world.back.stream(world.here, "t.count", b"3", idle_ms=SOON_MS):
            pass

    back = asyncio.create_task(read_back())
    while not (world.other.begun and world.mine.begun):
        await world.link.call(world.node, "t.echo", b"", timeout_ms=SOON_MS)
    await world.link.forget(B)
    for task in (out, back):
        with pytest.raises(PeerUnavailable):
            await task
    await world.other.until_ended(1)
    await world.mine.until_ended(1)


@bounded
async def test_a_closed_link_calls_nobody(world: World) -> None:
    await call(world, "t.echo")
    await world.link.close()
    await world.link.close()
    with pytest.raises(PeerUnavailable, match="stopping"):
        await call(world, "t.echo")
