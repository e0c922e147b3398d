"""What every StateStore does: SQLite, etcd, another node's over a link, and the twin in memory."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

import etcds
from ollamamax.adapters.state.etcd_members import Members
from ollamamax.adapters.state.etcd_state import EtcdState
from ollamamax.adapters.state.remote_state import RemoteState
from ollamamax.adapters.state.sqlite_state import SqliteState
from ollamamax.core.errors import BadRequest, LeaseNotFound, StateCompacted, StateError, StateUnavailable
from ollamamax.core.types import (
    Compare,
    Delete,
    Put,
    StateBatch,
    StateEntry,
    StateEvent,
    StateRange,
    StateTxn,
    TxnResult,
)
from ollamamax.ports import StateStore
from ollamamax.services.state_host import StateHost
from ollamamax.testing.clock import FakeClock
from ollamamax.testing.peers import MemoryPeers
from ollamamax.testing.state import MemoryState
from peer_world import A, B, record

KEPT = 20


def put(*pairs: tuple[str, bytes], when: dict[str, int] | None = None, lease_id: int = 0) -> StateTxn:
    compares = tuple(Compare(key, revision) for key, revision in (when or {}).items())
    return StateTxn(compares, tuple(Put(key, value, lease_id) for key, value in pairs))


def delete(*keys: str) -> StateTxn:
    return StateTxn((), tuple(Delete(key) for key in keys))


class Time:
    """Under the test's control, but for etcd, which goes by its own clock and forgets when it is told to."""

    def __init__(self, clock: FakeClock | None) -> None:
        self._clock = clock

    @property
    def is_ours(self) -> bool:
        return self._clock is not None

    def passes(self, ms: float) -> None:
        """Where it can be made to."""
        if self._clock is not None:
            self._clock.advance(ms)

    async def is_over(self, store: StateStore, key: str) -> None:
        """Of the lease that `key` goes with."""
        while await store.get(key) is not None:
            assert self._clock is None
            await asyncio.sleep(0.02)  # etcd ends leases twice a second

    async def forgets(self, keep_revisions: int) -> None:
        """What lies further back than that is not kept any more."""
        if self._clock is None:
            members = await Members.open(etcds.shared())
            await members.compact(keep_revisions)
            await members.close()


@pytest.fixture(params=["memory", "sqlite", "remote", "etcd"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clock(kind: str) -> FakeClock | None:
    return None if kind == "etcd" else FakeClock()


@pytest.fixture
def time(clock: FakeClock | None) -> Time:
    return Time(clock)


@pytest.fixture
async def store(kind: str, tmp_path: Path, clock: FakeClock | None) -> AsyncIterator[StateStore]:
    async with asyncio.timeout(60), held_by(kind, tmp_path, clock) as held:
        made: StateStore = held
        if kind == "remote":
            peers = MemoryPeers()
            peers.listen(A, [StateHost(lambda: held).methods()])
            made = RemoteState(peers.link(B), lambda: [record(A)])
        yield made
        await made.close()


@asynccontextmanager
async def held_by(kind: str, tmp_path: Path, clock: FakeClock | None) -> AsyncIterator[StateStore]:
    if clock is None:
        place = secrets.token_hex(8)
        made = await EtcdState.open(etcds.shared(), place, heartbeat_ms=20.0, keep=KEPT, limit_bytes=1_000)
        await made.begin(-1)
        yield made
        await made.close()
        async with etcds.state(etcds.shared(), place):  # its keys go: a lease that ended later would be a change
            return
    held: StateStore
    if kind == "memory":
        held = MemoryState(clock, keep_revisions=KEPT, heartbeat_ms=20.0, limit_bytes=1_000)
    else:
        path = tmp_path / "state.db"
        held = await SqliteState.open(path, clock, keep_revisions=KEPT, heartbeat_ms=20.0, limit_bytes=1_000)
    yield held
    await held.close()


@asynccontextmanager
async def watching(
    store: StateStore, prefix: str = "", after: int = 0
) -> AsyncIterator[AsyncGenerator[StateBatch, None]]:
    """A watch that stands."""
    async with aclosing(store.watch(prefix, after)) as batches:
        assert await anext(batches) == StateBatch(after, ())
        yield batches


async def changes(batches: AsyncGenerator[StateBatch, None], count: int) -> list[StateBatch]:
    """The next `count` changes, signs of life left out."""
    found: list[StateBatch] = []
    async for batch in batches:
        if batch.events:
            found.append(batch)
        if len(found) == count:
            break
    return found


# --- entries and transactions ---------------------------------------------------------------------------------


async def test_an_empty_store(store: StateStore) -> None:
    assert await store.get("a") is None
    assert await store.range("", linearizable=True) == StateRange(0, ())
    assert await store.txn(StateTxn((), ())) == TxnResult(True, 0)
    assert await store.txn(delete("a")) == TxnResult(True, 0)  # nothing changed


async def test_each_change_raises_the_revision_by_one(store: StateStore) -> None:
    assert await store.txn(put(("a", b"1"), ("b", b"2"))) == TxnResult(True, 1)
    assert await store.txn(put(("a", b"1"))) == TxnResult(True, 2)
    assert await store.get("a", linearizable=True) == StateEntry("a", b"1", created=1, revision=2)
    assert await store.get("b") == StateEntry("b", b"2", created=1, revision=1)
    assert await store.txn(delete("a")) == TxnResult(True, 3)
    assert await store.get("a") is None
    assert await store.txn(put(("a", b""))) == TxnResult(True, 4)
    assert await store.get("a") == StateEntry("a", b"", created=4, revision=4)


async def test_a_range_is_what_begins_with_the_prefix_in_key_order(store: StateStore) -> None:
    keys = ["nodes/b", "nodes/a", "nodes", "nodes0", "nodes/\u00fc", "nodes/\U0001f600", "node"]
    await store.txn(put(*((key, key.encode()) for key in keys)))
    found = await store.range("nodes/")
    assert found.revision == 1
    assert [entry.key for entry in found.entries] == ["nodes/a", "nodes/b", "nodes/\u00fc", "nodes/\U0001f600"]
    assert [entry.key for entry in (await store.range("")).entries] == sorted(keys)
    assert [entry.key for entry in (await store.range("nodes")).entries] == sorted(set(keys) - {"node"})


async def test_all_writes_or_none(store: StateStore) -> None:
    await store.txn(put(("a", b"1")))
    assert await store.txn(put(("a", b"2"), ("b", b"2"), when={"a": 1, "b": 0})) == TxnResult(True, 2)
    assert await store.txn(put(("c", b"3"), when={"a": 2, "b": 0})) == TxnResult(False, 2)
    assert await store.txn(put(("c", b"3"), when={"a": 1})) == TxnResult(False, 2)
    assert await store.txn(StateTxn((Compare("a", 2),), ())) == TxnResult(True, 2)
    assert [entry.key for entry in (await store.range("")).entries] == ["a", "b"]


async def test_a_deleted_key_compares_as_none(store: StateStore) -> None:
    await store.txn(put(("a", b"1")))
    assert await store.txn(StateTxn((Compare("a", 1),), (Delete("a"),))) == TxnResult(True, 2)
    assert await store.txn(put(("a", b"2"), when={"a": 1})) == TxnResult(False, 2)
    assert await store.txn(put(("a", b"2"), when={"a": 0})) == TxnResult(True, 3)


async def test_of_many_at_once_one_wins(store: StateStore) -> None:
    results = await asyncio.gather(*(store.txn(put(("a", b"%d" % n), when={"a": 0})) for n in range(30)))
    assert sum(result.ok for result in results) == 1
    winner = next(n for n, result in enumerate(results) if result.ok)
    assert await store.get("a") == StateEntry("a", b"%d" % winner, 1, 1)


async def test_what_does_not_belong_is_refused_and_changes_nothing(store: StateStore) -> None:
    for txn in (put(("a", b"1"), ("a", b"2")), put(("", b"")), put(("a\n", b"")), put(("a", b"v" * (300 << 10)))):
        with pytest.raises(BadRequest):
            await store.txn(txn)
    with pytest.raises(LeaseNotFound):
        await store.txn(StateTxn((), (Put("a", b""), Put("b", b"", 77))))
    assert await store.range("") == StateRange(0, ())


async def test_a_full_store_takes_what_makes_it_smaller(store: StateStore) -> None:
    await store.txn(put(("a", b"v" * 800)))
    with pytest.raises(StateError, match="the cluster's state is full"):
        await store.txn(put(("c", b""), ("b", b"v" * 300)))
    assert await store.txn(put(("a", b"v" * 700))) == TxnResult(True, 2)
    assert await store.txn(delete("a")) == TxnResult(True, 3)
    assert await store.txn(put(("b", b"v" * 800))) == TxnResult(True, 4)


# --- watches --------------------------------------------------------------------------------------------------


async def test_a_watch_tells_what_was_and_what_comes_whole_and_in_order(store: StateStore) -> None:
    await store.txn(put(("a", b"1")))
    await store.txn(put(("b", b"2"), ("a", b"2")))
    async with watching(store) as batches:
        first, second = await changes(batches, 2)
        assert first == StateBatch(1, (StateEvent(StateEntry("a", b"1", 1, 1)),))
        events = (StateEvent(StateEntry("b", b"2", 2, 2)), StateEvent(StateEntry("a", b"2", 1, 2)))
        assert second == StateBatch(2, events)
        await store.txn(StateTxn((), (Delete("b"), Delete("none"), Put("c", b"3"))))
        [third] = await changes(batches, 1)
        gone = StateEvent(StateEntry("b", b"", 0, 3), is_delete=True)
        assert third == StateBatch(3, (gone, StateEvent(StateEntry("c", b"3", 3, 3))))


async def test_a_watch_begins_where_it_is_told_and_sees_its_prefix_alone(store: StateStore) -> None:
    for number in range(6):
        await store.txn(put(("even" if number % 2 == 0 else "odd", b"%d" % number), (f"other/{number}", b"")))
    async with watching(store, "odd", 3) as batches:
        told = await changes(batches, 2)
        assert [(batch.revision, [event.entry.value for event in batch.events]) for batch in told] == [
            (4, [b"3"]),
            (6, [b"5"]),
        ]


async def test_a_watch_gives_signs_of_life(store: StateStore) -> None:
    await store.txn(put(("a", b"1")))
    async with watching(store, "b") as batches:
        for revision in (1, 2):  # up to there nothing below "b" has changed
            async for batch in batches:
                assert batch.events == ()
                if batch.revision == revision:
                    break
            await store.txn(put(("a", b"1")))


async def test_many_watches_see_the_same(store: StateStore) -> None:
    async def follow() -> list[int]:
        async with watching(store) as batches:
            return [batch.revision for batch in await changes(batches, KEPT)]

    follower = asyncio.gather(*(follow() for _ in range(5)))
    for number in range(KEPT):
        await store.txn(put(("a", b"%d" % number)))
    assert await follower == [list(range(1, KEPT + 1))] * 5


async def test_old_changes_are_forgotten(store: StateStore, time: Time) -> None:
    async with watching(store) as slow:
        for number in range(KEPT * 3):
            await store.txn(put(("a", b"%d" % number)))
        newest = KEPT * 3
        await time.forgets(KEPT)
        async with watching(store, after=newest - KEPT) as batches:
            assert [batch.revision for batch in await changes(batches, KEPT)] == list(
                range(newest - KEPT + 1, newest + 1)
            )
        for begin in (0, newest + 1):
            with pytest.raises(StateCompacted):
                await anext(store.watch("", begin))
        try:  # it goes on without a gap, or says that it can't
            seen = [batch.revision for batch in await changes(slow, newest)]
        except StateCompacted:
            return
        assert seen == list(range(1, newest + 1))


# --- leases ---------------------------------------------------------------------------------------------------


async def test_keys_go_with_their_lease(store: StateStore, time: Time) -> None:
    one, other = await store.grant_lease(1_000), await store.grant_lease(60_000)
    assert one != other
    assert min(one, other) > 0
    await store.txn(put(("b", b""), ("a", b""), lease_id=one))
    await store.txn(put(("c", b""), lease_id=other))
    time.passes(999)
    if time.is_ours:
        assert len((await store.range("")).entries) == 3
    time.passes(1)
    await time.is_over(store, "a")
    assert await store.range("") == StateRange(3, (StateEntry("c", b"", 2, 2, other),))
    async with watching(store, after=2) as batches:
        [batch] = await changes(batches, 1)
        gone = (StateEvent(StateEntry("a", b"", 0, 3), True), StateEvent(StateEntry("b", b"", 0, 3), True))
        assert batch == StateBatch(3, gone)
    with pytest.raises(LeaseNotFound):
        await store.renew_lease(one)
    with pytest.raises(LeaseNotFound):
        await store.txn(put(("a", b""), lease_id=one))


async def test_a_lease_that_is_renewed_goes_on_and_costs_no_revision(store: StateStore, time: Time) -> None:
    lease_id = await store.grant_lease(1_000)
    await store.txn(put(("a", b""), lease_id=lease_id))
    for _ in range(5):
        time.passes(900)
        await store.renew_lease(lease_id)
    assert (await store.range("")).revision == 1
    time.passes(1_000)
    await time.is_over(store, "a")
    assert (await store.range("")).revision == 2


async def test_a_watch_hears_of_a_lease_that_ends_by_itself(store: StateStore, time: Time) -> None:
    lease_id = await store.grant_lease(1_000)
    await store.txn(put(("a", b""), lease_id=lease_id))
    async with watching(store, after=1) as batches:
        time.passes(1_000)
        assert [event.is_delete for event in (await changes(batches, 1))[0].events] == [True]


async def test_a_key_leaves_its_lease_when_it_is_written_without(store: StateStore) -> None:
    lease_id = await store.grant_lease(1_000)
    await store.txn(put(("a", b""), ("b", b""), lease_id=lease_id))
    await store.txn(put(("a", b"")))
    await store.revoke_lease(lease_id)
    await store.revoke_lease(lease_id)
    assert await store.range("") == StateRange(3, (StateEntry("a", b"", 1, 2),))


async def test_a_lease_without_keys_leaves_no_trace(store: StateStore, time: Time) -> None:
    await store.revoke_lease(await store.grant_lease(1_000))
    await store.grant_lease(1_000)
    time.passes(1_000)
    assert (await store.range("")).revision == 0
    for ttl_ms in (0, -1, 86_400_001):
        with pytest.raises(BadRequest):
            await store.grant_lease(ttl_ms)


# --- the end --------------------------------------------------------------------------------------------------


async def test_after_close_nothing_is_answered_and_watches_end(store: StateStore) -> None:
    async with watching(store) as batches:
        await store.txn(put(("a", b"")))
        await store.close()
        await store.close()
        with pytest.raises(StateUnavailable):
            await changes(batches, 2)
    for call in (
        store.get("a"),
        store.range(""),
        store.txn(put(("a", b""))),
        store.grant_lease(1),
        store.renew_lease(1),
    ):
        with pytest.raises(StateUnavailable):
            await call
