"""A deadline that moves with each read, without a timer or a task per read."""

import asyncio

from ollamamax.services.patrol import Patrol


class Watchdog:
    """Cancels the current task if `watch(limit_s)` is not followed by `rest()` in time; up to 50 ms late.

    Whoever catches the CancelledError asks `has_barked()`, which takes the cancellation back. `close()` in any case.
    """

    __slots__ = ("_barked", "_due_s", "_loop", "_patrol", "_task")

    def __init__(self, patrol: Patrol) -> None:
        self._loop = patrol.loop
        self._patrol = patrol
        self._due_s: float | None = None
        """None while there is no wait."""
        self._task: asyncio.Task[object] | None = None
        self._barked = False

    def watch(self, limit_s: float) -> None:
        """A wait begins. limit_s: infinite = none."""
        if self._task is None:
            self._patrol.add(self)
        self._task = asyncio.current_task(self._loop)
        self._due_s = self._loop.time() + limit_s

    def rest(self) -> None:
        """The wait is over."""
        self._due_s = None

    def has_barked(self) -> bool:
        """Whether a CancelledError that was just caught came from here, and from nobody else as well."""
        if not self._barked or self._task is None:
            return False
        self._barked = False
        return self._task.uncancel() == 0

    def close(self) -> None:
        """No more."""
        self.has_barked()
        self._patrol.discard(self)
        self._due_s, self._task = None, None

    def look(self, now_s: float) -> None:
        """For the patrol."""
        if self._due_s is not None and now_s >= self._due_s:
            self.bark()

    def bark(self) -> None:
        """End the wait under way now, whatever its limit; nothing happens where there is none."""
        if self._due_s is not None and self._task is not None and not self._task.cancelling():
            self._barked = True
            self._due_s = None
            self._task.cancel()
