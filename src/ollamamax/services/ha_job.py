"""Work that goes on when who asked for it has gone; one at a time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from ollamamax.core.errors import Conflict
from ollamamax.core.types import Progress


class Jobs:
    """close() ends what is under way."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._what = ""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return self._task is None or self._task.done()

    async def follow(self, what: str, work: AsyncGenerator[Progress, None]) -> AsyncGenerator[Progress, None]:
        """Begin it, and tell its steps. what: in words, for who comes while it is under way.

        Raises: Conflict if another one is; what it raises.
        """
        if not self.is_idle:
            await work.aclose()
            raise Conflict(f"this node is busy: {self._what}; wait until it is done (`ollamamax cluster ha status`)")
        steps: list[Progress] = []
        news = asyncio.Event()
        self._what = what
        self._task = task = asyncio.create_task(_work(work, steps, news), name=what)
        told = 0
        while True:
            news.clear()
            while told < len(steps):
                told += 1
                yield steps[told - 1]
            if not task.done():
                await news.wait()
            elif told == len(steps):
                break
        if task.cancelled():
            raise Conflict(f"the node is stopping: {what} was broken off")
        task.result()

    async def close(self) -> None:
        """Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


async def _work(work: AsyncGenerator[Progress, None], steps: list[Progress], news: asyncio.Event) -> None:
    task = asyncio.current_task()
    assert task is not None, "it runs in one"
    task.add_done_callback(lambda done: _ended(done, news))
    async with aclosing(work):
        async for step in work:
            steps.append(step)
            news.set()


def _ended(task: asyncio.Task[None], news: asyncio.Event) -> None:
    """Nobody may look on any more: an error is seen here, so that it is not told as one that nobody has seen."""
    if not task.cancelled():
        task.exception()
    news.set()
