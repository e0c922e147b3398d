"""The file of the last state that was seen."""

from pathlib import Path

import pytest

from ollamamax.adapters.state.snapshot_file import StateSnapshotFile
from ollamamax.core.errors import DiskFull, StateCorrupt, StateTooNew, StoreError
from ollamamax.core.types import StateEntry, StateRange
from tmpfs import tmpfs

STATE = StateRange(7, (StateEntry("a", b"\x00\n\xff", 1, 7, 3), StateEntry("ü", b"", 2, 2)))


async def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "cluster" / "state.snapshot"
    file = StateSnapshotFile(path)
    assert await file.load() is None
    await file.save(STATE)
    await file.save(StateRange(8, ()))
    await file.save(STATE)
    assert await file.load() == STATE
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in path.parent.iterdir()] == [path.name]


async def test_any_damage_is_seen_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "state.snapshot"
    file = StateSnapshotFile(path)
    await file.save(STATE)
    whole = path.read_bytes()
    damaged = [whole[:size] for size in range(len(whole))]
    damaged += [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(len(whole))]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises((StateCorrupt, StateTooNew)):
            await file.load()
        assert path.read_bytes() == data


async def test_a_newer_form_is_told_as_such(tmp_path: Path) -> None:
    path = tmp_path / "state.snapshot"
    path.write_bytes(b"ollamamax-state 2 what comes then\n")
    with pytest.raises(StateCorrupt):
        await StateSnapshotFile(path).load()
    path.write_bytes(b"ollamamax-state 2 other\n")
    with pytest.raises(StateTooNew, match="format 2; this program knows 1"):
        await StateSnapshotFile(path).load()


async def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="can't access"):
        await StateSnapshotFile(tmp_path).load()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="can't access"):
        await StateSnapshotFile(tmp_path / "file" / "state.snapshot").save(STATE)


async def test_a_full_disk_keeps_the_former_one(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", 64 << 10) as small:
        file = StateSnapshotFile(small / "state.snapshot")
        await file.save(STATE)
        with pytest.raises(DiskFull):
            await file.save(StateRange(8, (StateEntry("a", b"v" * 100_000, 8, 8),)))
        assert await file.load() == STATE
        assert [one.name for one in small.iterdir()] == ["state.snapshot"]
