"""The state on several nodes: spread, brought back, members replaced, moves cut short; all in memory."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from ha_world import LIMIT_S, HaNode, World

from ollamamax.core.catalog import records
from ollamamax.core.catalog.commands import BeginMove
from ollamamax.core.errors import BadRequest, Conflict, NodeNotFound, StateCorrupt, StateUnavailable
from ollamamax.core.types import EtcdAlarm, Put, StateHome, StateTxn, TxnResult


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World(4) as made:
        yield made


async def enable(node: HaNode, voters: int = 3, *names: str) -> list[str]:
    steps = await node.world.told(node.ha.enable(voters, names, False))
    there = [one for one in node.world.nodes if one.is_up]
    await node.world.eventually(lambda: all(one.replica.catalog.home.kind == "etcd" for one in there))
    return steps


async def are_at(world: World, kind: str, *names: str) -> None:
    """All nodes that are up know that the state is there, and their own part is true."""
    ids = tuple(node.id for node in world.nodes if node.name in names)

    def is_so(node: HaNode) -> bool:
        home = node.replica.catalog.home
        runs = world.running().get(node.id, 0) == (kind == "etcd" and node.id in ids)
        return (home.kind, home.hosts, home.phase, node.voter.trouble) == (kind, ids, "steady", "") and runs

    await world.eventually(lambda: all(is_so(node) for node in world.nodes if node.is_up))


async def test_it_is_spread_and_brought_back(world: World) -> None:
    first, second, _, fourth = world.nodes
    before = await second.write()
    steps = await enable(fourth)
    assert steps[0] == "looking at n1, n2, n3"
    assert steps[-1] == "success"
    await are_at(world, "etcd", "n1", "n2", "n3")
    written = [await node.write() for node in world.nodes]
    assert await first.has(before, *written)
    assert [node.keys.authority is not None for node in world.nodes] == [True, True, True, False]
    assert (await first.ha.status()).survives == 1
    assert first.ha.degraded() == []
    assert (await world.told(fourth.ha.disable("n2")))[-1] == "success"
    await are_at(world, "sqlite", "n2")
    assert await fourth.has(before, *written, await first.write())
    assert not any(node.seats.kept for node in world.nodes)


async def test_the_former_home_takes_nothing_more(world: World) -> None:
    first = world.nodes[0]
    file = first.own.files[0]
    await enable(first)
    revision = (await file.range("")).revision
    assert (await first.own.find(make=False))[0] is None
    await first.write()
    assert (await file.range("")).revision == revision


async def test_a_change_waits_while_the_state_moves(world: World) -> None:
    first, second, *_ = world.nodes
    await first.control.run(BeginMove(StateHome(kind="etcd", hosts=(first.id,)), first.id))
    written = await asyncio.wait_for(second.write(), LIMIT_S)  # nobody works at that move: it is undone meanwhile
    assert await first.has(written)
    assert first.replica.catalog.home.kind == "sqlite"
    assert first.replica.catalog.home.generation == 1


@pytest.mark.parametrize("lives", range(1, 8))
async def test_a_mover_that_dies_at_any_step(lives: int) -> None:
    """Its etcd and its disk do no more after so many writes; then it starts anew."""
    async with World(3) as world:
        first, second, _ = world.nodes
        kept = await first.write()
        left = lives

        async def txn(store: object, real: object, asked: StateTxn) -> TxnResult:
            nonlocal left
            if left <= 0:
                raise asyncio.CancelledError
            left -= 1
            result: TxnResult = await real(asked)  # type: ignore[operator]
            return result

        file, etcd = first.own.files[0], world.etcds.store
        for store in (file, etcd):
            real = store.txn
            store.txn = lambda asked, store=store, real=real: txn(store, real, asked)  # type: ignore[method-assign]
        steps: list[str] = []

        async def work() -> None:
            async for step in first.ha.enable(3, (), False):
                steps.append(step.status)

        task = asyncio.create_task(work())
        await asyncio.wait([task], timeout=LIMIT_S)
        await first.stop(is_kill=True)
        for store in (file, etcd):
            del store.txn  # type: ignore[attr-defined]
        await first.start(founds=True)
        written = await asyncio.wait_for(second.write(), LIMIT_S)
        await world.eventually(lambda: first.replica.catalog.home.phase == "steady")
        assert await first.has(kept, written)
        assert await second.has(kept, written)
        assert first.replica.catalog.home.kind == second.replica.catalog.home.kind


async def test_all_may_forget_the_last_minute(world: World) -> None:
    first, second, third, _ = world.nodes
    old = [node.snapshot.state for node in world.nodes]
    await enable(first)
    written = await second.write()
    for node in world.nodes:
        await node.stop(is_kill=True)
    for node, state in zip(world.nodes, old, strict=True):
        node.snapshot.state = state
        await node.start(founds=node is first)
    await are_at(world, "etcd", "n1", "n2", "n3")
    assert await third.has(written)


async def test_a_damaged_file_that_was_left_does_no_harm(world: World) -> None:
    first, second, *_ = world.nodes
    damaged = StateCorrupt("damaged")
    first.own.fault = damaged
    await first.stop()
    with pytest.raises(StateCorrupt):
        await first.start(founds=True)
    first.own.fault = None
    await first.start(founds=True)
    await enable(first)
    first.own.fault = damaged
    await first.stop()
    await first.start(founds=True)
    assert await first.has(await second.write())


async def test_one_that_was_away_during_a_move(world: World) -> None:
    first, second, third, fourth = world.nodes
    await fourth.stop()
    await enable(first)
    await first.stop()
    await fourth.start()
    fourth.voter.heard(second.record, second.voter.generation)
    written = await fourth.write()
    assert await third.has(written)


async def test_a_dead_one_is_replaced(world: World) -> None:
    first, second, third, fourth = world.nodes
    await enable(first)
    await first.stop()
    [told] = second.ha.degraded()
    assert "n1 out of reach" in told
    assert (await world.told(third.ha.replace("n1", "n4")))[-1] == "success"
    await are_at(world, "etcd", "n2", "n3", "n4")
    assert await world.told(second.ha.replace("n1", "n4")) == ["success"]
    assert fourth.keys.authority is not None
    written = await fourth.write()
    await first.start()
    await are_at(world, "etcd", "n2", "n3", "n4")
    assert await first.has(written)
    assert {one.name for one in world.etcds.listed.values()} == {second.id, third.id, fourth.id}


async def test_one_that_is_removed_is_replaced_or_left_out(world: World) -> None:
    first, second, third, fourth = world.nodes
    await second.ha.let_go(third.id)  # nothing to do yet
    await enable(first)
    await second.ha.let_go(third.id)
    await are_at(world, "etcd", "n1", "n2", "n4")
    await third.stop()
    await second.ha.let_go(fourth.id)
    await are_at(world, "etcd", "n1", "n2")


async def test_a_replacement_that_fails_leaves_no_member_and_can_be_repeated(world: World) -> None:
    first, *_, fourth = world.nodes
    await enable(first)
    world.etcds.unready.add(fourth.id)
    with pytest.raises(Conflict, match="n4: etcd on this node was not ready"):
        await world.told(first.ha.replace("n3", "n4"))
    assert fourth.id not in {one.name for one in world.etcds.listed.values()}
    world.etcds.unready.clear()
    await world.told(first.ha.replace("n3", "n4"))
    await are_at(world, "etcd", "n1", "n2", "n4")


async def test_who_can_not_is_named_and_nothing_is_changed(world: World) -> None:
    first, second, third, _ = world.nodes
    world.etcds.missing.add(second.id)
    world.busy_ports[third.id] = "port 11437 can't be used"
    with pytest.raises(Conflict, match=r"n2: etcd was not found.*n3: port 11437"):
        await enable(first)
    world.etcds.missing.clear()
    world.busy_ports.clear()
    second.seats.free = 1 << 20
    with pytest.raises(Conflict, match="n2: its disk has only 1 MiB"):
        await enable(first)
    second.seats.free = 1 << 40
    world.etcds.unready.add(third.id)
    with pytest.raises(Conflict, match="n3: etcd on this node was not ready"):
        await enable(first)
    assert not world.running()
    assert not any(node.seats.kept for node in world.nodes)
    assert first.replica.catalog.home.kind == "sqlite"


async def test_who_asks_for_what_can_not_be(world: World) -> None:
    first, _, third, _ = world.nodes
    await third.stop()
    with pytest.raises(Conflict, match="only 3 can be reached"):
        await enable(first, 5)
    with pytest.raises(BadRequest, match="an odd number"):
        await enable(first, 0, "n1", "n2")
    with pytest.raises(Conflict, match="n1 holds the cluster's state now"):
        await enable(first, 0, "n2", "n4")
    with pytest.raises(Conflict, match="n3 can't be reached"):
        await enable(first, 0, "n1", "n2", "n3")
    with pytest.raises(NodeNotFound):
        await enable(first, 0, "n1", "box", "n2")
    with pytest.raises(BadRequest, match="1 to 7"):
        await enable(first, 9)
    with pytest.raises(Conflict, match="n1 alone holds"):
        await world.told(first.ha.disable(""))
    with pytest.raises(Conflict, match=r"state\.endpoints"):
        await world.told(first.ha.enable(3, ("n1",), True))


async def test_two_at_once(world: World) -> None:
    first, second, *_ = world.nodes
    done = await asyncio.gather(enable(first), enable(second), return_exceptions=True)
    refused = [one for one in done if isinstance(one, Conflict)]
    assert len(refused) == 1, done
    await are_at(world, "etcd", "n1", "n2", "n3")
    with pytest.raises(Conflict, match="on etcd at n1, n2, n3 already"):
        await enable(second)


async def test_without_a_majority_the_way_out_is_told(world: World) -> None:
    first, second, third, _ = world.nodes
    await enable(first)
    await second.stop()
    await third.stop()
    world.etcds.store.cut()
    told = await first.ha.status()
    assert told.survives == 0
    assert "cluster restore FILE" in " ".join(told.trouble)
    with pytest.raises(StateUnavailable):
        await first.ha.backup()
    world.etcds.store.cut(False)


async def test_copies_of_each_hour_and_room_in_the_files(world: World) -> None:
    first, *_ = world.nodes
    await enable(first)
    await are_at(world, "etcd", "n1", "n2", "n3")
    await first.care.step()
    await first.care.step()
    assert len(first.backups.made) == 1
    world.clock.advance(3_600_001)
    await first.care.step()
    assert len(first.backups.made) == 2
    assert world.etcds.done == []
    world.etcds.db_bytes = 65 << 20
    for node in world.nodes[:3]:
        await node.care.step()
    assert world.etcds.done == ["defragment"], "one at a time"
    world.etcds.done.clear()
    world.etcds.db_bytes = 1 << 20
    world.etcds.alarms.append(EtcdAlarm(1, "NOSPACE"))
    await first.care.step()
    assert world.etcds.done == ["compact", "defragment", "disarm"]
    assert [event.kind for event in first.events] == ["state_full", "state_room"]


async def test_a_home_that_was_restored_elsewhere_wins(world: World) -> None:
    """Of a generation that is newer: the former hosts give in as soon as they hear of it."""
    first, second, third, fourth = world.nodes
    await enable(first)
    whole = await first.state.range("")
    restored = await fourth.own.begin(9, whole.revision + 1_000_000)
    writes = [Put(entry.key, entry.value) for entry in whole.entries if entry.key != "state/home"]
    await restored.txn(StateTxn((), tuple(writes)))
    await fourth.stop()
    home = records.encode(StateHome(hosts=(fourth.id,), generation=9))
    await restored.txn(StateTxn((), (Put("state/home", home),)))
    await fourth.start()
    for node in (first, second, third):
        node.voter.heard(fourth.record, fourth.voter.generation)
    await are_at(world, "sqlite", "n4")
    written = await first.write()
    assert await fourth.has(written)
