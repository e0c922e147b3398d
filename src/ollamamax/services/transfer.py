"""Models from node to node: this node's manifests and blobs for others, and theirs for this one.

A transfer asks one holder of the model after the other; what has arrived stays, so that the next one goes on after it,
also after a crash. Every blob is checked against its digest before it counts.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

import msgspec
import structlog
from msgspec import Struct

from ollamamax.core.errors import BlobNotFound, DigestMismatch, ModelNotFound, PeerError, PeerProtocol, PeerTimeout
from ollamamax.core.modelspec import manifest, names
from ollamamax.core.modelspec.manifest import Layer, Manifest
from ollamamax.core.types import ModelEntry, ModelName, NodeRecord
from ollamamax.ports import BlobPart, BlobStore, Caller, Clock, PeerLink, PeerMethods, StoredManifest
from ollamamax.services.downloads import fill

_T = TypeVar("_T")
_LOG: Final = structlog.get_logger(__name__)
_IDLE_MS: Final = 10_000.0
_STALL_S: Final = 30.0
_QUESTION_MS: Final = 5_000.0
_LOOK_S: Final = 0.3
MAX_MANIFEST_BYTES: Final = 1 << 20


class BlobRange(Struct, frozen=True):
    """What `blobs.read` asks for. length: -1 = to the end."""

    digest: str
    offset: int = 0
    length: int = -1


class ManifestOf(Struct, frozen=True):
    """What `models.manifest` asks for: a model's key, and the digest that its manifest should have."""

    key: str
    digest: str


class TransferHost:
    """What other nodes may read of this node's store."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store

    def methods(self) -> PeerMethods:
        """models.manifest, blobs.read."""
        return PeerMethods(unary={"models.manifest": self._manifest}, streams={"blobs.read": self._blob})

    async def _manifest(self, _: Caller, body: bytes) -> bytes:
        wanted = decoded(body, ManifestOf)
        stored = await self._store.manifest(names.parse(wanted.key))
        if stored is None or stored.digest != wanted.digest:
            raise ModelNotFound(f"this node does not have that version of model '{wanted.key}'")
        return stored.data

    async def _blob(self, _: Caller, body: bytes) -> AsyncGenerator[list[bytes], None]:
        wanted = decoded(body, BlobRange)
        async with aclosing(self._store.read_range(wanted.digest, wanted.offset, wanted.length)) as pieces:
            async for piece in pieces:
                yield [piece]


class Transfer:
    """Brings models to this node's store. Equal wishes share one transfer.

    entry: what the cluster knows of a model key, None if nothing.  holders: nodes that are believed to have it in
    that version, best first.  arrived: called after a model has been added to the store.
    """

    def __init__(
        self,
        store: BlobStore,
        link: PeerLink,
        clock: Clock,
        entry: Callable[[str], ModelEntry | None],
        holders: Callable[[ModelEntry], Sequence[NodeRecord]],
        arrived: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._link = link
        self._clock = clock
        self._entry = entry
        self._holders = holders
        self._arrived = arrived
        self._running: dict[str, asyncio.Task[None]] = {}
        self._done_bytes: dict[str, int] = {}
        """By model key, of transfers under way."""

    async def ensure(self, key: str) -> None:
        """Have the model in the store, in the version that the cluster's catalog names; a model that the catalog
        does not know is left to the store. The transfer goes on when the caller is cancelled.

        Raises: ModelNotFound if no node that has it can be reached, DiskFull, StoreError, PeerError.
        """
        entry = self._entry(key)
        if entry is None or await self.has(key):
            return
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.get_running_loop().create_task(self._bring(entry), name=f"bring {key}")
            task.add_done_callback(lambda done: self._done(key, done))
        await asyncio.shield(task)

    async def steps(self, key: str, patience_ms: float = 0.0) -> AsyncGenerator[int, None]:
        """As ensure(), telling now and then how many bytes are here. It goes on when the generator is closed.

        patience_ms: for how long a node that has it is looked for, where that is known a moment later than the model.
        """
        task = asyncio.get_running_loop().create_task(self._ensure_soon(key, patience_ms))
        try:
            while not task.done():
                yield self._done_bytes.get(key, 0)
                await asyncio.wait([task], timeout=_LOOK_S)
            await task
        finally:
            task.cancel()

    async def _ensure_soon(self, key: str, patience_ms: float) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + patience_ms / 1000
        while True:
            try:
                await self.ensure(key)
            except ModelNotFound:
                if loop.time() >= until_s:
                    raise
            else:
                return
            await asyncio.sleep(_LOOK_S)

    async def close(self) -> None:
        """End transfers; what has arrived stays. Idempotent."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _done(self, key: str, task: asyncio.Task[None]) -> None:
        del self._running[key]
        self._done_bytes.pop(key, None)
        if not task.cancelled():
            task.exception()  # those who wait have it; nobody may be left

    async def has(self, key: str) -> bool:
        """Whether the store has the model in the version that the catalog names, or in one that nobody can better.

        Raises: StoreError.
        """
        entry = self._entry(key)
        stored = await self._store.manifest(names.parse(key))
        return stored is not None and (entry is None or stored.digest == entry.digest or not self._holders(entry))

    async def _bring(self, entry: ModelEntry) -> None:
        failures: list[str] = []
        started_ms = self._clock.now_ms()
        for node in self._holders(entry):
            try:
                data = await self._ask_manifest(node, entry)
                await self._bring_blobs(node, names.key(entry.name), manifest.decode(data))
            except (PeerError, DigestMismatch, ModelNotFound, BlobNotFound) as error:
                _LOG.warning("a model can't be had from this node", model=entry.name, node=node.name, reason=str(error))
                failures.append(f"{node.name}: {error}")
                continue
            if self._entry(names.key(entry.name)) is None:
                raise ModelNotFound(f"model '{entry.name}' was deleted while it was fetched")
            await self._store.put_manifest(_name(entry), data)
            took_ms = round(self._clock.now_ms() - started_ms)
            _LOG.info("model arrived", model=entry.name, node=node.name, bytes=entry.size_bytes, took_ms=took_ms)
            await self._arrived()
            return
        reasons = "; ".join(failures) or "no node that has it can be reached"
        raise ModelNotFound(f"model '{entry.name}' is not on this node and can't be fetched: {reasons}")

    async def _ask_manifest(self, node: NodeRecord, entry: ModelEntry) -> bytes:
        question = msgspec.msgpack.encode(ManifestOf(names.key(entry.name), entry.digest))
        data = await self._link.call(node, "models.manifest", question, timeout_ms=_QUESTION_MS)
        if len(data) > MAX_MANIFEST_BYTES or hashlib.sha256(data).hexdigest() != entry.digest:
            raise PeerProtocol(f"node '{node.name}' sent another manifest of model '{entry.name}' than was asked for")
        return data

    async def _bring_blobs(self, node: NodeRecord, key: str, model: Manifest) -> None:
        self._done_bytes[key] = 0
        for layer in (model.config, *model.layers):
            if await self._store.blob_size(layer.digest) is None:
                await self._bring_blob(node, key, layer)
            else:
                self._done_bytes[key] += layer.size

    async def _bring_blob(self, node: NodeRecord, key: str, layer: Layer) -> None:
        """As one part, or in those that a former attempt began with."""
        blob = await self._store.open_parts(layer.digest, layer.size, (layer.size,))
        try:
            for index, part in enumerate(blob.parts):
                self._done_bytes[key] += part.done_bytes
                if part.done_bytes < part.size_bytes:
                    async with aclosing(self._pieces(node, key, layer.digest, part)) as pieces:
                        await fill(blob, index, pieces)
            await blob.commit()
        finally:
            await blob.close()

    async def _pieces(self, node: NodeRecord, key: str, digest: str, part: BlobPart) -> AsyncGenerator[bytes, None]:
        """What is missing of a part, exactly. Raises: PeerError."""
        left_bytes = part.size_bytes - part.done_bytes
        question = msgspec.msgpack.encode(BlobRange(digest, part.offset + part.done_bytes, left_bytes))
        async with aclosing(self._link.stream(node, "blobs.read", question, idle_ms=_IDLE_MS)) as frames:
            while (batch := await _next(frames, node)) is not None:
                for piece in batch:
                    left_bytes -= len(piece)
                    if left_bytes < 0:
                        raise PeerProtocol(f"node '{node.name}' sent more of {digest} than was asked for")
                    self._done_bytes[key] += len(piece)
                    yield piece
        if left_bytes:
            raise PeerProtocol(f"node '{node.name}' sent {left_bytes} bytes of {digest} less than it has")


async def _next(frames: AsyncGenerator[list[bytes], None], node: NodeRecord) -> list[bytes] | None:
    """The next ones, None at the end. The link notices a silent node; this, one that lives and sends nothing.

    Raises: PeerTimeout, PeerError.
    """
    try:
        async with asyncio.timeout(_STALL_S):
            return await anext(frames, None)
    except TimeoutError:
        raise PeerTimeout(f"node '{node.name}' sent nothing of the model for {_STALL_S:g} s") from None


def decoded(body: bytes, kind: type[_T]) -> _T:
    """A peer's question. Raises: PeerProtocol."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise PeerProtocol(f"the question can't be understood: {error}") from None


def _name(entry: ModelEntry) -> ModelName:
    return names.parse(entry.name)


def entry_of(stored: StoredManifest, now_ns: int) -> ModelEntry:
    """What the catalog is to know of a model of the store. Raises: CorruptManifest."""
    size_bytes = manifest.decode(stored.data).size_bytes
    return ModelEntry(name=stored.name.short, digest=stored.digest, size_bytes=size_bytes, changed_ns=now_ns)
