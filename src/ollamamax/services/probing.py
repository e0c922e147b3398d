"""Asking engines what they offer, which doubles as their health probe: regularly, on demand, and after failures."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import structlog
from msgspec import Struct

from ollamamax.core.errors import EngineTimeout, OllamaMaxError
from ollamamax.ports import Clock, Dice
from ollamamax.services.members import Member

_LOG = structlog.get_logger(__name__)
JITTER: Final = 0.2
"""Polls come up to a fifth earlier, so that nodes that started together do not ask together."""


class ProbeConfig(Struct, frozen=True, kw_only=True):
    """poll_ms: between two probes.  timeout_ms: for one.  backoff_min_ms, backoff_max_ms: until one that did not
    answer is asked again; doubles from the first to the last.  min_age_ms: younger facts are not asked for on
    demand, so that a flood of unknown names costs two probes a second.
    """

    poll_ms: float = 5_000.0
    timeout_ms: float = 5_000.0
    backoff_min_ms: float = 1_000.0
    backoff_max_ms: float = 30_000.0
    min_age_ms: float = 500.0


class Prober:
    """Probes members and writes what they said into them. on_change: called after each probe, with who was asked."""

    def __init__(self, clock: Clock, dice: Dice, config: ProbeConfig, on_change: Callable[[Member], None]) -> None:
        self._clock = clock
        self._dice = dice
        self._config = config
        self._on_change = on_change
        self._probes: dict[Member, asyncio.Task[None]] = {}
        self._pollers: dict[Member, asyncio.Task[None]] = {}
        self._is_running = False

    def reconfigure(self, config: ProbeConfig) -> None:
        """Other times from now on; all are asked once more at once, which begins them."""
        self._config = config
        for member in self._pollers:
            member.kick.set()

    async def run(self, members: Iterable[Member]) -> None:
        """Follow these members and those added later, until cancelled."""
        self._is_running = True
        try:
            for member in members:
                self.follow(member)
            await asyncio.Event().wait()
        finally:
            self._is_running = False
            await _end(self._pollers.values())
            self._pollers.clear()

    def follow(self, member: Member) -> None:
        """Poll it, from now on or from the start of `run`."""
        if self._is_running and member not in self._pollers:
            self._pollers[member] = asyncio.get_running_loop().create_task(self._poll(member))

    async def forget(self, member: Member) -> None:
        """Poll it no more."""
        poller = self._pollers.pop(member, None)
        if poller is not None:
            await _end([poller])

    async def close(self) -> None:
        """End all probes and polls. Idempotent."""
        await _end([*self._pollers.values(), *self._probes.values()])

    async def refresh(self, members: Iterable[Member]) -> None:
        """Probe those whose facts are not fresh."""
        due_ms = self._clock.now_ms() - self._config.min_age_ms
        await asyncio.gather(*(self.probe(member) for member in members if member.asked_ms <= due_ms))

    async def probe(self, member: Member, anew: bool = False) -> None:
        """Probe, or join the probe under way; it goes on if the caller is cancelled.

        anew: what a probe under way will tell may be old already, so one more follows it.
        """
        if anew and member in self._probes:
            await self._join(self._probes[member])
        task = self._probes.get(member)
        if task is None:
            task = self._probes[member] = asyncio.get_running_loop().create_task(self._ask(member))
        await self._join(task)

    async def _join(self, task: asyncio.Task[None]) -> None:
        await asyncio.wait([task])

    async def _ask(self, member: Member) -> None:
        reads = member.reads
        limit_s = self._config.timeout_ms / 1000
        try:
            async with asyncio.timeout(limit_s):
                offered = await member.engine.models()
        except (TimeoutError, EngineTimeout):
            # One whose answers go on meanwhile is only too busy to say what it offers.
            if member.reads == reads:
                self._failed(member, f"no answer within {limit_s:g} s")
        except OllamaMaxError as error:
            self._failed(member, str(error))
        except Exception as error:  # noqa: BLE001 - one engine's oddity must not end the watch over all
            _LOG.error("a probe failed unexpectedly", engine=member.engine_id, exc_info=error)
            self._failed(member, "internal error")
        else:
            if not member.reachable:
                _LOG.info("engine is back", engine=member.engine_id)
            member.reachable, member.error, member.failed_probes = True, "", 0
            member.confirmed_ms = self._clock.now_ms()
            member.set_models(offered)
        finally:
            member.asked_ms = self._clock.now_ms()
            del self._probes[member]
        self._on_change(member)

    def _failed(self, member: Member, reason: str) -> None:
        if member.reachable:
            _LOG.warning("engine does not say what it offers", engine=member.engine_id, reason=reason)
        member.error = reason
        member.failed_probes += 1
        # What this node's own engines offer stays known even while their store can't be read.
        member.reachable = member.attached is None

    async def _poll(self, member: Member) -> None:
        while True:
            rest_ms = member.asked_ms + self._config.min_age_ms - self._clock.now_ms()
            if rest_ms > 0:
                await asyncio.sleep(rest_ms / 1000)
            member.kick.clear()
            await self.probe(member)
            try:
                async with asyncio.timeout(self._pause_ms(member) / 1000):
                    await member.kick.wait()
            except TimeoutError:
                pass

    def _pause_ms(self, member: Member) -> float:
        pause_ms = self._config.poll_ms
        if member.failed_probes:
            doubled_ms = self._config.backoff_min_ms * 2.0 ** min(member.failed_probes - 1, 30)
            pause_ms = min(doubled_ms, self._config.backoff_max_ms)
        return pause_ms * (1.0 - JITTER * self._dice.random())


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel and await."""
    live = list(tasks)
    for task in live:
        task.cancel()
    await asyncio.gather(*live, return_exceptions=True)
