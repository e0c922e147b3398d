"""This node's copy of the replicated state: follows it, keeps it on disk, and is what the node goes by without it."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

import structlog

from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.errors import (
    OllamaMaxError,
    StateCompacted,
    StateCorrupt,
    StateElsewhere,
    StateUnavailable,
    StoreError,
)
from ollamamax.ports import Clock, Dice, SnapshotFile, StateStore

_LOG: Final = structlog.get_logger(__name__)
_SILENCE_MS: Final = 5_000.0
"""Several heartbeats of a store: a watch that says nothing for so long is lost."""
_OPEN_LIMIT_MS: Final = 2_000.0
_FIRST_RETRY_MS: Final = 200.0
_LAST_RETRY_MS: Final = 2_000.0
_SAVE_AFTER_MS: Final = 1_000.0
_SAVE_RETRY_MS: Final = 10_000.0
Watcher = Callable[[Catalog, Catalog], None]


class Replica:
    """One loop, run(), follows the store; open() before it and close() after it.

    silence_ms, open_limit_ms, save_after_ms: see the module's constants; shorter ones are for tests.
    """

    def __init__(
        self,
        store: StateStore,
        snapshots: SnapshotFile,
        clock: Clock,
        dice: Dice,
        *,
        silence_ms: float = _SILENCE_MS,
        open_limit_ms: float = _OPEN_LIMIT_MS,
        save_after_ms: float = _SAVE_AFTER_MS,
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._clock = clock
        self._dice = dice
        self._silence_ms = silence_ms
        self._open_limit_ms = open_limit_ms
        self._save_after_ms = save_after_ms
        self._catalog = Catalog.empty()
        self._saved: Catalog | None = None
        self._lost_since_ms: float | None = clock.now_ms()
        self._lost_reason = "it was not reached yet"
        self._is_following = False
        self._retry_ms = _FIRST_RETRY_MS
        self._watchers: list[Watcher] = []
        self._contact_watchers: list[Callable[[bool], None]] = []
        self._changed = asyncio.Event()

    @property
    def catalog(self) -> Catalog:
        """The newest state that was seen."""
        return self._catalog

    @property
    def lost_since_ms(self) -> float | None:
        """By the clock: since when the store is not reached; None while it is."""
        return self._lost_since_ms

    @property
    def lost_reason(self) -> str:
        """Why it is not reached, for people; "" while it is."""
        return self._lost_reason

    @property
    def is_following(self) -> bool:
        """Whether changes come in by themselves now."""
        return self._is_following

    def watch(self, callback: Watcher) -> None:
        """Called in the event loop with the former and the new catalog, after each change that is seen."""
        self._watchers.append(callback)

    def watch_contact(self, callback: Callable[[bool], None]) -> None:
        """Called in the event loop with False when the store is lost, and with True when it is found again."""
        self._contact_watchers.append(callback)

    async def open(self) -> None:
        """The state from disk, then from the store if it answers soon; an empty one where there is neither.

        Raises: StateCorrupt, StateTooNew, StoreError if the store is not reached and what lies on disk can't be read:
        to go on without knowing who was removed from the cluster would let them in.
        """
        failure: OllamaMaxError | None = None
        try:
            kept = await self._snapshots.load()
            if kept is not None:
                self._saved = Catalog.from_range(kept)
                self._take(self._saved)
        except OllamaMaxError as error:
            failure = error
        try:
            await self._read_anew(self._open_limit_ms)
        except OllamaMaxError as error:
            if failure is not None:
                raise failure from error
            self._lose(str(error))
        else:
            if failure is not None:
                _LOG.warning("state_snapshot_unreadable", reason=str(failure))
            self._find()

    async def run(self) -> None:
        """Follow the store, and keep what is seen on disk, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_following())
            tasks.create_task(self._keep_saving())

    async def close(self) -> None:
        """Save what is not saved yet, when run() has ended. A failure is logged: the former snapshot stands."""
        if self._saved is not self._catalog:
            await self._save()

    async def caught_up(self, revision: int, timeout_ms: float) -> None:
        """Returns once that revision was seen. Raises: StateUnavailable after timeout_ms."""
        try:
            async with asyncio.timeout(timeout_ms / 1000.0):
                while self._catalog.revision < revision:
                    await self._changed.wait()
        except TimeoutError:
            raise StateUnavailable(
                f"the cluster's state is at revision {revision}, and this node has only seen {self._catalog.revision}"
            ) from None

    async def refresh(self) -> None:
        """Read the whole state as it is now. Raises: StateUnavailable, StateError."""
        whole = await self._store.range("", linearizable=True)
        if whole.revision > self._catalog.revision:
            self._take(Catalog.from_range(whole))

    async def _keep_following(self) -> None:
        while True:
            try:
                await self._follow()
            except (StateCompacted, StateCorrupt) as error:  # what can't be read may be gone by now
                _LOG.info("state_read_anew", reason=str(error))
                try:
                    await self._read_anew(self._silence_ms)
                except OllamaMaxError as failure:
                    self._lose(str(failure))
            except OllamaMaxError as error:
                has_moved = self._is_following and isinstance(error, StateElsewhere)
                if not has_moved:
                    self._lose(str(error))
            finally:
                self._is_following = False
            await asyncio.sleep(self._retry_ms * (0.5 + self._dice.random() / 2.0) / 1000.0)
            self._retry_ms = min(self._retry_ms * 2.0, _LAST_RETRY_MS)

    async def _follow(self) -> None:
        async with aclosing(self._store.watch("", self._catalog.revision)) as batches:
            while True:
                try:
                    async with asyncio.timeout(self._silence_ms / 1000.0):
                        batch = await anext(batches)
                except TimeoutError:
                    raise StateUnavailable(f"nothing was heard of it for {self._silence_ms / 1000.0:g} s") from None
                self._is_following = True
                self._find()
                if batch.events:
                    self._take(self._catalog.after(batch))

    async def _read_anew(self, limit_ms: float) -> None:
        """Whatever its revision: the store may have been put back to an earlier state.

        Raises: StateUnavailable, StateError, StateCorrupt, StateTooNew.
        """
        try:
            async with asyncio.timeout(limit_ms / 1000.0):
                whole = await self._store.range("")
        except TimeoutError:
            raise StateUnavailable(f"it did not answer within {limit_ms / 1000.0:g} s") from None
        self._take(Catalog.from_range(whole))

    def _take(self, catalog: Catalog) -> None:
        """Raises: StateUnavailable for a state that is not this cluster's: an emptied holder is no reason to forget."""
        former = self._catalog
        if catalog is former:
            return
        if former.meta is not None and (catalog.meta is None or catalog.meta.cluster_id != former.meta.cluster_id):
            raise StateUnavailable(
                f"the state that is held there is not that of cluster {former.meta.cluster_id} any more"
            )
        self._catalog = catalog
        self._changed.set()
        self._changed = asyncio.Event()
        for callback in self._watchers:
            callback(former, catalog)

    def _lose(self, reason: str) -> None:
        self._lost_reason = reason
        if self._lost_since_ms is None:
            self._lost_since_ms = self._clock.now_ms()
            _LOG.warning("state_lost", reason=reason)
            for callback in self._contact_watchers:
                callback(False)

    def _find(self) -> None:
        self._retry_ms = _FIRST_RETRY_MS
        if self._lost_since_ms is not None:
            lost_ms = self._clock.now_ms() - self._lost_since_ms
            _LOG.info("state_found", lost_ms=round(lost_ms), revision=self._catalog.revision)
            self._lost_since_ms, self._lost_reason = None, ""
            for callback in self._contact_watchers:
                callback(True)

    async def _keep_saving(self) -> None:
        while True:
            while self._saved is self._catalog:
                await self._changed.wait()
            await asyncio.sleep(self._save_after_ms / 1000.0)
            if not await self._save():
                await asyncio.sleep(_SAVE_RETRY_MS / 1000.0)

    async def _save(self) -> bool:
        catalog = self._catalog
        try:
            await self._snapshots.save(catalog.entries())
        except StoreError as error:
            _LOG.warning("state_snapshot_not_saved", reason=str(error))
            return False
        self._saved = catalog
        return True
