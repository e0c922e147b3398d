"""Asks other nodes directly whether they are there: when the detector wants it, and never too many at once."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from ollamamax.core.errors import CertificateRefused, OllamaMaxError, PeerError, PeerTimeout
from ollamamax.core.membership.detector import Probe, ProbeAnswered, ProbeFailed
from ollamamax.core.types import NodeRecord
from ollamamax.ports import Dice, PeerLink
from ollamamax.services.node_host import PING, Pong, decode_pong

_LOG: Final = structlog.get_logger(__name__)
_GRACE_MS: Final = 500.0
"""Beyond the deadline that the link is given."""


class PeerProbes:
    """record: of a node that is still a member.  report: called with each outcome; pong: None if there is none.

    at_once: so many questions are under way at most.
    """

    def __init__(
        self,
        link: PeerLink,
        dice: Dice,
        record: Callable[[str], NodeRecord | None],
        report: Callable[[ProbeAnswered | ProbeFailed, Pong | None], None],
        *,
        timeout_ms: float,
        at_once: int,
    ) -> None:
        self._link = link
        self._dice = dice
        self._record = record
        self._report = report
        self._timeout_ms = timeout_ms
        self._places = asyncio.Semaphore(at_once)
        self._planned: dict[str, asyncio.TimerHandle] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_closed = False

    def plan(self, probe: Probe) -> None:
        """Ask when it says; a question that is under way stands for it."""
        self.spare(probe.node_id)
        if self._is_closed or probe.node_id in self._tasks:
            return
        wait_ms = probe.after_ms + self._dice.random() * probe.spread_ms
        self._planned[probe.node_id] = asyncio.get_running_loop().call_later(wait_ms / 1000, self._start, probe.node_id)

    def spare(self, node_id: str) -> None:
        """Take back a question that has not been sent."""
        planned = self._planned.pop(node_id, None)
        if planned is not None:
            planned.cancel()

    async def close(self) -> None:
        """Ask nobody any more."""
        self._is_closed = True
        for planned in self._planned.values():
            planned.cancel()
        self._planned.clear()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, node_id: str) -> None:
        del self._planned[node_id]
        self._tasks[node_id] = asyncio.get_running_loop().create_task(self._probe(node_id))

    async def _probe(self, node_id: str) -> None:
        outcome: ProbeAnswered | ProbeFailed = ProbeFailed(node_id, is_silence=False)
        pong: Pong | None = None
        try:
            async with self._places:
                record = self._record(node_id)
                if record is not None:
                    outcome, pong = await self._ask(record)
        finally:
            del self._tasks[node_id]
        if not self._is_closed:
            self._report(outcome, pong)

    async def _ask(self, record: NodeRecord) -> tuple[ProbeAnswered | ProbeFailed, Pong | None]:
        node_id = record.node_id
        try:
            async with asyncio.timeout((self._timeout_ms + _GRACE_MS) / 1000):
                pong = decode_pong(await self._link.call(record, PING, b"", timeout_ms=self._timeout_ms))
        except (PeerTimeout, TimeoutError):
            _LOG.debug("a node is silent", node=record.name)
            return ProbeFailed(node_id, is_silence=True), None
        except (PeerError, CertificateRefused) as error:
            _LOG.debug("a node is not there", node=record.name, reason=str(error))
            return ProbeFailed(node_id, is_silence=False), None
        except OllamaMaxError as error:
            # It is there, and says so by an error of its own.
            _LOG.debug("a node answers a ping with an error", node=record.name, reason=str(error))
            return ProbeAnswered(node_id), None
        if pong.node_id != node_id:
            _LOG.warning("a node answers for another", node=record.name)
            return ProbeFailed(node_id, is_silence=False), None
        return ProbeAnswered(node_id), pong
