"""The loops of a node: each for as long as the node lives; if one fails, the node ends with its error."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Self


class Loops:
    """A context: what was started is cancelled, and its end awaited, on leaving it."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Run it from now on."""
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await self._group.__aexit__(*error)
