"""Tells the other nodes what this one says of itself: what changed, when it changed, and at most twice a
second unless it is urgent.

When nothing has changed for a while after that, the number of the last message is told once more, so that whoever
missed it notices.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
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
_ECHO_MS: Final = 2_000.0
_LOOK_MS: Final = 5_000.0


class FactSheet:
    """source: the facts as they are now; called in the event loop, cheap.

    gap_ms: between two messages.  echo_ms: from the last message to its echo.  look_ms: how often facts are looked at
    although nobody said that they changed.
    """

    def __init__(
        self,
        source: Callable[[], NodeFacts],
        mesh: Mesh,
        clock: Clock,
        *,
        gap_ms: float = _GAP_MS,
        echo_ms: float = _ECHO_MS,
        look_ms: float = _LOOK_MS,
    ) -> None:
        self._source = source
        self._mesh = mesh
        self._clock = clock
        self._gap_ms = gap_ms
        self._echo_ms = echo_ms
        self._look_ms = look_ms
        self._writer = FactsWriter()
        self._has_told = False
        self._must_echo = False
        self._must_retell = False
        self._told_ms = float("-inf")
        self._touched = asyncio.Event()
        self._hurried = asyncio.Event()
        mesh.answer(self.whole)

    def touch(self) -> None:
        """Something may have changed. Cheap: call it whenever."""
        self._touched.set()

    def hurry(self) -> None:
        """Something has changed that the others should know before the gap is over."""
        self._hurried.set()
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
            await self._wait()
            if self._must_echo and self._clock.now_ms() - self._told_ms >= self._echo_ms:
                self._must_echo = False
                await self._publish(self._writer.echo())
            rest_ms = self._told_ms + self._gap_ms - self._clock.now_ms()
            if rest_ms > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(rest_ms / 1000):
                        await self._hurried.wait()
            self._hurried.clear()
            self._touched.clear()
            await self._tell()

    async def _tell(self) -> None:
        data = self._delta()
        if self._must_retell:
            data = self._writer.whole()
        if data is None:
            return
        self._must_retell, self._must_echo = False, True
        self._told_ms = self._clock.now_ms()
        await self._publish(data)

    async def _publish(self, data: bytes) -> None:
        try:
            await self._mesh.publish(data)
        except OllamaMaxError as error:
            _LOG.warning("this node's facts were not told", reason=str(error))
            self._must_retell = True

    async def _wait(self) -> None:
        """Until somebody says that something changed, or it is time for a look or an echo."""
        wait_ms = self._look_ms
        if self._must_echo:
            wait_ms = min(wait_ms, max(self._told_ms + self._echo_ms - self._clock.now_ms(), 1.0))
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_ms / 1000):
                await self._touched.wait()

    def _delta(self) -> bytes | None:
        data = self._writer.delta(self._source())
        self._has_told = True
        return data

    async def _answer(self, caller: Caller, body: bytes) -> bytes:
        return self.whole()
