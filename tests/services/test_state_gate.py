"""A store that is no more the home: it takes nothing, tells once where the state went, and then sends away."""

import asyncio

import pytest

from ollamamax.core.catalog import records
from ollamamax.core.catalog.records import HOME_KEY
from ollamamax.core.errors import StateElsewhere, StateError, StateUnavailable
from ollamamax.core.types import Compare, Put, StateEntry, StateHome, StateRange, StateTxn
from ollamamax.services.state_copy import copy, digest
from ollamamax.services.state_gate import Gate
from ollamamax.testing.clock import FakeClock
from ollamamax.testing.state import MemoryState

HERE = StateHome(hosts=("1" * 16,))
AWAY = StateHome(kind="etcd", hosts=("1" * 16,), generation=1)
MOVING = StateHome(hosts=("1" * 16,), phase="moving", mover="1" * 16, target=AWAY)


def gated(store: MemoryState) -> Gate:
    return Gate(store, lambda home: home is None or home.kind == "sqlite")


def memory() -> MemoryState:
    return MemoryState(FakeClock(), heartbeat_ms=10.0)


def put(key: str, *compares: Compare) -> StateTxn:
    return StateTxn(compares, (Put(key, b"v"),))


async def tell(store: MemoryState, home: StateHome) -> int:
    return (await store.txn(StateTxn((), (Put(HOME_KEY, records.encode(home)),)))).revision


async def test_while_it_is_the_home_it_is_as_the_store() -> None:
    store = memory()
    gate = gated(store)
    assert (await gate.txn(put("a", Compare(HOME_KEY, 0)))).ok
    assert await gate.get("a", linearizable=True) == await store.get("a")
    assert await gate.range("", linearizable=True) == await store.range("")
    lease_id = await gate.grant_lease(1_000)
    await gate.renew_lease(lease_id)
    await gate.revoke_lease(lease_id)


async def test_while_it_moves_only_the_end_of_the_move_is_taken() -> None:
    store = memory()
    gate = gated(store)
    await tell(store, HERE)
    since = await tell(store, MOVING)
    for txn in (put("a"), put("a", Compare(HOME_KEY, since))):
        with pytest.raises(StateUnavailable, match="being moved"):
            await gate.txn(txn)
    assert (await gate.txn(StateTxn((), (Put(HOME_KEY, records.encode(AWAY)),)))).ok


async def test_what_was_left_takes_nothing() -> None:
    store = memory()
    gate = gated(store)
    since = await tell(store, HERE)
    assert (await gate.txn(put("a", Compare(HOME_KEY, since)))).ok
    now = await tell(store, AWAY)
    assert not (await gate.txn(put("b", Compare(HOME_KEY, since)))).ok, "by what it compares"
    for txn in (put("b"), put("b", Compare(HOME_KEY, now))):
        with pytest.raises(StateElsewhere):
            await gate.txn(txn)
    with pytest.raises(StateElsewhere):
        await gate.range("", linearizable=True)
    with pytest.raises(StateElsewhere):
        await gate.get("a", linearizable=True)
    assert await gate.get("b") is None
    assert (await gate.range("a")).entries


async def test_who_follows_hears_where_it_went_and_no_more() -> None:
    store = memory()
    gate = gated(store)
    await tell(store, HERE)
    batches = gate.watch("", 0)
    assert (await anext(batches)).events == ()
    [told] = (await anext(batches)).events
    assert told.entry.key == HOME_KEY
    now = await tell(store, AWAY)
    async with asyncio.timeout(30):
        while not (batch := await anext(batches)).events:
            continue
        assert batch.revision == now
        with pytest.raises(StateElsewhere):
            await anext(batches)
        with pytest.raises(StateElsewhere):
            await anext(gate.watch("", now))
        late = gate.watch("", now - 1)
        await anext(late)
        assert (await anext(late)).revision == now


async def test_a_copy_is_whole_or_refused() -> None:
    entries = tuple(StateEntry(f"k{number:04}", b"x" * 3_000, 1, 1) for number in range(700))
    leased = StateEntry("z", b"", 1, 1, lease_id=9)
    there = memory()
    done = [count async for count in copy(StateRange(5, (*entries, leased)), there)]
    assert done[-1] == 700
    assert len(done) > 3
    assert digest((await there.range("")).entries) == digest(entries)
    assert digest(entries[1:]) != digest(entries)
    stained = memory()
    await stained.txn(put("stranger"))
    with pytest.raises(StateError, match="differs"):
        _ = [count async for count in copy(StateRange(5, entries), stained)]
