"""A deadline that moves with each read, without a timer or a task per read."""

import asyncio
from typing import Final

_NEVER: Final = float("inf")


class Watchdog:
    """Cancels the current task if `watch(limit_s)` is not followed by `rest()` in time.

    One timer, re-armed only when it goes off (or earlier for a shorter limit): a read costs a look-up of the time.
    Whoever catches the CancelledError asks `has_barked()`, which takes the cancellation back. `close()` in any case.
    """

    __slots__ = ("_armed_s", "_barked", "_due_s", "_loop", "_task", "_timer")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due_s = _NEVER
        self._armed_s = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._barked = False

    def watch(self, limit_s: float) -> None:
        """A wait begins. limit_s: infinite = none."""
        self._task = asyncio.current_task()
        self._due_s = due_s = self._loop.time() + limit_s
        if due_s < self._armed_s:
            self._arm(due_s)

    def rest(self) -> None:
        """The wait is over."""
        self._due_s = _NEVER

    def has_barked(self) -> bool:
        """Whether a CancelledError that was just caught came from here, and from nobody else as well."""
        if not self._barked or self._task is None:
            return False
        self._barked = False
        return self._task.uncancel() == 0

    def close(self) -> None:
        """No more."""
        if self._timer is not None:
            self._timer.cancel()
        self.has_barked()

    def _arm(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_s = due_s
        self._timer = self._loop.call_at(due_s, self._look)

    def _look(self) -> None:
        self._armed_s, self._timer = _NEVER, None
        if self._due_s == _NEVER:
            return
        if self._loop.time() < self._due_s:
            self._arm(self._due_s)
        elif self._task is not None and not self._task.cancelling():
            self._barked = True
            self._task.cancel()
