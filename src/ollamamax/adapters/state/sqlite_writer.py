"""The one thread that writes the state: what waits together is committed together, with one sync of the disk."""

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog
from msgspec import Struct

from ollamamax.adapters.state.sqlite_ledger import Done, Ledger
from ollamamax.adapters.state.sqlite_snapshots import Snapshots
from ollamamax.core.errors import OllamaMaxError, StateCorrupt, StateUnavailable
from ollamamax.core.types import StateBatch
from ollamamax.ports import Clock

_LOG: Final = structlog.get_logger(__name__)
_MAX_GROUP: Final = 128
_MAX_WAITING: Final = 2_048

Work = Callable[[Ledger], Done]


class _Job(Struct, frozen=True, eq=False):
    work: Work
    answer: asyncio.Future[object]
    then: Callable[[object], None] | None


class Writer:
    """Owns the ledger; its thread also makes the snapshots, between two commits.

    publish: called in the event loop with the changes of each commit, before their answers arrive.
    snapshot_every_ms: after a change; one more is made at close.
    """

    def __init__(
        self,
        ledger: Ledger,
        snapshots: Snapshots,
        clock: Clock,
        publish: Callable[[list[StateBatch]], None],
        snapshot_every_ms: float,
    ) -> None:
        self._ledger = ledger
        self._snapshots = snapshots
        self._clock = clock
        self._publish = publish
        self._every_ms = snapshot_every_ms
        self._snapshot_due_ms = clock.now_ms() + (snapshot_every_ms if snapshots.all() else 0.0)
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ollamamax-state", daemon=True)
        self._thread.start()

    async def do(self, work: Work, then: Callable[[object], None] | None = None) -> object:
        """Its result, when it is on disk. A caller that is cancelled does not know whether it was done.

        then: called with the result in any case, also if the caller was cancelled.

        Raises: what the work raises, DiskFull, StateError, StateUnavailable if too much waits for the disk.
        """
        if self._jobs.qsize() >= _MAX_WAITING:
            raise StateUnavailable(f"{_MAX_WAITING} changes of the cluster's state wait for the disk already")
        answer: asyncio.Future[object] = self._loop.create_future()
        self._jobs.put(_Job(work, answer, then))
        return await answer

    def stop(self) -> None:
        """Do what waits, make a last snapshot, close the ledger. Blocking; idempotent."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            jobs, is_last = self._next_group()
            if jobs:
                self._serve(jobs)
            if self._is_snapshot_due(is_last):
                self._snapshot()
        self._ledger.close()

    def _next_group(self) -> tuple[list[_Job], bool]:
        """Waits for one, then takes all that are there; and whether these are the last."""
        pause_s = None
        if self._has_news():
            pause_s = max(0.0, (self._snapshot_due_ms - self._clock.now_ms()) / 1000.0)
        jobs: list[_Job] = []
        try:
            job = self._jobs.get(timeout=pause_s)
            while job is not None:
                jobs.append(job)
                if len(jobs) == _MAX_GROUP:
                    return jobs, False
                job = self._jobs.get_nowait()
        except queue.Empty:
            return jobs, False
        return jobs, True

    def _serve(self, jobs: list[_Job]) -> None:
        answers: list[Done | Exception]
        try:
            answers = [
                self._snapshots.advice(str(one)) if isinstance(one, StateCorrupt) else one
                for one in self._ledger.run([job.work for job in jobs])
            ]
        except Exception as error:  # noqa: BLE001 - a bug of ours must not leave all callers waiting for ever
            answers = [error] * len(jobs)
        with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._deliver, jobs, answers)

    def _deliver(self, jobs: list[_Job], answers: list[Done | Exception]) -> None:
        self._publish([one.batch for one in answers if isinstance(one, Done) and one.batch is not None])
        for job, answer in zip(jobs, answers, strict=True):
            if isinstance(answer, Done) and job.then is not None:
                job.then(answer.result)
            if job.answer.done():
                continue  # its caller was cancelled
            if isinstance(answer, Done):
                job.answer.set_result(answer.result)
            else:
                job.answer.set_exception(answer)

    def _has_news(self) -> bool:
        return self._ledger.revision > 0 and not self._snapshots.has(self._ledger.revision)

    def _is_snapshot_due(self, is_last: bool) -> bool:
        return (is_last or self._clock.now_ms() >= self._snapshot_due_ms) and self._has_news()

    def _snapshot(self) -> None:
        self._snapshot_due_ms = self._clock.now_ms() + self._every_ms
        try:
            self._snapshots.write(self._ledger.connection, self._ledger.revision)
        except OllamaMaxError as error:
            _LOG.warning("state_snapshot_failed", reason=str(error))
