"""Several ways to the same thing, the next one tried as soon as the one before fails or takes its time.

Source: RFC 8305 (Happy Eyeballs), section 5, without its sorting: the order given is the order of preference.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ollamamax.core.errors import OllamaMaxError

T = TypeVar("T")


async def first_of(
    attempts: Sequence[Callable[[], Awaitable[T]]], stagger_s: float, discard: Callable[[T], None]
) -> T | list[OllamaMaxError]:
    """What the first attempt that succeeds gives; else why each failed, in the order of failing.

    discard: called with what a slower one gives all the same. All attempts have ended when this returns or raises.
    Raises: what an attempt raises that is no OllamaMaxError.
    """
    failures: list[OllamaMaxError] = []
    running: set[asyncio.Task[T]] = set()
    waiting = list(attempts)

    def drop(late: asyncio.Task[T]) -> None:
        if not late.cancelled() and late.exception() is None:
            discard(late.result())

    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(_run(waiting.pop(0))))
            done, _ = await asyncio.wait(
                running, timeout=stagger_s if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                running.discard(task)
                failure = task.exception()
                if failure is None:
                    await _end(running, drop, task)
                    return task.result()
                if not isinstance(failure, OllamaMaxError):
                    raise failure
                failures.append(failure)
        return failures
    finally:
        await _end(running, drop)


async def _end(
    running: "set[asyncio.Task[T]]", drop: "Callable[[asyncio.Task[T]], None]", winner: "asyncio.Task[T] | None" = None
) -> None:
    """Cancel and await those that run. What they give all the same is dropped; if we are cancelled, the winner too."""
    ending = tuple(running)
    running.clear()
    for task in ending:
        task.add_done_callback(drop)
        task.cancel()
    try:
        await asyncio.gather(*ending, return_exceptions=True)
    except asyncio.CancelledError:
        if winner is not None:
            drop(winner)
        raise


async def _run(attempt: Callable[[], Awaitable[T]]) -> T:
    return await attempt()
