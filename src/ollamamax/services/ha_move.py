"""Moves the state from one home to another, and brings a move that was cut short to its one end.

Nobody writes while it is copied. The new home is told first that it is the home; from there on the move is finished,
whatever happens, before that it is undone. Which of the two holds the mover finds out by a look at the new home.
"""

from collections.abc import AsyncGenerator
from typing import Final

import structlog

from ollamamax.core.catalog import records
from ollamamax.core.catalog.apply import apply
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import BeginMove, FinishMove, UndoMove
from ollamamax.core.catalog.records import HOME_KEY
from ollamamax.core.errors import Conflict, OllamaMaxError, StateError
from ollamamax.core.types import Progress, StateHome
from ollamamax.ports import OwnStates, StateStore
from ollamamax.services.control import Control
from ollamamax.services.replica import Replica
from ollamamax.services.state_copy import STEP, copy, lasting
from ollamamax.services.state_home import HomeState
from ollamamax.services.voter import Voter

_LOG: Final = structlog.get_logger(__name__)


class HomeMover:
    """me: this node's id. It has to be able to reach both homes itself."""

    def __init__(
        self, me: str, voter: Voter, own: OwnStates, state: HomeState, replica: Replica, control: Control
    ) -> None:
        self._me = me
        self._voter = voter
        self._own = own
        self._state = state
        self._replica = replica
        self._control = control

    async def move(self, target: StateHome) -> AsyncGenerator[Progress, None]:
        """From where it is to there. Raises: what BeginMove raises; StateError, StateUnavailable, DiskFull, StoreError:
        then settle() is due.
        """
        moving = (await self._control.run(BeginMove(target, self._me))).home.target
        if moving is None:
            raise Conflict("somebody else has ended this move of the cluster's state; look at `cluster ha status`")
        whole = await self._state.range("", linearizable=True)
        total = len(lasting(whole))
        store = await self._begin(moving, whole.revision + STEP)
        try:
            async for done in copy(whole, store):
                yield Progress(f"copying the state: {done} of {total} entries")
            yield Progress("switching over")
            catalog = Catalog.from_range(await store.range("", linearizable=True))
            if not (await store.txn(apply(catalog, FinishMove(moving)))).ok:
                raise StateError("somebody else writes to the new home of the cluster's state")
        finally:
            await store.close()
        await self._leave(moving)

    async def settle(self) -> None:
        """End a move of this node's that nobody works at.

        Raises: StateUnavailable while it can't be known which end is right; try again later.
        """
        home = self._replica.catalog.home
        target = home.target
        if home.phase != "moving" or target is None or home.mover != self._me:
            return
        if await self._has_arrived(target):
            _LOG.info("finishing a move of the state that was cut short", to=target.kind)
            await self._leave(target)
            return
        _LOG.info("undoing a move of the state that was cut short", to=target.kind)
        await self._control.run(UndoMove(target))
        if target.kind == "sqlite":
            await self._own.discard(target.generation)

    async def _begin(self, target: StateHome, after_revision: int) -> StateStore:
        """The new home, empty."""
        if target.kind == "sqlite":
            return await self._own.begin(target.generation, after_revision)
        store = await self._voter.store(target)
        try:
            await store.begin(after_revision)
        except BaseException:
            await store.close()
            raise
        return store

    async def _leave(self, target: StateHome) -> None:
        """Tell the old home where the state is now, as its last change; then go there.

        What goes wrong changes nothing any more: who does not hear of it finds the state by asking around.
        """
        try:
            await self._control.run(FinishMove(target))
        except OllamaMaxError as error:
            _LOG.info("the former home of the state may not know of the move", reason=str(error))
        self._voter.learn(target)
        await self._voter.step()

    async def _has_arrived(self, target: StateHome) -> bool:
        """Whether the new home was told that it is the home. Raises: StateUnavailable, StateError, StoreError."""
        if target.kind == "sqlite":
            own = await self._own.reopen(target.generation)
        else:
            own = await self._voter.store(target) if target.kind == "external" or self._voter.has(target) else None
        if own is None:
            return False
        try:
            entry = await own.get(HOME_KEY, linearizable=True)
        finally:
            await own.close()
        home = records.decode(HOME_KEY, entry.value) if entry is not None else None
        return isinstance(home, StateHome) and home.phase == "steady" and home.generation >= target.generation
