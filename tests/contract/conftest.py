"""Stores of blobs and manifests: each test of the contract meets the one on disk and its twin."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ollamamax.adapters.storage.ollama_store import OllamaStore
from ollamamax.ports import BlobStore
from ollamamax.testing.store import MemoryStore
from tmpfs import SMALL_BYTES, tmpfs


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return OllamaStore(tmp_path) if request.param == "disk" else MemoryStore()


@pytest.fixture(params=["disk", "memory"])
def small_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlobStore]:
    """One with room for a mebibyte."""
    if request.param == "memory":
        yield MemoryStore(capacity_bytes=SMALL_BYTES)
        return
    with tmpfs(tmp_path / "small", SMALL_BYTES) as path:
        yield OllamaStore(path)
