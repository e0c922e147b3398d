"""A node's copy of the state: what it starts from, how it follows, what it does when nobody answers."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from ollamamax.core.catalog import records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.errors import DiskFull, StateCompacted, StateCorrupt, StateTooNew, StateUnavailable
from ollamamax.core.types import ClusterMeta, Delete, Put, StateBatch, StateRange, StateTxn
from ollamamax.services.replica import Replica
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.engine import Watched
from ollamamax.testing.state import MemorySnapshot, MemoryState

CLUSTER = "00000000000000c1"


class SilentState(MemoryState):
    """Watches stand and say nothing more, once is_silent; ranges hang."""

    is_silent = False

    async def range(self, prefix: str, *, linearizable: bool = False) -> StateRange:
        if self.is_silent:
            await asyncio.Event().wait()
        return await super().range(prefix, linearizable=linearizable)

    async def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[StateBatch, None]:
        async for batch in super().watch(prefix, after_revision):
            if self.is_silent:
                await asyncio.Event().wait()
            yield batch


def meta(cluster_id: str = CLUSTER) -> StateTxn:
    record = ClusterMeta(cluster_id=cluster_id, name="home", created_ns=1, holder_id="00000000000000aa")
    return StateTxn((), (Put(records.META_KEY, records.encode(record)),))


def put(key: str, value: bytes = b"") -> StateTxn:
    return StateTxn((), (Put(key, value),))


async def until(replica: Replica, holds: Callable[[], bool]) -> None:
    """Wait for a change of the catalog, or of being in touch, that makes it hold."""
    seen = Watched()
    replica.watch(lambda old, new: seen.note())
    replica.watch_contact(lambda found: seen.note())
    async with asyncio.timeout(10):
        await seen.until(holds)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(5_000.0)


@pytest.fixture
def store(clock: FakeClock) -> SilentState:
    return SilentState(clock, heartbeat_ms=10.0, keep_revisions=5)


@pytest.fixture
def snapshots() -> MemorySnapshot:
    return MemorySnapshot()


@pytest.fixture
def replica(store: SilentState, snapshots: MemorySnapshot, clock: FakeClock) -> Replica:
    return Replica(
        store, snapshots, clock, SeededDice(1), silence_ms=100.0, open_limit_ms=50.0, save_after_ms=1.0
    )  # fmt: skip


@asynccontextmanager
async def running(replica: Replica) -> AsyncIterator[None]:
    task = asyncio.create_task(replica.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        await replica.close()
        if not task.cancelled():
            task.result()


# --- starting -------------------------------------------------------------------------------------------------


async def test_it_starts_with_what_the_store_has(replica: Replica, store: SilentState) -> None:
    await store.txn(put("a"))
    assert (replica.lost_since_ms, replica.catalog) == (5_000.0, Catalog.empty())
    await replica.open()
    assert replica.catalog.entries() == await store.range("")
    assert (replica.lost_since_ms, replica.lost_reason) == (None, "")


@pytest.mark.parametrize("trouble", ["cut", "silent"])
async def test_without_the_store_it_starts_with_what_it_saw_last(
    replica: Replica, store: SilentState, snapshots: MemorySnapshot, trouble: str
) -> None:
    await store.txn(put("a"))
    snapshots.state = await store.range("")
    store.cut(trouble == "cut")
    store.is_silent = trouble == "silent"
    await replica.open()
    assert replica.catalog.entries() == snapshots.state
    assert replica.lost_since_ms == 5_000.0
    assert replica.lost_reason == ("nobody has the state" if trouble == "cut" else "it did not answer within 0.05 s")


async def test_with_neither_it_starts_empty(replica: Replica, store: SilentState) -> None:
    store.cut()
    await replica.open()
    assert replica.catalog == Catalog.empty()


@pytest.mark.parametrize("error", [StateCorrupt("noise"), StateTooNew("newer")])
async def test_a_snapshot_that_cant_be_read_matters_only_without_the_store(
    replica: Replica, store: SilentState, snapshots: MemorySnapshot, error: Exception
) -> None:
    snapshots.error = error
    store.cut()
    with pytest.raises(type(error)):
        await replica.open()
    store.cut(False)
    await store.txn(put("a"))
    await replica.open()
    assert replica.catalog.revision == 1


async def test_the_snapshot_is_known_before_the_store_is_asked(store: SilentState, clock: FakeClock) -> None:
    """Where the state is held stands in the state."""
    await store.txn(put("a"))
    seen: list[int] = []

    class Asking(MemoryState):
        async def range(self, prefix: str, *, linearizable: bool = False) -> StateRange:
            seen.append(replica.catalog.revision)
            return await store.range(prefix)

    replica = Replica(Asking(clock), MemorySnapshot(await store.range("")), clock, SeededDice())
    await store.txn(put("b"))
    await replica.open()
    assert seen == [1]
    assert replica.catalog.revision == 2


# --- following ------------------------------------------------------------------------------------------------


async def test_it_follows_and_tells(replica: Replica, store: SilentState) -> None:
    told: list[tuple[int, int]] = []
    replica.watch(lambda old, new: told.append((old.revision, new.revision)))
    await store.txn(put("a"))
    await replica.open()
    async with running(replica):
        for number in range(4):
            await store.txn(put("a", b"%d" % number))
        await replica.caught_up(5, 5_000)
        assert replica.catalog.stored["a"].value == b"3"
        await store.txn(StateTxn((), (Delete("a"),)))
        await replica.caught_up(6, 5_000)
        assert replica.catalog.stored == {}
        assert replica.is_following
    assert told[0] == (0, 1)
    assert [new for _, new in told] == [old for old, _ in told[1:]] + [6]
    assert not replica.is_following


async def test_what_does_not_come_in_time_is_told(replica: Replica, store: SilentState) -> None:
    await replica.open()
    with pytest.raises(StateUnavailable, match="is at revision 7, and this node has only seen 0"):
        await replica.caught_up(7, 1)


async def test_a_look_now_needs_no_watch(replica: Replica, store: SilentState) -> None:
    await store.txn(put("a"))
    await replica.refresh()
    assert replica.catalog.revision == 1
    store.cut()
    with pytest.raises(StateUnavailable):
        await replica.refresh()


async def test_a_look_ahead_and_the_watch_do_not_disturb_each_other(replica: Replica, store: SilentState) -> None:
    await replica.open()
    told: list[int] = []
    replica.watch(lambda _, new: told.append(new.revision))
    async with running(replica):
        await store.txn(put("a"))
        await replica.caught_up(1, 5_000)
        for number in range(20):
            await store.txn(put("a", b"%d" % number))
            await replica.refresh()
        await replica.caught_up(21, 5_000)
    assert told == sorted(told)
    assert replica.catalog.entries() == await store.range("")


@pytest.mark.parametrize("trouble", ["cut", "silent"])
async def test_a_store_that_goes_and_comes_back(
    replica: Replica, store: SilentState, clock: FakeClock, trouble: str
) -> None:
    await store.txn(put("a"))
    await replica.open()
    async with running(replica):
        await store.txn(put("a"))
        await replica.caught_up(2, 5_000)
        clock.advance(1_000)
        store.is_silent = trouble == "silent"
        store.cut(trouble == "cut")
        await until(replica, lambda: replica.lost_since_ms is not None)
        assert replica.lost_since_ms == 6_000.0
        assert replica.lost_reason == (
            "nobody has the state" if trouble == "cut" else "nothing was heard of it for 0.1 s"
        )
        assert replica.catalog.revision == 2  # what was known stays
        clock.advance(1_000)
        assert replica.lost_since_ms == 6_000.0
        store.is_silent = False
        store.cut(False)
        await store.txn(put("b"))
        await replica.caught_up(3, 5_000)
        assert (replica.lost_since_ms, replica.lost_reason) == (None, "")


async def test_one_that_was_away_too_long_reads_all_anew(replica: Replica, store: SilentState) -> None:
    await store.txn(put("a"))
    await replica.open()
    for number in range(20):
        await store.txn(put("b", b"%d" % number))
    with pytest.raises(StateCompacted):
        await anext(store.watch("", replica.catalog.revision))
    async with running(replica):
        await replica.caught_up(21, 5_000)
        assert replica.catalog.entries() == await store.range("")
        await store.txn(put("c"))
        await replica.caught_up(22, 5_000)


async def test_a_store_that_was_put_back_is_believed(
    snapshots: MemorySnapshot, store: SilentState, clock: FakeClock
) -> None:
    for number in range(3):
        await store.txn(put("a", b"%d" % number))
    snapshots.state = await store.range("")
    earlier = MemoryState(clock, heartbeat_ms=10.0)
    await earlier.txn(put("a", b"0"))
    earlier.cut()
    replica = Replica(earlier, snapshots, clock, SeededDice())
    await replica.open()
    assert replica.catalog.revision == 3
    earlier.cut(False)
    async with running(replica):
        await until(replica, lambda: replica.catalog.revision == 1)
        assert replica.catalog.stored["a"].value == b"0"


async def test_a_store_that_was_emptied_is_not(snapshots: MemorySnapshot, store: SilentState, clock: FakeClock) -> None:
    await store.txn(meta())
    snapshots.state = await store.range("")
    for other in (MemoryState(clock), MemoryState(clock)):
        replica = Replica(other, snapshots, clock, SeededDice())
        await replica.open()
        assert replica.catalog.entries() == snapshots.state
        assert replica.lost_reason == f"the state that is held there is not that of cluster {CLUSTER} any more"
        await other.txn(put("some", b"thing"))
        await other.txn(meta("00000000000000c2"))
        with pytest.raises(StateUnavailable, match="is not that of cluster"):
            await replica.refresh()


async def test_a_record_of_no_sense_ends_nothing(replica: Replica, store: SilentState) -> None:
    await store.txn(meta())
    await replica.open()
    async with running(replica):
        await store.txn(put("nodes/00000000000000aa", b"noise"))
        await until(replica, lambda: replica.lost_since_ms is not None)
        assert replica.catalog.revision == 1
        await store.txn(StateTxn((), (Delete("nodes/00000000000000aa"),)))
        await store.txn(put("a"))
        for number in range(10):  # what can't be read is forgotten, and the whole is fine
            await store.txn(put("a", b"%d" % number))
        await replica.caught_up(13, 5_000)
        await until(replica, lambda: replica.lost_since_ms is None)


# --- on disk --------------------------------------------------------------------------------------------------


async def test_what_is_seen_is_saved_soon_and_once(
    replica: Replica, store: SilentState, snapshots: MemorySnapshot
) -> None:
    await replica.open()
    async with running(replica):
        await store.txn(put("a"))
        async with asyncio.timeout(10):
            await snapshots.until(lambda: snapshots.saves > 0 and snapshots.state == replica.catalog.entries())
        saves = snapshots.saves
    assert snapshots.saves == saves  # nothing new: nothing written at close
    assert snapshots.state == await store.range("")


async def test_what_was_not_saved_is_saved_at_close(
    replica: Replica, store: SilentState, snapshots: MemorySnapshot
) -> None:
    await store.txn(put("a"))
    await replica.open()
    await replica.close()
    assert snapshots.state == await store.range("")


async def test_a_full_disk_does_not_end_it(replica: Replica, store: SilentState, snapshots: MemorySnapshot) -> None:
    await replica.open()
    snapshots.error = DiskFull("disk full")
    async with running(replica):
        await store.txn(put("a"))
        async with asyncio.timeout(10):
            await snapshots.until(lambda: snapshots.tries == 1)
        await store.txn(put("b"))
        await replica.caught_up(2, 5_000)
        snapshots.error = None
    assert snapshots.state == await store.range("")
