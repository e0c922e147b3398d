"""The models of the whole cluster behind the port of the library: what changes here is told to all.

Reads and creations are this node's own; the catalog learns the name and the manifest of every model. A copy is made
where the source lies; a deletion happens on every node that can be reached.

A node that was away while a model was deleted deletes its own when it is back: the catalog remembers which manifests a
deleted name stood for. Who joined later, and files that are newer than the deletion, are not meant by it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import DropModel, DropPlacement, SetModel
from ollamamax.core.errors import (
    Conflict,
    CorruptManifest,
    ModelNotFound,
    OllamaMaxError,
    PeerError,
    StateUnavailable,
)
from ollamamax.core.modelspec import names
from ollamamax.core.types import CreateRequest, NodeRecord, Options, Progress, TransferRequest
from ollamamax.ports import BlobStore, Caller, Clock, PeerLink, PeerMethods, StoredManifest
from ollamamax.services.control import Control
from ollamamax.services.library import Library
from ollamamax.services.replica import Replica
from ollamamax.services.transfer import Transfer, decoded, entry_of

_LOG: Final = structlog.get_logger(__name__)
_LIMIT_MS: Final = 30_000.0
_RETRY_S: Final = 5.0


class _Copy(Struct, frozen=True):
    source: str
    destination: str


class _Delete(Struct, frozen=True):
    model: str


class ClusterModels:
    """library: of this node.  having: other nodes that can be reached and have a model key.  reachable: all of those
    that can be reached.

    changed: called after this node's store has changed.  vacate: has a model leave this node's memory before its files
    go.  `run()` keeps the catalog in step with the store.
    """

    def __init__(
        self,
        library: Library,
        store: BlobStore,
        control: Control,
        replica: Replica,
        link: PeerLink,
        transfer: Transfer,
        clock: Clock,
        having: Callable[[str], Sequence[NodeRecord]],
        reachable: Callable[[], Sequence[NodeRecord]],
        changed: Callable[[], Awaitable[None]],
        node_id: str,
        vacate: Callable[[str], Awaitable[None]],
    ) -> None:
        self._library = library
        self._store = store
        self._control = control
        self._replica = replica
        self._link = link
        self._transfer = transfer
        self._clock = clock
        self._having = having
        self._reachable = reachable
        self._changed = changed
        self._node_id = node_id
        self._vacate = vacate
        self._due = asyncio.Event()
        replica.watch(self._on_catalog)

    def methods(self) -> PeerMethods:
        """models.copy, models.delete: on this node's store alone."""
        return PeerMethods(unary={"models.copy": self._copy_here, "models.delete": self._delete_here})

    # --- the library's port ---------------------------------------------------------------------------------------

    async def show(
        self, model: str, verbose: bool = False, system: str | None = None, options: Options | None = None
    ) -> dict[str, Any]:
        """Of this node's store. Raises: InvalidName, ModelNotFound, StoreError, GgufError."""
        return await self._library.show(model, verbose, system, options)

    async def create(self, request: CreateRequest) -> AsyncGenerator[Progress, None]:
        """Here; the catalog knows it before "success". Raises: as Library.create, StateUnavailable before any work."""
        self._check_writable("create a model")
        async with aclosing(self._library.create(request)) as steps:
            async for step in steps:
                if step.status == "success":
                    await self._register(request.model)
                yield step

    async def pull(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        """Into this node's store; the catalog knows it before "success".

        Raises: as Library.pull, StateUnavailable before any work.
        """
        self._check_writable("pull a model")
        async with aclosing(self._library.pull(request)) as steps:
            async for step in steps:
                if step.status == "success":
                    await self._register(request.model)
                yield step

    async def push(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        """From this store; what only other nodes have comes here first. Raises: as Library.push, PeerError."""
        key = names.key(request.model)
        entry = self._replica.catalog.models.get(key)
        if entry is not None and self._having(key) and await self._store.manifest(names.parse(key)) is None:
            async with aclosing(self._transfer.steps(key)) as steps:
                async for done_bytes in steps:
                    yield Progress(f"copying {entry.name} here", total=entry.size_bytes, completed=done_bytes)
        async with aclosing(self._library.push(request)) as pushed:
            async for step in pushed:
                yield step

    async def copy(self, source: str, destination: str) -> None:
        """Where the source is: here, else on a node that has it.

        Raises: InvalidName, ModelNotFound, StoreError, StateUnavailable, PeerError.
        """
        self._check_writable("copy a model")
        names.parse(destination)
        if await self._store.manifest(names.parse(source)) is not None:
            await self._library.copy(source, destination)
            await self._register(destination)
            return
        for node in self._having(names.key(source)):
            question = msgspec.msgpack.encode(_Copy(source, destination))
            await self._link.call(node, "models.copy", question, timeout_ms=_LIMIT_MS)
            return
        raise ModelNotFound(f"model '{source}' not found")

    async def delete(self, model: str) -> None:
        """On every node that has it and can be reached; it is placed nowhere any more, and leaves memory first.

        A node that can't be reached does so when it learns of it.

        Raises: InvalidName, ModelNotFound, StoreError, StateUnavailable.
        """
        self._check_writable("delete a model")
        key = names.key(names.parse(model).short)
        is_here = await self._store.manifest(names.parse(model)) is not None
        if not is_here and not self._having(key) and key not in self._replica.catalog.models:
            raise ModelNotFound(f"model '{model}' not found")
        if key in self._replica.catalog.placements:
            await self._control.run(DropPlacement(key))
        if key in self._replica.catalog.models:
            await self._control.run(DropModel(key, self._clock.wall_ns()))
        if is_here:
            await self._delete_own(key)
        # All are asked, not only those that are known to have it: one may be getting it at this moment.
        question = msgspec.msgpack.encode(_Delete(model))
        await asyncio.gather(*(self._delete_there(node, model, question) for node in self._reachable()))

    async def _delete_there(self, node: NodeRecord, model: str, question: bytes) -> None:
        try:
            await self._link.call(node, "models.delete", question, timeout_ms=_LIMIT_MS)
        except PeerError as error:
            _LOG.info("a model is deleted there later", model=model, node=node.name, reason=str(error))

    async def _delete_own(self, key: str) -> None:
        """Raises: StoreError."""
        await self._vacate(key)
        with suppress(ModelNotFound):  # who learns of the deletion elsewhere may have been quicker
            await self._library.delete(key)

    async def has_blob(self, digest: str) -> bool:
        """Whether a whole blob of that digest is here."""
        return await self._library.has_blob(digest)

    async def put_blob(self, digest: str, body: AsyncIterator[bytes]) -> bool:
        """Into this node's store. Raises: DigestMismatch, DiskFull, StoreError."""
        return await self._library.put_blob(digest, body)

    # --- the catalog ------------------------------------------------------------------------------------------------

    def touch(self) -> None:
        """The store has changed in a way that was not asked for here, or the state can be written again."""
        self._due.set()

    def _on_catalog(self, old: Catalog, new: Catalog) -> None:
        if old.deleted is not new.deleted:
            self._due.set()

    async def run(self) -> None:
        """Tell the catalog of models of this node's store that it does not know; until cancelled."""
        self._due.set()
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                for stored in await self._store.manifests():
                    if stored.name.key not in self._replica.catalog.models:
                        await self._settle(stored)
            except OllamaMaxError as error:
                _LOG.info("the cluster's catalog does not know all models of this node yet", reason=str(error))
                await asyncio.sleep(_RETRY_S)
                self._due.set()

    async def _settle(self, stored: StoredManifest) -> None:
        """The catalog learns of a model, unless it was deleted while this node was away.

        Raises: StateUnavailable, StoreError.
        """
        if self._node_id not in self._replica.catalog.nodes:
            return
        try:
            await self._tell(stored, only_if_new=not self._is_newer_than_deletion(stored))
        except Conflict:
            gone = self._replica.catalog.deleted.get(stored.name.key)
            if gone is not None and stored.digest in gone.digests:
                _LOG.info("a model was deleted while this node was away", model=stored.name.short)
                await self._delete_own(stored.name.key)
                await self._changed()

    def _is_newer_than_deletion(self, stored: StoredManifest) -> bool:
        """Whether a deletion of that manifest does not mean this node's: it joined later, or got it anew."""
        catalog = self._replica.catalog
        gone = catalog.deleted.get(stored.name.key)
        if gone is None or stored.digest not in gone.digests:
            return False
        own = catalog.nodes[self._node_id]
        return own.sequence >= gone.next_sequence or stored.modified_ns > gone.deleted_ns

    async def _register(self, model: str) -> None:
        stored = await self._store.manifest(names.parse(model))
        if stored is not None:
            await self._tell(stored, only_if_new=False)

    async def _tell(self, stored: StoredManifest, only_if_new: bool) -> None:
        """Raises: StateUnavailable."""
        try:
            entry = entry_of(stored, self._clock.wall_ns())
        except CorruptManifest:
            return  # the library warns of it
        await self._control.run(SetModel(entry, replaces_digest="" if only_if_new else None))

    def _check_writable(self, purpose: str) -> None:
        if self._replica.lost_since_ms is not None:
            hosts = [f"'{node.name}'" for node in self._replica.catalog.hosts]
            where = f"node {', '.join(hosts)}" if hosts else "the node that holds the state"
            raise StateUnavailable(f"can't {purpose} now: {where} can't be reached; answers go on; try again later")

    # --- for other nodes --------------------------------------------------------------------------------------------

    async def _copy_here(self, _: Caller, body: bytes) -> bytes:
        wanted = decoded(body, _Copy)
        await self._library.copy(wanted.source, wanted.destination)
        await self._register(wanted.destination)
        await self._changed()
        return b""

    async def _delete_here(self, _: Caller, body: bytes) -> bytes:
        name = names.parse(decoded(body, _Delete).model)
        if await self._store.manifest(name) is not None:
            await self._delete_own(name.key)
            await self._changed()
        return b""
