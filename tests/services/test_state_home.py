"""The state wherever it lives: here first, elsewhere where that can do no harm, and a move under a reader's feet."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from ollamamax.core.errors import StateElsewhere, StateUnavailable
from ollamamax.core.types import Compare, Put, StateTxn, TxnResult
from ollamamax.services.state_home import HomeState
from ollamamax.testing.clock import FakeClock
from ollamamax.testing.state import MemoryState

LIMIT_S = 30.0


def memory() -> MemoryState:
    return MemoryState(FakeClock(), heartbeat_ms=10.0)


def put(key: str) -> StateTxn:
    return StateTxn((Compare(key, 0),), (Put(key, b"v"),))


class Refusing(MemoryState):
    """Does nothing, and says so."""

    async def txn(self, txn: StateTxn) -> TxnResult:
        raise StateElsewhere("it does not answer")


async def keys(store: Any) -> list[str]:
    return [entry.key for entry in (await store.range("")).entries]


async def test_without_a_store_here_all_is_done_elsewhere() -> None:
    there = memory()
    home = HomeState(there)
    with pytest.raises(StateElsewhere):
        home.here()
    assert (await home.txn(put("a"))).ok
    lease_id = await home.grant_lease(1_000)
    await home.renew_lease(lease_id)
    await home.revoke_lease(lease_id)
    assert await keys(there) == ["a"]
    assert (await home.get("a", linearizable=True)) is not None


async def test_the_store_here_comes_first() -> None:
    here, there = memory(), memory()
    home = HomeState(there)
    await home.move(here)
    assert home.here() is here
    await home.txn(put("a"))
    assert await keys(here) == ["a"]
    assert await keys(there) == []


async def test_a_read_goes_elsewhere_when_the_store_here_is_lost_and_a_write_does_not() -> None:
    here, there = memory(), memory()
    await there.txn(put("a"))
    home = HomeState(there)
    await home.move(here)
    here.cut()
    assert await keys(home) == ["a"]
    with pytest.raises(StateUnavailable):
        await home.txn(put("b"))
    assert await keys(there) == ["a"]
    there.cut()
    with pytest.raises(StateUnavailable):
        await home.get("a")


async def test_a_write_that_was_not_done_here_is_done_elsewhere() -> None:
    there = memory()
    home = HomeState(there)
    await home.move(Refusing(FakeClock()))
    assert (await home.txn(put("a"))).ok
    assert await keys(there) == ["a"]
    there.cut()
    with pytest.raises(StateElsewhere):
        await home.txn(put("b"))


async def test_a_watch_goes_elsewhere_when_it_can_not_stand_here() -> None:
    here, there = memory(), memory()
    await there.txn(put("a"))
    home = HomeState(there)
    await home.move(here)
    here.cut()
    async with asyncio.timeout(LIMIT_S), aclosing(home.watch("", 0)) as batches:
        seen = [event.entry.key async for batch in _some(batches) for event in batch.events]
    assert seen == ["a"]


@pytest.mark.parametrize("moves_to_none", [True, False])
async def test_a_move_ends_watches_and_closes_the_former_store(moves_to_none: bool) -> None:
    here, there = memory(), memory()
    home = HomeState(there)
    await home.move(here)
    async with asyncio.timeout(LIMIT_S), aclosing(home.watch("", 0)) as batches:
        await anext(batches)
        await home.move(None if moves_to_none else memory())
        with pytest.raises(StateUnavailable):
            async for _ in batches:
                pass
    with pytest.raises(StateUnavailable):
        await here.get("a")


async def test_a_move_ends_a_watch_elsewhere_too() -> None:
    home = HomeState(memory())
    async with asyncio.timeout(LIMIT_S), aclosing(home.watch("", 0)) as batches:
        await anext(batches)
        await home.move(memory())
        with pytest.raises(StateUnavailable, match="moved"):
            async for _ in batches:
                pass


async def test_closed_is_closed_here_and_elsewhere() -> None:
    here, there = memory(), memory()
    home = HomeState(there)
    await home.move(here)
    await home.close()
    for store in (home, here, there):
        with pytest.raises(StateUnavailable):
            await store.range("")
    with pytest.raises(StateUnavailable):
        await anext(home.watch("", 0))


async def _some(batches: Any) -> Any:
    async for batch in batches:
        yield batch
        if batch.events:
            return
