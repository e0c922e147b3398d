"""Those who follow the state on disk: slow ones, many of them; and what its threads do with trouble."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ollamamax.adapters.state.change_feed import ChangeFeed
from ollamamax.adapters.state.sqlite_ledger import Done, Ledger
from ollamamax.adapters.state.sqlite_snapshots import Snapshots
from ollamamax.adapters.state.sqlite_state import SqliteState
from ollamamax.core.errors import DiskFull, StateCorrupt
from ollamamax.core.types import Put, StateBatch, StateEntry, StateEvent, StateTxn
from ollamamax.testing.clock import FakeClock
from tmpfs import tmpfs


def put(key: str, value: bytes = b"") -> StateTxn:
    return StateTxn((), (Put(key, value),))


def batch(revision: int) -> StateBatch:
    return StateBatch(revision, (StateEvent(StateEntry("a", b"", 1, revision)),))


# --- the feed -------------------------------------------------------------------------------------------------


async def test_it_has_the_last_changes_and_knows_where_it_begins() -> None:
    feed = ChangeFeed(10, 1_000.0)
    assert feed.since(10) == feed.since(11) == []
    assert feed.since(9) is None
    feed.publish([batch(11), batch(12)])
    feed.publish([])
    assert feed.since(10) == [batch(11), batch(12)]
    assert feed.since(11) == [batch(12)]
    assert feed.since(9) is None
    feed.publish([batch(revision) for revision in range(13, 1_013)])
    assert feed.since(500 - 1) is None
    assert feed.since(1_012 - 512) == [batch(revision) for revision in range(501, 1_013)]
    with pytest.raises(AssertionError, match="a change is missing"):
        feed.publish([batch(2_000)])


async def test_many_readers_get_signs_of_life_less_often() -> None:
    feed = ChangeFeed(0, 1_000.0)
    readings = [feed.reading() for _ in range(65)]
    for reading in readings[:64]:
        reading.__enter__()
    assert feed.heartbeat_s == 1.0
    readings[64].__enter__()
    assert feed.heartbeat_s == 2.0
    for reading in readings:
        reading.__exit__(None, None, None)
    assert feed.heartbeat_s == 1.0


# --- watches --------------------------------------------------------------------------------------------------


async def test_a_slow_reader_misses_nothing(tmp_path: Path) -> None:
    store = await SqliteState.open(tmp_path / "state.db", FakeClock(), heartbeat_ms=20.0)
    async with asyncio.timeout(20), aclosing(store.watch("a", 0)) as slow:
        await anext(slow)
        for first in range(0, 2_000, 100):  # more than the feed keeps in memory
            await asyncio.gather(*(store.txn(put("ab"[n % 2], b"%d" % n)) for n in range(first, first + 100)))
        seen = []
        async for one in slow:
            seen += [event.entry.value for event in one.events]
            if len(seen) == 1_000:
                break
        assert seen == [b"%d" % n for n in range(0, 2_000, 2)]
    await store.close()


async def test_signs_of_life_come_also_while_others_keys_change(tmp_path: Path) -> None:
    store = await SqliteState.open(tmp_path / "state.db", FakeClock(), heartbeat_ms=20.0)

    async def busy() -> None:
        while True:
            await store.txn(put("other"))

    task = asyncio.create_task(busy())
    async with asyncio.timeout(20), aclosing(store.watch("a", 0)) as batches:
        revisions = [(await anext(batches)).revision for _ in range(4)]
        assert revisions == sorted(set(revisions))
    task.cancel()
    await asyncio.wait([task])
    await store.close()


# --- threads --------------------------------------------------------------------------------------------------


async def test_a_bug_in_one_work_leaves_nobody_waiting(tmp_path: Path) -> None:
    store = await SqliteState.open(tmp_path / "state.db", FakeClock())

    def broken(ledger: Ledger) -> Done:
        raise KeyError("a bug")

    async with asyncio.timeout(20):
        with pytest.raises(KeyError):
            await store._writer.do(broken)
        assert (await store.txn(put("a"))).revision == 1
        await store.close()


async def test_a_file_that_is_damaged_while_it_is_open(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = await SqliteState.open(path, FakeClock())
    await store.txn(put("a", b"v" * 50_000))
    await store.close()
    [snapshot] = Snapshots(path).all()
    store = await SqliteState.open(path, FakeClock())
    data = path.read_bytes()
    path.write_bytes(data[:4_096] + b"\xff" * (len(data) - 4_096))
    for call in (store.range(""), store.get("a"), store.txn(put("a"))):
        with pytest.raises(StateCorrupt, match="can't be read") as caught:
            await call
        assert str(snapshot) in str(caught.value)
    await store.close()


async def test_a_snapshot_that_cant_be_made_is_told_of_and_nothing_else(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small") as small:
        store = await SqliteState.open(small / "state.db", FakeClock())
        Snapshots(small / "state.db").directory.write_bytes(b"a file where the folder should be")
        with capture_logs() as logs:
            assert (await store.txn(put("a"))).ok
            assert (await store.txn(put("a"))).ok
            await store.close()
        assert "state_snapshot_failed" in [entry["event"] for entry in logs]


async def test_a_lease_that_cant_be_ended_keeps_nobody_from_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> object:
        raise DiskFull("disk full")

    clock = FakeClock()
    store = await SqliteState.open(tmp_path / "state.db", clock)
    await store.txn(StateTxn((), (Put("a", b"", await store.grant_lease(1_000)),)))
    clock.advance(1_000)
    with monkeypatch.context() as patch:
        patch.setattr(store._writer, "do", full)
        assert (await store.get("a")) is not None
        with pytest.raises(DiskFull):
            await store.txn(put("b"))
    clock.advance(999)
    assert (await store.get("a")) is not None  # tried again after a second, not for each who reads
    clock.advance(1)
    assert (await store.get("a")) is None
    await store.close()
