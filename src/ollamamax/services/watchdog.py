"""A deadline that moves with each read, without a timer, a task or a look at the clock per read."""

import asyncio

from ollamamax.services.patrol import Patrol


class Watchdog:
    """Cancels the task that waits if `watch(limit_s)` is not followed by `rest()` in time; up to 100 ms late.

    One task does all the waiting up to `close()`, which follows in any case. Whoever catches the CancelledError asks
    `has_barked()`, which takes the cancellation back.
    """

    __slots__ = ("_barked", "_due_s", "_limit_s", "_patrol", "_task")

    def __init__(self, patrol: Patrol) -> None:
        self._patrol = patrol
        self._limit_s: float | None = None
        """Of the wait under way; None while there is none."""
        self._due_s: float | None = None
        """When that wait ends; None until the patrol has seen it, from when on its time counts."""
        self._task: asyncio.Task[object] | None = None
        self._barked = False

    def watch(self, limit_s: float) -> None:
        """A wait begins. limit_s: infinite = none."""
        self._limit_s = limit_s
        self._due_s = None
        if self._task is None:
            self._task = asyncio.current_task(self._patrol.loop)
            self._patrol.add(self)

    def rest(self) -> None:
        """The wait is over."""
        self._limit_s = None

    def has_barked(self) -> bool:
        """Whether a CancelledError that was just caught came from here, and from nobody else as well."""
        if not self._barked or self._task is None:
            return False
        self._barked = False
        return self._task.uncancel() == 0

    def close(self) -> None:
        """No more."""
        if self._barked:
            self.has_barked()
        self._patrol.discard(self)
        self._limit_s = self._task = None

    def look(self, now_s: float) -> None:
        """For the patrol."""
        if self._limit_s is None:
            return
        if self._due_s is None:
            self._due_s = now_s + self._limit_s
        if now_s >= self._due_s:
            self.bark()

    def bark(self) -> None:
        """End the wait under way now, whatever its limit; nothing happens where there is none."""
        if self._limit_s is not None and self._task is not None and not self._task.cancelling():
            self._barked = True
            self._limit_s = None
            self._task.cancel()
