"""What is removed at the start, and what never is."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ollamamax.adapters.storage.ollama_store import OllamaStore
from ollamamax.core.modelspec import names

NOW_NS = time.time_ns()
HOUR_NS = 3600 * 10**9
DAY_NS = 24 * HOUR_NS
CONFIG, WEIGHTS, LOOSE = b"config", b"weights", b"loose"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def file_of(data: bytes) -> str:
    return digest_of(data).replace(":", "-")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one model, and one blob that is not of it."""
    root = tmp_path / "models"
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": digest_of(WEIGHTS), "size": 7}]
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest_of(CONFIG), "size": 6}
    manifest = json.dumps({"schemaVersion": 2, "mediaType": "x", "config": config, "layers": layers})
    put(root / "manifests/registry.ollama.ai/library/tiny/latest", manifest.encode())
    for data in (CONFIG, WEIGHTS, LOOSE):
        put(root / "blobs" / file_of(data), data)
    return root


def put(path: Path, data: bytes, age_ns: int = HOUR_NS + 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(NOW_NS - age_ns, NOW_NS - age_ns))
    return path


async def prune(root: Path) -> set[str]:
    return {str(Path(path).relative_to(root)) for path in await OllamaStore(root).prune(NOW_NS)}


async def test_old_waste_is_removed(root: Path) -> None:
    colon = put(root / "blobs" / digest_of(b"old"), b"old")
    parts = [put(root / "blobs" / f"{file_of(b'p')}{end}", b"x", DAY_NS + 1) for end in ("-partial", "-partial-0")]
    parts.append(put(root / "blobs/sha256-incoming-abc", b"x"))
    parts.append(put(root / "manifests/registry.ollama.ai/library/tiny/.incoming-abc", b"x"))
    waste = [root / "blobs" / file_of(LOOSE), colon, *parts]
    assert await prune(root) == {str(path.relative_to(root)) for path in waste}
    assert sorted(path.name for path in (root / "blobs").iterdir()) == sorted([file_of(CONFIG), file_of(WEIGHTS)])
    assert [stored.name for stored in await OllamaStore(root).manifests()] == [names.parse("tiny")]
    assert await prune(root) == set()


async def test_young_waste_is_kept(root: Path) -> None:
    for name in (file_of(LOOSE), "sha256-incoming-abc", f"{file_of(b'p')}-partial"):
        put(root / "blobs" / name, LOOSE, age_ns=HOUR_NS)
    assert await prune(root) == set()
    assert len(list((root / "blobs").iterdir())) == 5


async def test_the_parts_of_a_download_stay_while_one_of_them_is_young(root: Path) -> None:
    old = [put(root / "blobs" / f"{file_of(b'p')}{end}", b"x", 9 * DAY_NS) for end in ("-partial-0", "-partial-1")]
    young = put(root / "blobs" / f"{file_of(b'p')}-partial", b"x", DAY_NS)
    assert await prune(root) == {f"blobs/{file_of(LOOSE)}"}
    assert all(path.exists() for path in (*old, young))


async def test_strange_files_are_kept(root: Path) -> None:
    strange = [put(root / "blobs" / "notes.txt", b"x"), put(root / "manifests" / ".DS_Store", b"x")]
    await prune(root)
    assert all(path.exists() for path in strange)


async def test_models_of_an_invalid_name_keep_their_blobs(root: Path) -> None:
    library = root / "manifests/registry.ollama.ai/library"
    (library / "tiny").rename(library / "bad name")
    assert await prune(root) == {f"blobs/{file_of(LOOSE)}"}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"schemaVersion": 2, "config": {"digest": "x"}}'])
async def test_nothing_is_removed_beside_a_corrupt_manifest(root: Path, data: bytes) -> None:
    corrupt = put(root / "manifests/registry.ollama.ai/library/broken/latest", data)
    with capture_logs() as logs:
        assert await prune(root) == set()
    assert (root / "blobs" / file_of(LOOSE)).exists()
    assert [str(corrupt) in log["reason"] for log in logs] == [True]


async def test_nothing_is_removed_beside_a_manifest_that_cant_be_read(root: Path) -> None:
    (root / "manifests/registry.ollama.ai/library/tiny/broken").symlink_to("nowhere")
    with capture_logs() as logs:
        assert await prune(root) == set()
    assert (root / "blobs" / file_of(LOOSE)).exists()
    assert len(logs) == 1


async def test_empty_directories_of_manifests_are_removed(root: Path) -> None:
    (root / "manifests/example.com/me/gone").mkdir(parents=True)
    await prune(root)
    assert [path.name for path in (root / "manifests").iterdir()] == ["registry.ollama.ai"]
    assert (root / "manifests/registry.ollama.ai/library/tiny/latest").is_file()


async def test_missing_directories(root: Path, tmp_path: Path) -> None:
    assert await prune(tmp_path / "nowhere") == set()
    assert not (tmp_path / "nowhere").exists()
    for path in (root / "blobs").iterdir():
        path.unlink()
    (root / "blobs").rmdir()
    assert await prune(root) == set()


async def test_nothing_is_removed_without_a_directory_of_manifests(tmp_path: Path) -> None:
    kept = put(tmp_path / "blobs" / file_of(LOOSE), LOOSE)
    assert await prune(tmp_path) == set()
    assert kept.exists()
