"""The one way to change what the cluster agrees on: a command, tried until it is applied to the newest state."""

import asyncio
from typing import Final

from ollamamax.core.catalog.apply import apply
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import Command
from ollamamax.core.errors import BadRequest, Conflict, OllamaMaxError, StateElsewhere, StateUnavailable
from ollamamax.ports import Dice, StateStore
from ollamamax.services.replica import Replica

_ATTEMPTS: Final = 20
_PAUSE_MS: Final = 10.0
_LAST_PAUSE_MS: Final = 200.0
_CATCH_UP_MS: Final = 2_000.0
_LIMIT_MS: Final = 10_000.0


class Control:
    """Commands of one node take turns: they would only spoil each other's compares.

    limit_ms: for one command, with its wait.
    """

    def __init__(self, store: StateStore, replica: Replica, dice: Dice, *, limit_ms: float = _LIMIT_MS) -> None:
        self._store = store
        self._replica = replica
        self._dice = dice
        self._limit_ms = limit_ms
        self._turn = asyncio.Lock()

    async def run(self, command: Command) -> Catalog:
        """Carry it out. Returns: this node's catalog, which has seen it.

        While the state is being moved, or is held by several nodes of which one was lost just now, it is tried again.
        Raises: what apply() raises by the newest state; Conflict if others change the same all the time;
        StateUnavailable, and then it may have been carried out (a repeat is harmless); DiskFull, StateError.
        """
        last: list[StateUnavailable] = []
        try:
            async with asyncio.timeout(self._limit_ms / 1000.0):
                await self._carry_out(command, last)
        except TimeoutError:
            why = f": {last[-1]}" if last else "; try again later"
            raise StateUnavailable(
                f"the cluster's state did not take the change within {self._limit_ms / 1000.0:g} s{why}"
            ) from None
        return self._replica.catalog

    async def _carry_out(self, command: Command, last: list[StateUnavailable]) -> None:
        """last: gets why it had to wait."""
        attempt = losses = 0
        is_newest = False
        while losses < _ATTEMPTS:
            try:
                async with self._turn:  # not while it waits: what ends a move has to come through
                    if attempt:
                        await self._replica.refresh()
                        is_newest = True
                    result = await self._store.txn(apply(self._replica.catalog, command))
                    if result.ok:
                        await self._see(result.revision)
                        return
                losses += 1
            except BadRequest:
                raise
            except StateUnavailable as error:
                if not self._comes_back(error):
                    raise
                last[:] = [error]
            except OllamaMaxError:
                if is_newest:
                    raise
                attempt += 1
                continue  # this node may not have seen yet what makes it right
            pause_ms = min(_PAUSE_MS * 2.0 ** min(attempt, 10), _LAST_PAUSE_MS)
            attempt += 1
            await asyncio.sleep(pause_ms * self._dice.random() / 1000.0)
        raise Conflict("others change the same part of the cluster's state all the time; try again later")

    def _comes_back(self, error: StateUnavailable) -> bool:
        """Whether it is worth waiting: one node alone that is lost may be away for long."""
        home = self._replica.catalog.home
        return home.phase == "moving" or home.kind != "sqlite" or isinstance(error, StateElsewhere)

    async def _see(self, revision: int) -> None:
        """Until this node's catalog has what was written, by what comes in or by a look."""
        if self._replica.is_following:
            try:
                await self._replica.caught_up(revision, _CATCH_UP_MS)
            except StateUnavailable:
                await self._replica.refresh()
        elif self._replica.catalog.revision < revision:
            await self._replica.refresh()
