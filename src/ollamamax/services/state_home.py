"""The state wherever it lives now: on this node, on others, or first here and later there.

What a node that hosts the state tells others comes from `here()` alone, so that no question goes in circles.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, TypeVar

from ollamamax.core.errors import StateElsewhere, StateUnavailable
from ollamamax.core.types import StateBatch, StateEntry, StateRange, StateTxn, TxnResult
from ollamamax.ports import StateStore

_T = TypeVar("_T")
_NOT_HERE: Final = "this node does not hold the cluster's state"


class HomeState:
    """A StateStore. elsewhere: the state through other nodes.

    This node's own store is asked first; where it can't be reached, others are, unless that could do a thing twice.
    """

    def __init__(self, elsewhere: StateStore) -> None:
        self._elsewhere = elsewhere
        self._here: StateStore | None = None
        self._moved = asyncio.Event()
        self._is_closed = False

    def here(self) -> StateStore:
        """This node's own store. Raises: StateElsewhere if it has none."""
        if self._here is None:
            raise StateElsewhere(_NOT_HERE)
        return self._here

    async def move(self, here: StateStore | None) -> None:
        """Use another store of this node's from now on, or none; the former one is closed, and open watches end."""
        former, self._here = self._here, here
        self._moved.set()
        self._moved = asyncio.Event()
        if former is not None:
            await former.close()

    async def get(self, key: str, *, linearizable: bool = False) -> StateEntry | None:
        """See StateStore."""
        return await self._read(lambda store: store.get(key, linearizable=linearizable))

    async def range(self, prefix: str, *, linearizable: bool = False) -> StateRange:
        """See StateStore."""
        return await self._read(lambda store: store.range(prefix, linearizable=linearizable))

    async def txn(self, txn: StateTxn) -> TxnResult:
        """See StateStore."""
        return await self._once(lambda store: store.txn(txn))

    async def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[StateBatch, None]:
        """See StateStore. Ends with StateElsewhere when the state of this node moves."""
        self._check_open()
        moved = asyncio.ensure_future(self._moved.wait())
        try:
            if self._here is not None:
                has_begun = False
                try:
                    async with aclosing(self._here.watch(prefix, after_revision)) as batches:
                        while (batch := await _next(batches, moved)) is not None:
                            has_begun = True
                            yield batch
                except StateUnavailable:
                    if has_begun or moved.done():
                        raise
            async with aclosing(self._elsewhere.watch(prefix, after_revision)) as batches:
                while (batch := await _next(batches, moved)) is not None:
                    yield batch
        finally:
            moved.cancel()
        raise StateUnavailable("the watch ended")

    async def grant_lease(self, ttl_ms: int) -> int:
        """See StateStore."""
        return await self._once(lambda store: store.grant_lease(ttl_ms))

    async def renew_lease(self, lease_id: int) -> None:
        """See StateStore."""
        await self._read(lambda store: store.renew_lease(lease_id))

    async def revoke_lease(self, lease_id: int) -> None:
        """See StateStore."""
        await self._read(lambda store: store.revoke_lease(lease_id))

    async def close(self) -> None:
        """See StateStore."""
        self._is_closed = True
        await self.move(None)
        await self._elsewhere.close()

    async def _read(self, ask: Callable[[StateStore], Awaitable[_T]]) -> _T:
        """What may be done twice."""
        self._check_open()
        if self._here is None:
            return await ask(self._elsewhere)
        try:
            return await ask(self._here)
        except StateUnavailable as error:
            return await self._after(error, ask)

    async def _once(self, ask: Callable[[StateStore], Awaitable[_T]]) -> _T:
        """What may not."""
        self._check_open()
        if self._here is None:
            return await ask(self._elsewhere)
        try:
            return await ask(self._here)
        except StateElsewhere as error:
            return await self._after(error, ask)

    async def _after(self, error: StateUnavailable, ask: Callable[[StateStore], Awaitable[_T]]) -> _T:
        """Raises: the first error, which says more, if there is no elsewhere either."""
        try:
            return await ask(self._elsewhere)
        except StateUnavailable:
            raise error from None

    def _check_open(self) -> None:
        if self._is_closed:
            raise StateUnavailable("the cluster's state is closed")


async def _next(batches: AsyncGenerator[StateBatch, None], moved: asyncio.Future[Any]) -> StateBatch | None:
    """The next batch; None at the end. Raises: StateElsewhere if the state moves before."""
    coming = asyncio.ensure_future(anext(batches, None))
    try:
        await asyncio.wait((coming, moved), return_when=asyncio.FIRST_COMPLETED)
        if moved.done():
            raise StateElsewhere("the cluster's state has moved")
        return coming.result()
    finally:
        if not coming.done():
            coming.cancel()
        await asyncio.wait((coming,))
        if not coming.cancelled():
            coming.exception()  # seen: of two that came at once only one is told
