"""Follows a cluster's keys in etcd by one watch, for all who follow the state by way of this node."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import structlog

from ollamamax.adapters.state.change_feed import ChangeFeed
from ollamamax.adapters.state.etcd_client import EtcdClient
from ollamamax.adapters.state.etcd_errors import unavailable
from ollamamax.adapters.state.etcd_keys import EtcdKeys
from ollamamax.adapters.state.etcd_wire import Origin
from ollamamax.core.errors import OllamaMaxError, StateCompacted, StateUnavailable
from ollamamax.core.types import Delete, Put, StateBatch, StateTxn
from ollamamax.core.types.state import size_bytes

_LOG: Final = structlog.get_logger(__name__)
_SILENCE_S: Final = 4.0
"""A watch that does not answer for so long is lost; it is asked at each heartbeat."""
_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 1.0


class EtcdFeed:
    """One task, begun by start() and ended by close(). changes: None until etcd was reached; a new one when history
    was lost.  is_standing: it follows now.  trouble: why it did not, last time.
    """

    def __init__(self, client: EtcdClient, keys: EtcdKeys, heartbeat_ms: float, keep: int) -> None:
        self._client = client
        self._keys = keys
        self._heartbeat_ms = heartbeat_ms
        self._keep = keep
        self._sizes: dict[str, int] = {}
        self._total_bytes = 0
        self._origin = Origin()
        self._retry_s = _FIRST_RETRY_S
        self._turned = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.changes: ChangeFeed | None = None
        self.trouble = "the cluster's state is in etcd, which was not reached yet"
        self.is_standing = False

    def start(self) -> None:
        """Follow until close()."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="etcd feed")

    async def close(self) -> None:
        """Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._turn(is_standing=False)

    async def standing(self, limit_s: float) -> ChangeFeed:
        """The changes, once it follows. Raises: StateUnavailable after limit_s, with the reason."""
        try:
            async with asyncio.timeout(limit_s):
                while not self.is_standing or self.changes is None or self._origin != self._keys.known:
                    if self._task is None or self._task.done():
                        raise StateUnavailable("the cluster's state is closed")
                    await self._turned.wait()
        except TimeoutError:
            raise StateUnavailable(self.trouble) from None
        return self.changes

    def grown(self, txn: StateTxn) -> tuple[int, int]:
        """Bytes of all entries, before and after a transaction."""
        after = self._total_bytes
        for write in txn.writes:
            after += _size(write) - self._sizes.get(write.key, 0)
        return self._total_bytes, after

    def note(self, txn: StateTxn) -> None:
        """It was carried out; the watch tells later."""
        for write in txn.writes:
            self._resize(write.key, _size(write))

    async def check(self, after_revision: int) -> int:
        """Whether changes from there on can be told. Returns: etcd's revision.

        Raises: StateCompacted if they are not kept any more, or it lies ahead; StateUnavailable, StateError.
        """
        begin = after_revision - self._origin.base
        if begin < self._origin.changed:
            raise StateCompacted("changes that far back are not kept any more")
        await self._keys.check(begin)
        return begin

    async def follow(self, after_revision: int) -> AsyncGenerator[list[StateBatch], None]:
        """Changes from there on by a watch of its own; an empty list first, once it stands, and as a sign of life.

        Raises: StateCompacted, StateUnavailable, StateError.
        """
        origin, wire = self._origin, self._keys.wire
        begin = await self.check(after_revision)
        stream, endpoint = await self._client.watch()
        try:
            held: list[Any] = []
            async for answer in _answers(stream, wire.follow(begin + 1), wire.ask_sign(), self._heartbeat_ms, endpoint):
                held += answer.events
                if answer.compact_revision:
                    raise StateCompacted("changes that far back are not kept any more")
                if answer.canceled:
                    raise unavailable(endpoint, answer.cancel_reason or "it ended the watch")
                if not answer.fragment:  # else more of the same revision is to come
                    yield wire.batches(held, origin)
                    held = []
        except BaseException as error:
            failure = self._client.translated(error, endpoint)
            if failure is None:
                raise
            if isinstance(failure, StateUnavailable):
                await self._client.turn_away(endpoint, failure)
            raise failure from error
        finally:
            stream.cancel()

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._load()
                    await self._keep_up()
                except StateCompacted as error:
                    self._forget()
                    self._lose(error)
                except OllamaMaxError as error:
                    self._lose(error)
                await asyncio.sleep(self._retry_s)
                self._retry_s = min(self._retry_s * 2.0, _LAST_RETRY_S)
        finally:  # nobody may take its silence for quiet
            self._turn(is_standing=False)

    async def _load(self) -> None:
        """Where revisions count from; and all keys, if what is known does not lead on to now."""
        origin, revision = await self._keys.origin()
        if self.changes is not None and origin == self._origin and self.changes.revision <= revision:
            return
        self._origin, whole = await self._keys.range("", linearizable=True)
        self._sizes = {entry.key: size_bytes(entry.key, entry.value) for entry in whole.entries}
        self._total_bytes = sum(self._sizes.values())
        self._forget()
        self.changes = ChangeFeed(whole.revision, self._heartbeat_ms, keep=self._keep, has_gaps=True)

    def _forget(self) -> None:
        former, self.changes = self.changes, None
        if former is not None:
            former.wake()

    async def _keep_up(self) -> None:
        assert self.changes is not None
        async with aclosing(self.follow(self.changes.revision)) as groups:
            async for batches in groups:
                self._retry_s = _FIRST_RETRY_S
                self._turn(is_standing=True)
                for batch in batches:
                    for event in batch.events:
                        entry = event.entry
                        self._resize(entry.key, 0 if event.is_delete else size_bytes(entry.key, entry.value))
                self.changes.publish(batches)

    def _lose(self, error: OllamaMaxError) -> None:
        if self.is_standing:
            _LOG.warning("etcd_lost", reason=str(error))
        self.trouble = str(error)
        self._turn(is_standing=False)

    def _turn(self, *, is_standing: bool) -> None:
        if is_standing != self.is_standing:
            self.is_standing = is_standing
            if self.changes is not None:
                self.changes.wake()
        self._turned.set()
        self._turned = asyncio.Event()

    def _resize(self, key: str, size: int) -> None:
        self._total_bytes += size - self._sizes.pop(key, 0)
        if size:
            self._sizes[key] = size


def _size(write: Put | Delete) -> int:
    return size_bytes(write.key, write.value) if isinstance(write, Put) else 0


async def _answers(stream: Any, first: Any, ask: Any, heartbeat_ms: float, endpoint: str) -> AsyncGenerator[Any, None]:
    """What the stream answers to `first`, and to `ask` at each heartbeat. Raises: StateUnavailable if it is silent."""
    loop = asyncio.get_running_loop()
    heard_s, request = loop.time(), first
    reading = asyncio.ensure_future(stream.read())
    try:
        while loop.time() - heard_s < _SILENCE_S:
            if request is not None:
                async with asyncio.timeout(_SILENCE_S):
                    await stream.write(request)
            done, _ = await asyncio.wait((reading,), timeout=heartbeat_ms / 1000.0)
            request = None if done or request is first else ask
            if done:
                if not hasattr(answer := reading.result(), "events"):  # the end of the stream
                    raise unavailable(endpoint, "it ended the watch")
                heard_s = loop.time()
                yield answer
                reading = asyncio.ensure_future(stream.read())
    except TimeoutError:
        pass
    finally:
        reading.cancel()
        await asyncio.wait((reading,))
    raise unavailable(endpoint, f"nothing was heard of it for {_SILENCE_S:g} s")
