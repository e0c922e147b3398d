"""What other nodes tell of themselves: read as it comes, asked for where something is missing."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from ollamamax.core.errors import OllamaMaxError, PeerProtocol
from ollamamax.core.membership.deltas import FactsReader, Reading
from ollamamax.core.types import NodeFacts, NodeRecord
from ollamamax.ports import Clock, Mesh, PeerLink
from ollamamax.services.fact_sheet import FACTS

_LOG: Final = structlog.get_logger(__name__)
_ASK_MS: Final = 2_000.0
_ALL_MS: Final = 5_000.0
_EXPECT_MS: Final = 1_500.0
_AT_ONCE: Final = 8
_COMPLAIN_MS: Final = 60_000.0


class PeerFacts:
    """record: of a node that is a member.  news: called with each node whose facts are others now."""

    def __init__(
        self,
        mesh: Mesh,
        link: PeerLink,
        clock: Clock,
        record: Callable[[str], NodeRecord | None],
        news: Callable[[str], None],
    ) -> None:
        self._mesh = mesh
        self._link = link
        self._clock = clock
        self._record = record
        self._news = news
        self._readers: dict[str, FactsReader] = {}
        self._read_ms: dict[str, float] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._expected: dict[str, asyncio.TimerHandle] = {}
        self._is_closed = False
        self._complained_ms: dict[str, float] = {}

    def of(self, node_id: str) -> tuple[NodeFacts | None, float]:
        """Facts and when they came; None and 0 before the first."""
        reader = self._readers.get(node_id)
        return (None, 0.0) if reader is None else (reader.facts, self._read_ms.get(node_id, 0.0))

    def is_of(self, node_id: str, instance: str) -> bool:
        """Whether a node's facts are those of that start of it."""
        reader = self._readers.get(node_id)
        return reader is not None and reader.is_of(instance)

    def read(self, node_id: str, data: bytes) -> None:
        """A message of a member. Garbage is left alone, and logged now and then."""
        reader = self._readers.setdefault(node_id, FactsReader(node_id))
        try:
            reading = reader.read(data)
        except PeerProtocol as error:
            self._complain(node_id, str(error))
            return
        if reading is Reading.GAP:
            self.want(node_id)
        else:
            self._read_ms[node_id] = self._clock.now_ms()
            if reading is Reading.NEWS:
                self._news(node_id)

    def want(self, node_id: str) -> None:
        """Ask the node for all; once more where that is under way, since the answer may be made already."""
        if node_id in self._asking:
            self._again.add(node_id)
            return
        task = asyncio.get_running_loop().create_task(self._ask(node_id))
        self._asking[node_id] = task
        task.add_done_callback(lambda _: self._asked(node_id))

    def expect(self, node_id: str) -> None:
        """The node will tell all by itself; if it does not soon, ask."""
        if node_id not in self._expected:
            loop, now_ms = asyncio.get_running_loop(), self._clock.now_ms()
            self._expected[node_id] = loop.call_later(_EXPECT_MS / 1000, self._miss, node_id, now_ms)

    async def ask_all(self, wanted: Iterable[str]) -> None:
        """Ask all that the mesh reaches, then each of `wanted` that is still without facts."""
        answers = await self._mesh.ask(timeout_ms=_ALL_MS)
        for node_id, data in answers.items():
            if self._record(node_id) is not None:
                self.read(node_id, data)
        for node_id in wanted:
            if self.of(node_id)[0] is None:
                self.want(node_id)

    def forget(self, node_id: str) -> None:
        """It is no member any more."""
        self._readers.pop(node_id, None)
        self._read_ms.pop(node_id, None)
        self._complained_ms.pop(node_id, None)

    async def close(self) -> None:
        """Ask nobody any more."""
        self._is_closed = True
        for expected in self._expected.values():
            expected.cancel()
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _miss(self, node_id: str, since_ms: float) -> None:
        del self._expected[node_id]
        if self._read_ms.get(node_id, float("-inf")) < since_ms and self._record(node_id) is not None:
            self.want(node_id)

    def _asked(self, node_id: str) -> None:
        del self._asking[node_id]
        if node_id in self._again and not self._is_closed:
            self._again.remove(node_id)
            self.want(node_id)

    async def _ask(self, node_id: str) -> None:
        async with self._places:
            answer = (await self._mesh.ask(node_id, timeout_ms=_ASK_MS)).get(node_id)
            record = self._record(node_id)
            if record is None:
                return
            if answer is None:
                try:
                    answer = await self._link.call(record, FACTS, b"", timeout_ms=_ASK_MS)
                except OllamaMaxError as error:
                    _LOG.debug("a node does not tell its facts", node=record.name, reason=str(error))
                    return
        self.read(node_id, answer)

    def _complain(self, node_id: str, reason: str) -> None:
        now_ms = self._clock.now_ms()
        if now_ms - self._complained_ms.get(node_id, float("-inf")) >= _COMPLAIN_MS:
            self._complained_ms[node_id] = now_ms
            record = self._record(node_id)
            _LOG.warning("a node tells garbage", node=record.name if record else node_id, reason=reason)
