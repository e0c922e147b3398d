"""The files of a download: Ollama's own, whole or damaged."""

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from ollamamax.adapters.storage.ollama_store import OllamaStore
from ollamamax.core.errors import StoreReadOnly
from tmpfs import make_read_only, tmpfs

DATA = b"0123456789" * 10
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
NAME = DIGEST.replace(":", "-")


def ollamas(root: Path, *parts: dict[str, Any], data: bytes = DATA) -> None:
    """What Ollama leaves of a download."""
    blobs = root / "blobs"
    blobs.mkdir(exist_ok=True)
    (blobs / f"{NAME}-partial").write_bytes(data)
    for number, part in enumerate(parts):
        (blobs / f"{NAME}-partial-{number}").write_text(json.dumps({"N": number, **part}) + "\n")


def part(offset: int, size: int, completed: int) -> dict[str, Any]:
    return {"Offset": offset, "Size": size, "Completed": completed}


async def done(root: Path) -> list[tuple[int, int]]:
    """Size and what has come of each part, as the store sees them."""
    blob = await OllamaStore(root).open_parts(DIGEST, len(DATA), [100])
    await blob.close()
    return [(each.size_bytes, each.done_bytes) for each in blob.parts]


async def test_the_files_are_ollamas(tmp_path: Path) -> None:
    blob = await OllamaStore(tmp_path).open_parts(DIGEST, len(DATA), [60, 40])
    await blob.write(1, DATA[60:75])
    await blob.close()
    files = {path.name: path for path in (tmp_path / "blobs").iterdir()}
    assert set(files) == {f"{NAME}-partial", f"{NAME}-partial-0", f"{NAME}-partial-1"}
    assert files[f"{NAME}-partial"].read_bytes() == bytes(60) + DATA[60:75] + bytes(25)
    assert json.loads(files[f"{NAME}-partial-1"].read_text()) == {"N": 1, "Offset": 60, "Size": 40, "Completed": 15}
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in files.values())


async def test_nothing_but_the_blob_remains(tmp_path: Path) -> None:
    ollamas(tmp_path, part(0, 60, 60), part(60, 40, 40))
    blob = await OllamaStore(tmp_path).open_parts(DIGEST, len(DATA), [100])
    assert await blob.commit()
    await blob.close()
    assert [path.name for path in (tmp_path / "blobs").iterdir()] == [NAME]


async def test_a_download_of_ollama_goes_on(tmp_path: Path) -> None:
    ollamas(tmp_path, part(0, 60, 60), part(60, 40, 7))
    assert await done(tmp_path) == [(60, 60), (40, 7)]


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [part(0, 60, 60)],
        [part(0, 60, 60), part(61, 39, 7)],
        [part(0, 60, 60), part(60, 41, 7)],
        [part(0, 60, 61), part(60, 40, 0)],
        [part(0, 60, -1), part(60, 40, 0)],
        [part(0, 60, 60), part(60, 40, 7), part(60, 40, 7)],
        [part(0, 60, 60), {"Offset": 60}],
        [part(0, 60, 60), {**part(60, 40, 7), "N": 5}],
        [part(0, 60, 60), {**part(60, 40, 7), "N": 0}],
    ],
)
async def test_what_does_not_fit_together_begins_anew(tmp_path: Path, parts: list[dict[str, Any]]) -> None:
    ollamas(tmp_path, *parts)
    assert await done(tmp_path) == [(100, 0)]
    assert sorted(path.name for path in (tmp_path / "blobs").iterdir()) == [f"{NAME}-partial", f"{NAME}-partial-0"]


@pytest.mark.parametrize("damage", [b"", b"\0" * 128, b'{"N":1,"Off'])
async def test_a_damaged_part_begins_anew(tmp_path: Path, damage: bytes) -> None:
    ollamas(tmp_path, part(0, 60, 60), part(60, 40, 7))
    (tmp_path / "blobs" / f"{NAME}-partial-1").write_bytes(damage)
    assert await done(tmp_path) == [(100, 0)]


async def test_parts_without_their_bytes_begin_anew(tmp_path: Path) -> None:
    ollamas(tmp_path, part(0, 60, 60), part(60, 40, 7), data=DATA[:99])
    assert await done(tmp_path) == [(100, 0)]
    (tmp_path / "blobs" / f"{NAME}-partial").unlink()
    assert await done(tmp_path) == [(100, 0)]


async def test_files_of_other_blobs_are_left_alone(tmp_path: Path) -> None:
    ollamas(tmp_path, part(0, 60, 60))
    others = [tmp_path / "blobs" / name for name in (f"{NAME}-partial-x", f"{NAME}-partial-0.bak")]
    for path in others:
        path.write_bytes(b"x")
    await done(tmp_path)
    assert all(path.exists() for path in others)


async def test_parts_are_closed_when_nothing_can_be_written(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small") as root:
        ollamas(root, part(0, 60, 60), part(60, 40, 7))
        make_read_only(root)
        open_before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(StoreReadOnly):
            await OllamaStore(root).open_parts(DIGEST, len(DATA), [100])
        assert len(os.listdir("/proc/self/fd")) == open_before
