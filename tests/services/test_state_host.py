"""The state over a link: what others may ask, and what becomes of them who ask for nonsense or too much."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
import pytest

from ollamamax.adapters.state.remote_state import RemoteState
from ollamamax.core.errors import BadRequest, StateCompacted, StateUnavailable
from ollamamax.core.types import NodeRecord, Put, StateBatch, StateFollow, StateTxn
from ollamamax.ports import Caller, PeerMethods
from ollamamax.services.state_host import StateHost
from ollamamax.testing.clock import FakeClock
from ollamamax.testing.peers import MemoryPeers
from ollamamax.testing.state import MemoryState
from peer_world import A, B, C, record

CALLER = Caller(B)
HOLDER = record(A)
FOLLOW = msgspec.msgpack.encode(StateFollow("", 0))


def put(key: str, value: bytes = b"") -> StateTxn:
    return StateTxn((), (Put(key, value),))


@pytest.fixture
def store() -> MemoryState:
    return MemoryState(FakeClock(), heartbeat_ms=10.0, keep_revisions=5)


@pytest.fixture
def peers(store: MemoryState) -> MemoryPeers:
    made = MemoryPeers()
    made.listen(A, [StateHost(lambda: store).methods()])
    return made


@pytest.fixture
def remote(peers: MemoryPeers) -> RemoteState:
    return RemoteState(peers.link(B), lambda: [HOLDER], timeout_ms=50.0, silence_ms=50.0)


# --- the host -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"noise", b"\x80", msgspec.msgpack.encode(7), b"\xdd\xff\xff\xff\xff"])
async def test_noise_is_refused_by_every_method(store: MemoryState, body: bytes) -> None:
    methods = StateHost(lambda: store).methods()
    assert methods.open == {}
    for handler in methods.unary.values():
        with pytest.raises(BadRequest, match="can't be read"):
            await handler(CALLER, body)
    for stream in methods.streams.values():
        with pytest.raises(BadRequest):
            await anext(stream(CALLER, body))


async def test_too_much_is_refused_before_it_is_read(store: MemoryState) -> None:
    with pytest.raises(BadRequest, match="more than 4194304 bytes"):
        await StateHost(lambda: store).methods().unary["state.txn"](CALLER, b"\x00" * ((4 << 20) + 1))


async def test_watches_of_one_node_are_limited_and_end_when_nobody_reads(store: MemoryState) -> None:
    watch = StateHost(lambda: store).methods().streams["state.watch"]
    body = msgspec.msgpack.encode(StateFollow("", 0))
    open_ones = [watch(CALLER, body) for _ in range(8)]
    for stream in open_ones:
        await anext(stream)
    with pytest.raises(StateUnavailable, match="8 times already"):
        await anext(watch(CALLER, body))
    await anext(watch(Caller(C), body))
    await open_ones.pop().aclose()
    again = watch(CALLER, body)
    assert msgspec.msgpack.decode((await anext(again))[0], type=StateBatch) == StateBatch(0, ())
    for stream in [*open_ones, again]:
        await stream.aclose()


async def test_a_slow_reader_costs_nothing_and_is_told_when_it_is_too_late(store: MemoryState) -> None:
    stream = StateHost(lambda: store).methods().streams["state.watch"](CALLER, FOLLOW)
    await anext(stream)
    for _ in range(50):
        await store.txn(put("a"))
    with pytest.raises(StateCompacted):
        await anext(stream)


async def test_watches_end_when_the_host_stops(store: MemoryState) -> None:
    host = StateHost(lambda: store)
    watch = host.methods().streams["state.watch"]
    body = msgspec.msgpack.encode(StateFollow("", 0))
    streams = [watch(CALLER, body), watch(Caller(C), body)]
    for stream in streams:
        await anext(stream)
    waiting = asyncio.gather(*(_drained(stream) for stream in streams), return_exceptions=True)
    host.close()
    host.close()
    async with asyncio.timeout(10):
        ends = await waiting
    assert [str(one) for one in ends] == ["the node that holds the cluster's state is stopping"] * 2
    with pytest.raises(StateUnavailable):
        await _drained(watch(CALLER, body))
    assert (await store.range("")).revision == 0  # the rest is answered on


async def _drained(stream: AsyncGenerator[list[bytes], None]) -> None:
    async for _ in stream:
        pass


async def test_a_watch_whose_caller_goes_ends_at_once(store: MemoryState) -> None:
    stream = StateHost(lambda: store).methods().streams["state.watch"](CALLER, FOLLOW)
    await anext(stream)
    reading = asyncio.create_task(_drained(stream))
    await asyncio.sleep(0)
    reading.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await reading
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- the caller -----------------------------------------------------------------------------------------------


async def test_a_holder_that_cant_be_reached_is_named(remote: RemoteState, peers: MemoryPeers) -> None:
    peers.cut(A, B)
    calls = [
        remote.get("a"), remote.range(""), remote.txn(put("a")), remote.grant_lease(1), remote.renew_lease(1),
        remote.revoke_lease(1), anext(remote.watch("", 0)),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(StateUnavailable, match="the cluster's state is on node node-a, which can't be reached"):
            await call


async def test_a_node_that_was_removed_has_no_state(remote: RemoteState, peers: MemoryPeers) -> None:
    peers.revoked.add(B)
    with pytest.raises(StateUnavailable, match="this node was removed from the cluster"):
        await remote.range("")


async def test_a_node_that_holds_no_state_is_no_holder(remote: RemoteState, peers: MemoryPeers) -> None:
    peers.listen(A, [])
    with pytest.raises(StateUnavailable, match="knows no method"):
        await remote.range("")


async def test_a_holder_that_says_nothing_is_waited_for_so_long_and_no_longer(
    remote: RemoteState, peers: MemoryPeers
) -> None:
    peers.hold(A)
    async with asyncio.timeout(10):
        with pytest.raises(StateUnavailable, match="said nothing for 50 ms"):
            await remote.txn(put("a"))
        with pytest.raises(StateUnavailable, match="said nothing for 50 ms"):
            await anext(remote.watch("", 0))


@pytest.mark.parametrize("trouble", ["killed", "closed", "closed here", "garbled"])
async def test_a_watch_ends_with_its_connection(
    remote: RemoteState, peers: MemoryPeers, store: MemoryState, trouble: str
) -> None:
    async with asyncio.timeout(10), aclosing(remote.watch("", 0)) as batches:
        await anext(batches)
        match trouble:
            case "killed":
                peers.leave(A)
            case "closed":
                await store.close()
            case "closed here":
                await remote.close()
            case "garbled":
                peers.garble(A)
        with pytest.raises(StateUnavailable):
            async for _ in batches:
                pass


async def test_nobody_is_asked_before_it_is_known_who(peers: MemoryPeers) -> None:
    holder: list[NodeRecord] = []
    remote = RemoteState(peers.link(B), lambda: holder)
    with pytest.raises(StateUnavailable, match="not known yet which node"):
        await remote.range("")
    assert peers.calls == []
    holder.append(HOLDER)
    assert (await remote.range("")).revision == 0


async def test_what_is_refused_anyway_is_not_sent(remote: RemoteState, peers: MemoryPeers) -> None:
    with pytest.raises(BadRequest):
        await remote.txn(StateTxn((), (Put("a", b""), Put("a", b""))))
    with pytest.raises(BadRequest):
        await remote.grant_lease(0)
    assert peers.calls == []


async def test_an_answer_of_no_sense_is_no_answer(remote: RemoteState, peers: MemoryPeers) -> None:
    async def noise(caller: Caller, body: bytes) -> bytes:
        return b"noise"

    async def noises(caller: Caller, body: bytes) -> AsyncGenerator[list[bytes], None]:
        yield [b"noise"]

    peers.listen(A, [PeerMethods(unary={"state.range": noise}, streams={"state.watch": noises})])
    with pytest.raises(StateUnavailable, match="makes no sense"):
        await remote.range("")
    with pytest.raises(StateUnavailable, match="makes no sense"):
        await anext(remote.watch("", 0))


async def test_a_watch_that_just_ends_is_lost(remote: RemoteState, peers: MemoryPeers) -> None:
    async def short(caller: Caller, body: bytes) -> AsyncGenerator[list[bytes], None]:
        yield [msgspec.msgpack.encode(StateBatch(0, ()))]

    peers.listen(A, [PeerMethods(streams={"state.watch": short})])
    batches = remote.watch("", 0)
    assert await anext(batches) == StateBatch(0, ())
    with pytest.raises(StateUnavailable, match="stopped telling of changes"):
        await anext(batches)


# --- several hosts --------------------------------------------------------------------------------------------


@pytest.fixture
def two(peers: MemoryPeers, store: MemoryState) -> RemoteState:
    """A and C host the same state."""
    peers.listen(C, [StateHost(lambda: store).methods()])
    return RemoteState(peers.link(B), lambda: [HOLDER, record(C)], timeout_ms=50.0, silence_ms=50.0)


async def test_another_host_is_asked_when_one_is_gone_and_asked_first_from_then_on(
    two: RemoteState, peers: MemoryPeers
) -> None:
    assert (await two.txn(put("a"))).ok
    peers.leave(A)
    assert [entry.key for entry in (await two.range("")).entries] == ["a"]
    assert (await two.txn(put("b"))).ok
    peers.calls.clear()
    peers.listen(A, [])
    await two.get("a")
    assert [node_id for _, node_id, _ in peers.calls] == [C]


async def test_a_write_that_may_have_been_done_is_not_done_again_elsewhere(
    two: RemoteState, peers: MemoryPeers
) -> None:
    peers.hold(A)
    with pytest.raises(StateUnavailable):
        await two.txn(put("a"))
    assert {node_id for _, node_id, _ in peers.calls} <= {A}


async def test_a_watch_begins_at_the_host_that_is_there(two: RemoteState, peers: MemoryPeers) -> None:
    peers.leave(A)
    await two.txn(put("a"))
    async with asyncio.timeout(30), aclosing(two.watch("", 0)) as batches:
        async for batch in batches:
            if batch.events:
                break
    assert [event.entry.key for event in batch.events] == ["a"]


async def test_all_hosts_are_named_when_none_is_there(two: RemoteState, peers: MemoryPeers) -> None:
    peers.leave(A)
    peers.leave(C)
    with pytest.raises(StateUnavailable, match="any of its 2 nodes"):
        await two.range("")
