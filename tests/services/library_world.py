"""A library over a store in memory, and shorthand to fill and read it."""

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import gguf_bytes
from ollamamax.core.modelspec import manifest, names
from ollamamax.core.modelspec.manifest import Manifest
from ollamamax.core.types import CreateRequest
from ollamamax.ports import StoredManifest
from ollamamax.services.library import Library
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.making import MemoryGgufMaker
from ollamamax.testing.registry import MemoryRegistry
from ollamamax.testing.store import MemoryStore

GO_TEMPLATE = "{{ if .System }}{{ .System }} {{ end }}{{ range .Messages }}{{ .Content }}{{ end }}"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


def gguf(**values: Any) -> bytes:
    """A small llama. values: metadata that differs; `_` in a key stands for a dot; strings and counts only."""
    changes = {
        key.replace("_", "."): (gguf_bytes.STRING if isinstance(value, str) else gguf_bytes.U32, value)
        for key, value in values.items()
    }
    return gguf_bytes.llama(changes)


class World:
    """What a test of the library needs."""

    def __init__(self, store: MemoryStore | None = None, prune: bool = True) -> None:
        self.store = store or MemoryStore()
        self.registry = MemoryRegistry()
        self.maker = MemoryGgufMaker(self.store.at)
        self.library = Library(self.store, self.registry, self.maker, FakeClock(), SeededDice(), prune)

    async def send(self, data: bytes) -> str:
        """Upload a blob; its digest."""
        await self.library.put_blob(digest_of(data), pieces(data))
        return digest_of(data)

    async def make(self, model: str, data: bytes | None = None, **said: Any) -> list[str]:
        """Create a model of one GGUF, or of what `said` says; the statuses."""
        if "from_model" not in said and "files" not in said:
            said["files"] = {"model.gguf": await self.send(gguf() if data is None else data)}
        return await self.create(model=model, **said)

    async def create(self, **said: Any) -> list[str]:
        """The statuses of a creation."""
        return [step.status async for step in self.library.create(CreateRequest(**said))]

    async def stored(self, model: str) -> StoredManifest:
        """The manifest that must be there."""
        stored = await self.store.manifest(names.parse(model))
        assert stored is not None
        return stored

    async def manifest(self, model: str) -> Manifest:
        """The same, decoded."""
        return manifest.decode((await self.stored(model)).data)

    async def layer(self, model: str, media_type: str) -> list[bytes]:
        """The contents of a model's layers of that type."""
        found = (await self.manifest(model)).of_type(media_type)
        return [await self.store.read_blob(layer.digest) for layer in found]

    async def models(self) -> list[str]:
        """Short names in the store."""
        return sorted(one.name.short for one in await self.store.manifests())

    async def check(self) -> None:
        """Every manifest's blobs are there, and no other blobs are."""
        used: set[str] = set()
        for one in await self.store.manifests():
            used |= manifest.decode(one.data).digests
        assert {digest for digest, _, _ in await self.store.blobs()} == used
