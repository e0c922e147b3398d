"""One timer for all deadlines of a kind: setting one and taking it back costs no timer of its own."""

import asyncio
from typing import Final, Protocol

_ROUND_S: Final = 0.05


class Guarded(Protocol):
    """Something with deadlines of seconds."""

    def look(self, now_s: float) -> None:
        """See to what is due. now_s: the event loop's time."""
        ...


class Patrol:
    """Goes round every 50 ms while there is anything to look at, so deadlines are kept up to 50 ms late."""

    def __init__(self) -> None:
        self._guarded: set[Guarded] = set()
        self._is_under_way = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that all of it happens in. Asking for the running one costs a system call each time."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def add(self, one: Guarded) -> None:
        """From the next round on; `discard` must follow."""
        self._guarded.add(one)
        if not self._is_under_way:
            self._is_under_way = True
            self.loop.call_later(_ROUND_S, self._go_round)

    def discard(self, one: Guarded) -> None:
        """No more. Idempotent."""
        self._guarded.discard(one)

    def _go_round(self) -> None:
        now_s = self.loop.time()
        for one in tuple(self._guarded):
            one.look(now_s)
        self._is_under_way = bool(self._guarded)
        if self._is_under_way:
            self.loop.call_later(_ROUND_S, self._go_round)
