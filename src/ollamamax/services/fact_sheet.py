"""Tells the other nodes what this one says of itself: what changed, when it changed, and at most twice a second."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from ollamamax.core.errors import OllamaMaxError
from ollamamax.core.membership.deltas import FactsWriter
from ollamamax.core.types import NodeFacts
from ollamamax.ports import Caller, Clock, Mesh, PeerMethods

_LOG: Final = structlog.get_logger(__name__)
FACTS: Final = "node.facts"
"""The peer method that answers all of a node's facts."""
_GAP_MS: Final = 500.0
_LOOK_MS: Final = 5_000.0


class FactSheet:
    """source: the facts as they are now; called in the event loop, cheap.

    gap_ms: between two messages.  look_ms: how often facts are looked at although nobody said that they changed.
    """

    def __init__(
        self,
        source: Callable[[], NodeFacts],
        mesh: Mesh,
        clock: Clock,
        *,
        gap_ms: float = _GAP_MS,
        look_ms: float = _LOOK_MS,
    ) -> None:
        self._source = source
        self._mesh = mesh
        self._clock = clock
        self._gap_ms = gap_ms
        self._look_ms = look_ms
        self._writer = FactsWriter()
        self._has_told = False
        self._must_retell = False
        self._told_ms = float("-inf")
        self._touched = asyncio.Event()
        mesh.answer(self.whole)

    def touch(self) -> None:
        """Something may have changed. Cheap: call it whenever."""
        self._touched.set()

    def retell(self) -> None:
        """The others may have missed something: tell them all, soon."""
        self._must_retell = True
        self._touched.set()

    def whole(self) -> bytes:
        """All that was told so far, as one message."""
        if not self._has_told:
            self._delta()
        return self._writer.whole()

    def methods(self) -> PeerMethods:
        """`node.facts`, for nodes that the mesh does not reach."""
        return PeerMethods(unary={FACTS: self._answer})

    async def run(self) -> None:
        """Tell what changes, until cancelled. The first change after a quiet time is told at once."""
        self._touched.set()
        while True:
            try:
                async with asyncio.timeout(self._look_ms / 1000):
                    await self._touched.wait()
            except TimeoutError:
                pass
            rest_ms = self._told_ms + self._gap_ms - self._clock.now_ms()
            if rest_ms > 0:
                await asyncio.sleep(rest_ms / 1000)
            self._touched.clear()
            await self._tell()

    async def _tell(self) -> None:
        data = self._delta()
        if self._must_retell:
            data = self._writer.whole()
        if data is None:
            return
        self._must_retell = False
        self._told_ms = self._clock.now_ms()
        try:
            await self._mesh.publish(data)
        except OllamaMaxError as error:
            _LOG.warning("this node's facts were not told", reason=str(error))
            self._must_retell = True

    def _delta(self) -> bytes | None:
        data = self._writer.delta(self._source())
        self._has_told = True
        return data

    async def _answer(self, caller: Caller, body: bytes) -> bytes:
        return self.whole()
