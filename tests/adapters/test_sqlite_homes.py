"""The SQLite files of a node: which of them is the home, new ones that count on; and the copies beside them."""

from pathlib import Path

import pytest

from ollamamax.adapters.state.backups import FileBackups
from ollamamax.adapters.state.snapshot_file import StateSnapshotFile
from ollamamax.adapters.state.sqlite_homes import SqliteHomes, newest_first, state_file
from ollamamax.core.catalog import records
from ollamamax.core.catalog.records import HOME_KEY
from ollamamax.core.errors import StateCompacted, StateCorrupt
from ollamamax.core.types import Put, StateEntry, StateHome, StateRange, StateTxn
from ollamamax.ports import StateStore
from ollamamax.testing.clock import FakeClock

CLUSTER = "c0ffee00c0ffee00"
ME, OTHER = "1" * 16, "2" * 16
HOUR_NS = 3_600 * 10**9


@pytest.fixture
def homes(tmp_path: Path) -> SqliteHomes:
    return SqliteHomes(tmp_path, CLUSTER, ME, FakeClock())


async def tell(store: StateStore, home: StateHome) -> None:
    assert (await store.txn(StateTxn((), (Put(HOME_KEY, records.encode(home)),)))).ok


async def test_the_founders_first_one(homes: SqliteHomes, tmp_path: Path) -> None:
    assert await homes.find(make=False) == (None, StateHome())
    store, told = await homes.find(make=True)
    assert store is not None
    assert (told, newest_first(tmp_path, CLUSTER)) == (StateHome(), [state_file(tmp_path, CLUSTER)])
    await store.close()


async def test_the_newest_that_says_that_it_is_the_home(homes: SqliteHomes) -> None:
    first, _ = await homes.find(make=True)
    assert first is not None
    away = StateHome(kind="etcd", hosts=(ME,), generation=1)
    await tell(first, away)
    await first.close()
    assert await homes.find(make=True) == (None, away)
    second = await homes.begin(2, 1_000)
    await second.close()
    found, _ = await homes.find(make=False)
    assert found is not None, "an empty one is only a begin"
    await found.close()
    second = await homes.begin(2, 1_000)
    await tell(second, StateHome(hosts=(OTHER,), generation=2))
    await second.close()
    assert (await homes.find(make=False))[0] is None
    back = StateHome(hosts=(ME,), generation=10)
    tenth = await homes.begin(10, 2_000)
    await tell(tenth, back)
    await tenth.close()
    found, told = await homes.find(make=False)
    assert found is not None
    assert told == back
    assert (await found.range("")).revision == 2_001
    await found.close()


async def test_a_new_one_counts_on_and_forgets_what_was_begun(homes: SqliteHomes) -> None:
    assert await homes.reopen(2) is None
    begun = await homes.begin(2, 500)
    await tell(begun, StateHome())
    await begun.close()
    anew = await homes.begin(2, 500)
    whole = await anew.range("")
    assert (whole.revision, whole.entries) == (500, ())
    with pytest.raises(StateCompacted):
        await anext(anew.watch("", 499))
    await anew.close()
    again = await homes.reopen(2)
    assert again is not None
    await again.close()
    await homes.discard(2)
    await homes.discard(2)
    assert await homes.reopen(2) is None


async def test_files_of_others_are_none_of_its_own(tmp_path: Path) -> None:
    for name in (
        f"{CLUSTER}.db",
        f"{CLUSTER}.g7.db",
        f"{CLUSTER}.g12.db",
        f"{CLUSTER}.g0.db",
        f"{CLUSTER}x.db",
        "a.db",
    ):
        (tmp_path / name).touch()
    names = [path.name.removeprefix(CLUSTER) for path in newest_first(tmp_path, CLUSTER)]
    assert names == [".g12.db", ".g7.db", ".db"]


async def test_copies_are_kept_for_a_day(tmp_path: Path) -> None:
    backups = FileBackups(tmp_path / "backups", CLUSTER)
    assert await backups.last_ns() == 0
    state = StateRange(7, (StateEntry("a", b"1", 1, 1),))
    for hour in range(30):
        await backups.add(state, hour * HOUR_NS)
    assert await backups.last_ns() == 29 * HOUR_NS
    files = sorted((tmp_path / "backups").iterdir())
    assert len(files) == 24
    assert await StateSnapshotFile(files[0]).load() == state
    assert files[0].read_bytes() == backups.encode(state)
    files[0].write_bytes(backups.encode(state)[:-1])
    with pytest.raises(StateCorrupt):
        await StateSnapshotFile(files[0]).load()
    (tmp_path / "backups" / f"{CLUSTER}-zzz.state").touch()
    assert await backups.last_ns() == 29 * HOUR_NS
