"""A library, and a registry that has what tests publish there."""

import hashlib

import gguf_bytes
from ollamamax.core.modelspec import manifest, names
from ollamamax.core.modelspec.manifest import Layer
from ollamamax.core.types import Progress, TransferRequest
from ollamamax.services.library import Library
from ollamamax.services.patience import TransferConfig
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.making import MemoryGgufMaker
from ollamamax.testing.registry import MemoryRegistry
from ollamamax.testing.store import MemoryStore

GGUF = gguf_bytes.llama() + bytes(20_000)
CONFIG = manifest.encode_config(manifest.Config(model_format="gguf"), [])
LIMIT_S = 10


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


class World:
    """A library, and a registry that has what tests publish there."""

    def __init__(self, prune: bool = True, part_bytes: int = 4_000) -> None:
        self.store = MemoryStore()
        self.registry = MemoryRegistry()
        self.config = TransferConfig(min_part_bytes=part_bytes, max_part_bytes=part_bytes, connections=3, pause_ms=0.1)
        self.library = Library(
            self.store, self.registry, MemoryGgufMaker(self.store.at), FakeClock(), SeededDice(), prune, self.config
        )

    def publish(self, model: str, *layers: bytes, config: bytes = CONFIG) -> bytes:
        """A model of these layers, the first of them the weights; the manifest."""
        name = names.parse(model)
        types = [manifest.MODEL, *[manifest.LICENSE] * len(layers)]
        rows = [Layer(kind, digest_of(data), len(data)) for kind, data in zip(types, layers, strict=False)]
        data = manifest.encode(Layer(manifest.CONFIG_TYPE, digest_of(config), len(config)), rows)
        for blob in (config, *layers):
            self.registry.blobs[f"{name.host}/{name.namespace}/{name.model}", digest_of(blob)] = blob
        self.registry.manifests[name.full] = data, manifest.MANIFEST_TYPE
        return data

    async def pull(self, model: str, insecure: bool = False) -> list[Progress]:
        return [step async for step in self.library.pull(TransferRequest(model, insecure))]

    async def blobs(self) -> set[str]:
        return {digest for digest, _, _ in await self.store.blobs()}
