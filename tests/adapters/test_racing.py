"""Several ways to the same thing."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ollamamax.adapters.network.racing import first_of
from ollamamax.core.errors import OllamaMaxError, PeerUnavailable

LIMIT_S = 10.0


class Runners:
    """Attempts that a test ends, in the order in which they began."""

    def __init__(self, count: int) -> None:
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.discarded: list[int] = []
        self.goals: list[asyncio.Future[int]] = [asyncio.get_running_loop().create_future() for _ in range(count)]
        self.changed = asyncio.Event()

    def attempts(self) -> list[Callable[[], Awaitable[int]]]:
        return [lambda number=number: self.run(number) for number in range(len(self.goals))]  # type: ignore[misc]

    async def run(self, number: int) -> int:
        self.begun.append(number)
        self.changed.set()
        try:
            return await self.goals[number]
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise

    async def until_begun(self, count: int) -> None:
        while len(self.begun) < count:
            self.changed.clear()
            await self.changed.wait()

    async def race(self, stagger_s: float) -> int | list[OllamaMaxError]:
        async with asyncio.timeout(LIMIT_S):
            return await first_of(self.attempts(), stagger_s, self.discarded.append)


async def test_the_first_alone_if_it_succeeds_in_time() -> None:
    runners = Runners(3)
    runners.goals[0].set_result(0)
    assert await runners.race(LIMIT_S) == 0
    assert runners.begun == [0]


async def test_a_failure_starts_the_next_at_once() -> None:
    runners = Runners(2)
    runners.goals[0].set_exception(PeerUnavailable("no"))
    runners.goals[1].set_result(1)
    assert await runners.race(LIMIT_S * 2) == 1


async def test_a_slow_one_goes_on_beside_the_next() -> None:
    runners = Runners(3)
    racing = asyncio.create_task(runners.race(0.01))
    await runners.until_begun(3)
    runners.goals[2].set_exception(PeerUnavailable("no"))
    runners.goals[0].set_result(0)
    assert await racing == 0
    assert runners.cancelled == [1]


async def test_of_two_at_once_one_is_discarded() -> None:
    runners = Runners(2)
    racing = asyncio.create_task(runners.race(0.01))
    await runners.until_begun(2)
    for number in range(2):
        runners.goals[number].set_result(number)
    assert [await racing, *runners.discarded] in ([0, 1], [1, 0])


async def test_all_fail() -> None:
    runners = Runners(3)
    for number, goal in enumerate(runners.goals):
        goal.set_exception(PeerUnavailable(f"{number}"))
    failures = await runners.race(LIMIT_S)
    assert isinstance(failures, list)
    assert [str(failure) for failure in failures] == ["0", "1", "2"]


async def test_a_bug_is_no_failure() -> None:
    runners = Runners(3)
    racing = asyncio.create_task(runners.race(0.01))
    await runners.until_begun(3)
    runners.goals[1].set_exception(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        await racing
    assert sorted(runners.cancelled) == [0, 2]


async def test_who_is_cancelled_leaves_nothing_running() -> None:
    runners = Runners(2)
    racing = asyncio.create_task(runners.race(0.01))
    await runners.until_begun(2)
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert sorted(runners.cancelled) == [0, 1]


async def test_who_is_cancelled_after_the_race_was_won_gets_nothing_and_leaves_nothing() -> None:
    runners = Runners(2)
    slow = asyncio.Event()

    async def ends_slowly() -> int:
        try:
            return await runners.run(1)
        finally:
            await slow.wait()

    first = runners.attempts()[0]
    racing = asyncio.create_task(first_of([first, ends_slowly], 0.01, runners.discarded.append))
    await runners.until_begun(2)
    runners.goals[0].set_result(7)
    while not runners.cancelled:  # the race is won, and the loser is being awaited
        await asyncio.sleep(0)
    racing.cancel()
    slow.set()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert runners.discarded == [7]
