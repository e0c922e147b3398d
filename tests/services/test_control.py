"""Commands: tried until they are applied to the newest state, and told what kept them from it."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from ollamamax.core.catalog.commands import (
    AddToken,
    BeginMove,
    DropToken,
    FinishMove,
    FoundCluster,
    SetCordon,
    SetLabels,
    UndoMove,
)
from ollamamax.core.errors import BadRequest, Conflict, NodeNotFound, NotFound, StateUnavailable
from ollamamax.core.types import ClusterMeta, NodeRecord, StateHome, StateTxn, TokenRecord, TxnResult
from ollamamax.services.control import Control
from ollamamax.services.replica import Replica
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.state import MemorySnapshot, MemoryState

NODE = NodeRecord(
    node_id="00000000000000aa",
    name="anna",
    addresses=("127.0.0.1:11435",),
    sequence=1,
    joined_ns=1,
    key_hash="0" * 64,
    version="0.2.0",
    level=2,
)
META = ClusterMeta(cluster_id="00000000000000c1", name="home", created_ns=1, holder_id=NODE.node_id)


class BusyState(MemoryState):
    """losses: so many transactions come too late.  is_slow: they take for ever."""

    losses = 0
    is_slow = False
    txns = 0

    async def txn(self, txn: StateTxn) -> TxnResult:
        self.txns += 1
        if self.is_slow:
            await asyncio.Event().wait()
        if self.losses:
            self.losses -= 1
            return TxnResult(False, (await self.range("")).revision)
        return await super().txn(txn)


def token(number: int) -> AddToken:
    record = TokenRecord(
        token_id=f"{number:016x}", secret_hash="1" * 64, created_ns=1, expires_ns=1 << 62, uses_left=1
    )  # fmt: skip
    return AddToken(record)


@pytest.fixture
def store() -> BusyState:
    return BusyState(FakeClock(), heartbeat_ms=50.0)


def replica_of(store: MemoryState) -> Replica:
    return Replica(store, MemorySnapshot(), FakeClock(), SeededDice())


@pytest.fixture
async def replica(store: BusyState) -> AsyncIterator[Replica]:
    """One that follows."""
    made = replica_of(store)
    await made.open()
    task = asyncio.create_task(made.run())
    async with asyncio.timeout(20):
        yield made
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
async def control(store: BusyState, replica: Replica) -> Control:
    made = Control(store, replica, SeededDice())
    await made.run(FoundCluster(META, NODE))
    return made


async def test_what_is_returned_has_seen_the_change(control: Control, replica: Replica) -> None:
    catalog = await control.run(SetCordon(NODE.node_id, True))
    assert catalog.nodes[NODE.node_id].cordoned
    assert catalog is replica.catalog


async def test_without_anybody_who_follows_it_looks(store: BusyState) -> None:
    replica = replica_of(store)
    catalog = await Control(store, replica, SeededDice()).run(FoundCluster(META, NODE))
    assert catalog.holder is not None
    assert catalog.holder.name == "anna"


async def test_a_command_that_changes_nothing_is_done(control: Control, store: BusyState) -> None:
    revision = (await store.range("")).revision
    assert (await control.run(SetCordon(NODE.node_id, False))).revision == revision


async def test_what_comes_too_late_is_tried_again(control: Control, store: BusyState) -> None:
    store.losses, store.txns = 5, 0
    assert (await control.run(SetCordon(NODE.node_id, True))).nodes[NODE.node_id].cordoned
    assert store.txns == 6


async def test_it_gives_up_when_it_always_comes_too_late(control: Control, store: BusyState) -> None:
    store.losses = 1_000
    with pytest.raises(Conflict, match="others change the same part"):
        await control.run(SetCordon(NODE.node_id, True))


async def test_one_that_has_not_seen_the_newest_looks_before_it_refuses(control: Control, store: BusyState) -> None:
    behind = Control(store, replica_of(store), SeededDice())
    await control.run(token(1))
    assert (await behind.run(DropToken(f"{1:016x}"))).tokens == {}
    with pytest.raises(NotFound):
        await control.run(DropToken(f"{2:016x}"))
    with pytest.raises(NodeNotFound):
        await control.run(SetCordon("00000000000000ff", True))


async def test_commands_of_many_nodes_at_once_are_all_carried_out(control: Control, store: BusyState) -> None:
    others = [Control(store, replica_of(store), SeededDice(seed)) for seed in range(4)]
    commands = [SetLabels(NODE.node_id, {f"k{number}": "v"}) for number in range(16)]
    await asyncio.gather(*(others[number % 4].run(command) for number, command in enumerate(commands)))
    labels = (await control.run(SetCordon(NODE.node_id, True))).nodes[NODE.node_id].labels
    assert sorted(labels) == sorted(f"k{number}" for number in range(16))


async def test_without_the_store_nothing_changes_and_that_is_said(control: Control, store: BusyState) -> None:
    store.cut()
    with pytest.raises(StateUnavailable, match="nobody has the state"):
        await control.run(SetCordon(NODE.node_id, True))
    with pytest.raises(BadRequest):  # what is wrong in any state is told as such
        await control.run(SetLabels(NODE.node_id, {"not a label!": "v"}))
    store.cut(False)
    assert not (await control.run(SetCordon(NODE.node_id, False))).nodes[NODE.node_id].cordoned


async def test_a_store_that_hangs_holds_nobody_up_for_ever(
    store: BusyState, replica: Replica, control: Control
) -> None:
    store.is_slow = True
    hasty = Control(store, replica, SeededDice(), limit_ms=20.0)
    results = await asyncio.gather(*(hasty.run(token(number)) for number in range(3)), return_exceptions=True)
    assert [type(one) for one in results] == [StateUnavailable] * 3
    assert "did not take the change within 0.02 s" in str(results[0])


async def test_what_does_not_come_in_by_itself_is_looked_up(
    control: Control, replica: Replica, store: BusyState, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def in_vain(revision: int, timeout_ms: float) -> None:
        raise StateUnavailable("not seen")

    monkeypatch.setattr(replica, "caught_up", in_vain)
    assert replica.is_following
    assert (await control.run(SetCordon(NODE.node_id, True))).nodes[NODE.node_id].cordoned


async def test_it_waits_while_the_state_moves(control: Control, replica: Replica) -> None:
    """And what ends the move comes through meanwhile."""
    target = StateHome(kind="etcd", hosts=(NODE.node_id,))
    moving = (await control.run(BeginMove(target, NODE.node_id))).home.target
    assert moving is not None
    waiting = asyncio.create_task(control.run(SetCordon(NODE.node_id, True)))
    while not waiting.done() and replica.catalog.home.phase == "moving":
        await control.run(UndoMove(moving))
    assert (await waiting).nodes[NODE.node_id].cordoned


async def test_a_move_without_end_is_told(store: BusyState, control: Control, replica: Replica) -> None:
    await control.run(BeginMove(StateHome(kind="etcd", hosts=(NODE.node_id,)), NODE.node_id))
    hasty = Control(store, replica, SeededDice(), limit_ms=300.0)
    with pytest.raises(StateUnavailable, match=r"within 0\.3 s: node anna is moving"):
        await hasty.run(SetCordon(NODE.node_id, True))


async def test_with_several_holders_a_loss_is_waited_out(store: BusyState, control: Control) -> None:
    moving = (await control.run(BeginMove(StateHome(kind="etcd", hosts=(NODE.node_id,)), NODE.node_id))).home.target
    assert moving is not None
    await control.run(FinishMove(moving))
    store.cut()
    waiting = asyncio.create_task(control.run(SetCordon(NODE.node_id, True)))
    await asyncio.sleep(0)
    store.cut(False)
    assert (await waiting).nodes[NODE.node_id].cordoned
