"""The state on disk: what survives, what is refused, and the way back from a snapshot."""

import asyncio
import hashlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from ollamamax.adapters.state.sqlite_snapshots import Snapshots, restore
from ollamamax.adapters.state.sqlite_state import SqliteState
from ollamamax.core.errors import (
    DiskFull,
    LeaseNotFound,
    StateCompacted,
    StateCorrupt,
    StateError,
    StateTooNew,
    StateUnavailable,
    StoreInUse,
    StoreReadOnly,
)
from ollamamax.core.types import Put, StateBatch, StateEntry, StateTxn
from ollamamax.testing.clock import FakeClock
from tmpfs import make_read_only, tmpfs


def put(key: str, value: bytes, lease_id: int = 0) -> StateTxn:
    return StateTxn((), (Put(key, value, lease_id),))


def sums(directory: Path) -> dict[str, str]:
    """What lies in a directory; without the lock, and without what SQLite makes anew when it needs it."""
    return {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in directory.rglob("*")
        if file.is_file() and file.suffix not in (".lock", ".db-shm") and (file.stat().st_size or file.suffix == ".db")
    }


def fill(directory: Path) -> Path:
    """Take all the room that is left."""
    ballast = directory / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"x" * 4_096):
            pass
    return ballast


async def filled(path: Path, clock: FakeClock, count: int = 3) -> None:
    """A closed state of `count` changes, with a snapshot of it."""
    store = await SqliteState.open(path, clock)
    for number in range(count):
        await store.txn(put(f"key/{number}", b"v" * 3_000))
    await store.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cluster" / "state.db"


async def test_all_is_there_again_and_revisions_go_on(path: Path, clock: FakeClock) -> None:
    store = await SqliteState.open(path, clock)
    await store.txn(put("a", b"1"))
    await store.txn(put("a", b"2"))
    before = await store.range("")
    await store.close()
    again = await SqliteState.open(path, clock)
    assert await again.range("") == before
    assert (await again.txn(put("b", b""))).revision == 3
    assert [batch.revision async for batch in _first(again, 4)] == [0, 1, 2, 3]
    await again.close()
    assert path.stat().st_mode & 0o777 == 0o600


async def _first(store: SqliteState, count: int) -> AsyncIterator[StateBatch]:
    batches = store.watch("", 0)
    for _ in range(count):
        yield await anext(batches)
    await batches.aclose()


async def test_a_lease_gets_its_whole_time_anew_after_a_restart(path: Path, clock: FakeClock) -> None:
    store = await SqliteState.open(path, clock)
    lease_id = await store.grant_lease(1_000)
    await store.txn(put("a", b"", lease_id))
    clock.advance(900)
    await store.close()
    again = await SqliteState.open(path, clock)
    clock.advance(999)
    assert await again.get("a") == StateEntry("a", b"", 1, 1, lease_id)
    clock.advance(1)
    assert await again.get("a") is None
    assert await again.grant_lease(1_000) > lease_id  # ids are not given out twice
    await again.close()


async def test_a_lease_whose_grant_nobody_waited_for_ends_all_the_same(path: Path, clock: FakeClock) -> None:
    store = await SqliteState.open(path, clock)
    impatient = asyncio.create_task(store.grant_lease(1_000))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.wait([impatient])
    await store.txn(put("a", b"", 1))  # the first lease's id
    clock.advance(1_000)
    assert await store.get("a") is None
    await store.close()


async def test_what_waits_together_is_committed_together(path: Path, clock: FakeClock) -> None:
    store = await SqliteState.open(path, clock)
    commits: list[str] = []
    ledger = store._parts.ledger
    ledger.connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    results = await asyncio.gather(*(store.txn(put(f"{number}", b"")) for number in range(100)))
    assert sorted(result.revision for result in results) == list(range(1, 101))
    assert len(commits) < 50
    await store.close()


async def test_one_that_fails_leaves_the_others_of_its_group(path: Path, clock: FakeClock) -> None:
    store = await SqliteState.open(path, clock)
    txns = [put(f"{number}", b"", 77 if number % 3 == 0 else 0) for number in range(30)]
    results = await asyncio.gather(*(store.txn(txn) for txn in txns), return_exceptions=True)
    assert [isinstance(one, LeaseNotFound) for one in results] == [number % 3 == 0 for number in range(30)]
    whole = await store.range("")
    assert (whole.revision, len(whole.entries)) == (20, 20)
    await store.close()


async def test_a_directory_has_one_owner(path: Path, clock: FakeClock) -> None:
    store = await SqliteState.open(path, clock)
    with pytest.raises(StoreInUse, match="is in use by the process"):
        await SqliteState.open(path, clock)
    with pytest.raises(StoreInUse):
        restore(path)
    await store.close()
    await (await SqliteState.open(path, clock)).close()


async def test_an_open_that_is_cancelled_lets_go_of_the_file(path: Path, clock: FakeClock) -> None:
    await filled(path, clock)
    opening = asyncio.create_task(SqliteState.open(path, clock))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    async with asyncio.timeout(10):
        while True:
            try:
                store = await SqliteState.open(path, clock)
                break
            except StoreInUse:
                await asyncio.to_thread(lambda: None)
    assert (await store.range("")).revision == 3
    await store.close()


async def test_a_newer_programs_state_is_left_alone(path: Path, clock: FakeClock) -> None:
    await filled(path, clock)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    before = sums(path.parent)
    with pytest.raises(StateTooNew, match="written by a newer OllamaMax"):
        await SqliteState.open(path, clock)
    assert sums(path.parent) == before


# --- snapshots, damage, and the way back ----------------------------------------------------------------------


async def test_snapshots_are_made_after_changes_and_not_too_often(path: Path, clock: FakeClock) -> None:
    store = await SqliteState.open(path, clock, snapshot_every_ms=1_000.0)
    snapshots = Snapshots(path)
    assert snapshots.all() == []
    for _ in range(5):
        await store.txn(put("a", b""))
    await store.close()
    names = [int(file.stem) for file in snapshots.all()]
    assert names == [5, 1]  # the first change, and those until the end
    again = await SqliteState.open(path, clock, snapshot_every_ms=1_000.0)
    await again.txn(put("a", b""))
    clock.advance(1_000)
    await again.txn(put("a", b""))
    await again.txn(put("a", b""))  # the writer is through with the snapshot before it takes this
    timely, *older = [int(file.stem) for file in snapshots.all()]
    assert older == [5, 1]
    assert timely in (6, 7)  # the thread may look at the clock just after it was put forward
    await again.close()
    assert [int(file.stem) for file in snapshots.all()] == [8, timely, 5]
    assert not [file for file in snapshots.directory.iterdir() if file.suffix != ".db"]
    quiet = await SqliteState.open(path, clock)
    await quiet.close()
    assert [int(file.stem) for file in snapshots.all()] == [8, timely, 5]


def _no_database(path: Path) -> None:
    path.write_bytes(b"what is this?" * 1_000)


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5_000])


def _page_of_noise(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4_096 : 4_096 + 8 * 4_096] = bytes(range(256)) * 128
    path.write_bytes(bytes(data))


def _foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (a)")


def _gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [_no_database, _nothing, _cut_short, _page_of_noise, _foreign, _gone])
async def test_a_damaged_file_is_left_alone_and_the_way_back_named(
    path: Path, clock: FakeClock, damage: Callable[[Path], None]
) -> None:
    await filled(path, clock, 20)
    snapshot = Snapshots(path).all()[0]
    damage(path)
    before = sums(path.parent)
    with pytest.raises(StateCorrupt) as caught:
        await SqliteState.open(path, clock)
    text = str(caught.value)
    assert str(path) in text
    assert "Nothing was overwritten" in text
    assert str(snapshot) in text
    assert "ollamamax cluster restore-state" in text
    assert sums(path.parent) == before

    used, aside = restore(path)
    assert used == snapshot
    assert (aside is None) == (damage is _gone)
    if aside is not None:
        assert hashlib.sha256(aside.read_bytes()).hexdigest() == before["state.db"]
    store = await SqliteState.open(path, clock)
    whole = await store.range("")
    assert (whole.revision, len(whole.entries)) == (1_000_020, 20)
    for seen in (0, 20, 25):  # also those who saw more than the snapshot has
        with pytest.raises(StateCompacted):
            await anext(store.watch("", seen))
    assert (await store.txn(put("a", b""))).revision == 1_000_021
    await store.close()


async def test_a_log_that_was_not_merged_goes_aside_with_its_file(path: Path, clock: FakeClock, tmp_path: Path) -> None:
    store = await SqliteState.open(path, clock)
    await store.txn(put("a", b"1"))
    await store.txn(put("a", b"2"))
    crashed = tmp_path / "crashed"
    shutil.copytree(path.parent, crashed)  # as after a power cut: the log is not merged
    await store.close()
    copy = crashed / path.name
    assert (crashed / "state.db-wal").stat().st_size > 0
    whole = copy.read_bytes()
    copy.write_bytes(b"noise" * 2_000)
    with pytest.raises(StateCorrupt):
        await SqliteState.open(copy, clock)
    _, aside = restore(copy)
    assert aside is not None
    assert (crashed / f"{aside.name}-wal").exists()
    again = await SqliteState.open(copy, clock)
    assert await again.get("a") == StateEntry("a", b"1", 1, 1)  # the snapshot's
    await again.close()
    _, second = restore(copy)
    assert second not in (None, aside)  # nothing that was moved aside is replaced
    assert whole != copy.read_bytes()


async def test_a_damaged_snapshot_is_passed_over(path: Path, clock: FakeClock) -> None:
    await filled(path, clock)
    await filled(path, clock)
    newest, older = Snapshots(path).all()[:2]
    newest.write_bytes(b"noise" * 1_000)
    with pytest.raises(StateCorrupt, match=f"the snapshot {newest} can't be read"):
        restore(path, newest)
    assert restore(path)[0] == older
    for snapshot in Snapshots(path).all():
        snapshot.write_bytes(b"noise")
    path.write_bytes(b"noise")
    with pytest.raises(StateCorrupt, match="There is no good snapshot in"):
        await SqliteState.open(path, clock)
    with pytest.raises(StateCorrupt, match="there is no good snapshot"):
        restore(path)


# --- disks ----------------------------------------------------------------------------------------------------


async def test_a_full_disk_fails_a_change_whole_and_is_forgotten_when_there_is_room(
    tmp_path: Path, clock: FakeClock
) -> None:
    with tmpfs(tmp_path / "small", 2 << 20) as small:
        store = await SqliteState.open(small / "state.db", clock)
        await store.txn(put("a", b"1"))
        lease_id = await store.grant_lease(1_000)
        await store.txn(put("leased", b"", lease_id))
        ballast = fill(small)
        before = await store.range("")
        large = [StateTxn((), (Put("b", b"v" * 100_000), Put(f"c/{n}", b"v" * 100_000))) for n in range(20)]
        results = await asyncio.gather(*(store.txn(txn) for txn in large), return_exceptions=True)
        failed = [one for one in results if isinstance(one, DiskFull)]
        assert failed
        assert str(failed[0]).startswith("disk full: ")
        after = await store.range("")
        written = sum(entry.key.startswith("c/") for entry in after.entries)
        assert after.revision == before.revision + written == before.revision + len(large) - len(failed)
        clock.advance(1_000)
        assert len((await store.range("")).entries) >= len(after.entries) - 1  # reading goes on, lease or not
        ballast.unlink()
        assert (await store.txn(put("d", b"v" * 100_000))).ok
        clock.advance(1_000)
        assert await store.get("leased") is None
        await store.close()
        again = await SqliteState.open(small / "state.db", clock)
        assert (await again.get("d")) is not None
        await again.close()


async def test_a_disk_that_is_full_from_the_start(tmp_path: Path, clock: FakeClock) -> None:
    with tmpfs(tmp_path / "small", 64 << 10) as small:
        ballast = fill(small)
        with pytest.raises(DiskFull):
            await SqliteState.open(small / "state.db", clock)
        ballast.unlink()
        await (await SqliteState.open(small / "state.db", clock)).close()


async def test_a_read_only_disk(tmp_path: Path, clock: FakeClock) -> None:
    with tmpfs(tmp_path / "small") as small:
        await filled(small / "state.db", clock)
        make_read_only(small)
        with pytest.raises(StoreReadOnly):
            await SqliteState.open(small / "state.db", clock)


async def test_too_much_at_once_is_refused(path: Path, clock: FakeClock) -> None:
    store = await SqliteState.open(path, clock)
    results = await asyncio.gather(*(store.txn(put("a", b"")) for _ in range(4_000)), return_exceptions=True)
    refused = [one for one in results if isinstance(one, StateUnavailable)]
    assert (await store.range("")).revision == 4_000 - len(refused)
    assert all(not isinstance(one, BaseException) or isinstance(one, StateError) for one in results)
    await store.close()
