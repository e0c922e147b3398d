"""The cluster's settings: what is written, who has taken it over, where something else wins."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import msgspec
import pytest
from msgspec.structs import replace

from ollamamax.core.catalog.commands import ChangeSettings, FoundCluster
from ollamamax.core.catalog.records import LEVEL, encode, node_key
from ollamamax.core.errors import BadRequest, NodeNotFound, NotFound, PeerProtocol, PeerUnavailable, SettingsError
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.types import (
    ClusterMeta,
    NodeFacts,
    NodeRecord,
    NodeSettings,
    Put,
    SettingDifference,
    SettingKept,
    SettingView,
    StateTxn,
)
from ollamamax.ports import Caller
from ollamamax.services.control import Control
from ollamamax.services.membership_config import PeerView
from ollamamax.services.replica import Replica
from ollamamax.services.shared_settings import SHOWN, SharedSettings
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.state import MemorySnapshot, MemoryState

A, B, C = "a" * 16, "b" * 16, "c" * 16
META = ClusterMeta(cluster_id="d" * 16, name="home", created_ns=1, holder_id=A)
LIMIT_S = 30.0


def record(node_id: str, name: str, sequence: int) -> NodeRecord:
    return NodeRecord(
        node_id=node_id,
        name=name,
        addresses=(f"127.0.0.1:{sequence}",),
        sequence=sequence,
        joined_ns=1,
        key_hash=node_id[0] * 64,
        version="0.2.0",
        level=LEVEL,
    )


class Own:
    """Settings of a node. source: of log.level, where the machine says something of it itself."""

    def __init__(self, name: str, source: str = "") -> None:
        self.name = name
        self.source = source
        self.version = 0
        self.told: Mapping[str, str] = {}

    def check(self, key: str, text: str | None) -> None:
        if key not in ("log.level", "log.format") or text == "loud":
            raise SettingsError(f"{key} = {text!r}: no")

    def applies(self, key: str) -> str:
        return "restart" if key == "log.format" else "live"

    def shown(self) -> NodeSettings:
        said = self.told.get("log.level")
        level = SettingView(value=said or "info", source=f"cluster, version {self.version}", applies="live")
        if self.source:
            level = SettingView(value="error", source=self.source, applies="live", cluster_value=said)
        other = SettingView(value="json", source="default", applies="restart")
        return NodeSettings(settings={"log.level": level, "log.format": other}, node=self.name, version=self.version)


class World:
    """Node A, and what it sees of B and C. taking: whether each takes over by itself what it sees."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.state = MemoryState(self.clock, heartbeat_ms=50.0)
        self.replica = Replica(self.state, MemorySnapshot(), self.clock, SeededDice())
        self.control = Control(self.state, self.replica, SeededDice())
        self.nodes = {A: Own("anna"), B: Own("bert", "flag --log-level"), C: Own("carl")}
        self.states = {B: PeerState.ALIVE, C: PeerState.ALIVE}
        self.taking = {A, B, C}
        self.asked: list[str] = []
        self.garbage = b""
        self.watchers: list[Callable[[], None]] = []
        self.shared = SharedSettings(
            A, self.nodes[A], self.replica, self.control, self, self, self.find, self.clock, wait_ms=50.0
        )

    def find(self, node_id: str) -> NodeRecord:
        return self.replica.catalog.nodes[node_id]

    def peers(self) -> Mapping[str, PeerView]:
        return {
            node_id: PeerView(
                record=self.find(node_id), facts=self.facts(node_id), facts_at_ms=0.0, state=state, since_ms=0.0
            )
            for node_id, state in self.states.items()
        }

    def facts(self, node_id: str) -> NodeFacts:
        own = self.nodes[node_id]
        return NodeFacts(
            node_id=node_id,
            instance="i",
            name=own.name,
            version="0",
            protocol_min=1,
            protocol_max=1,
            addresses=(),
            role="client",
            settings_version=own.version,
        )

    def watch(self, callback: Callable[[], None]) -> None:
        self.watchers.append(callback)

    async def call(self, node: NodeRecord, method: str, body: bytes, *, timeout_ms: float) -> bytes:
        assert method == SHOWN
        self.asked.append(node.name)
        if self.states[node.node_id] is not PeerState.ALIVE:
            raise PeerUnavailable(f"{node.name} is gone")
        if self.garbage:
            return self.garbage
        wanted = msgspec.msgpack.decode(body)["keys"]
        shown = self.nodes[node.node_id].shown()
        rows = {key: row for key, row in shown.settings.items() if not wanted or key in wanted}
        return msgspec.msgpack.encode(replace(shown, settings=rows))

    def take_over(self) -> None:
        """What those do that follow the state."""
        settings = self.replica.catalog.settings
        for node_id in self.taking:
            own = self.nodes[node_id]
            own.version = settings.version
            own.told = {**settings.values, **settings.node_values.get(node_id, {})}
        for watcher in self.watchers:
            watcher()


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    made = World()
    await made.replica.open()
    await made.control.run(FoundCluster(META, record(A, "anna", 1)))
    for node in (record(B, "bert", 2), record(C, "carl", 3)):
        await made.state.txn(StateTxn((), (Put(node_key(node.node_id), encode(node)),)))
    await made.replica.refresh()
    made.replica.watch(lambda old, new: asyncio.get_running_loop().call_soon(made.take_over))
    async with asyncio.timeout(LIMIT_S):
        yield made


async def test_a_change_reaches_all_and_tells_where_something_else_wins() -> None:
    async with world() as w:
        change = await w.shared.change({"log.level": "debug"}, (), "", "somebody")
        assert (change.version, change.changed, change.change) == (1, True, "log.level: unset -> debug")
        assert change.applied == ("anna", "carl")
        assert change.kept == (SettingKept(node="bert", key="log.level", value="error", source="flag --log-level"),)
        assert (change.away, change.late, change.next_start) == ((), (), ())
        assert w.replica.catalog.settings.by == "somebody"
        again = await w.shared.change({"log.level": "debug"}, (), "", "somebody")
        assert (again.version, again.changed, again.change) == (1, False, "")
        assert again.kept == change.kept


async def test_a_change_for_one_node_is_told_of_that_one_and_wins_there() -> None:
    async with world() as w:
        change = await w.shared.change({"log.level": "debug"}, (), "carl", "x")
        assert (change.applied, change.kept) == (("carl",), ())
        change = await w.shared.change({"log.level": "warning"}, (), "", "x")
        assert change.applied == ("anna",)
        assert [(kept.node, kept.value) for kept in change.kept] == [("bert", "error"), ("carl", "debug")]
        change = await w.shared.change({}, ("log.level",), C, "x")
        assert (change.applied, change.change) == (("carl",), "carl: log.level: debug -> unset")


async def test_who_is_away_or_late_is_told() -> None:
    async with world() as w:
        w.states[B], w.taking = PeerState.GONE, {A, B}
        change = await w.shared.change({"log.format": "json"}, (), "", "x")
        assert (change.applied, change.away, change.late) == (("anna",), ("bert",), ("carl",))
        assert change.next_start == ("log.format",)
        assert w.asked == []


async def test_it_waits_for_who_needs_a_moment() -> None:
    async with world() as w:
        w.shared._wait_ms = LIMIT_S * 1000
        w.taking = {A, B}
        pending = asyncio.create_task(w.shared.change({"log.level": "debug"}, (), "", "x"))
        while w.nodes[B].version < 1:
            await asyncio.sleep(0)
        assert not pending.done()
        w.taking = {A, B, C}
        w.take_over()
        assert (await pending).late == ()


async def test_a_node_that_does_not_say_what_holds_there_counts_as_it_told() -> None:
    async with world() as w:
        w.states[C] = PeerState.SUSPECT
        change = await w.shared.change({"log.level": "debug"}, (), "", "x")
        assert change.applied == ("anna", "carl")


@pytest.mark.parametrize(
    ("put", "node", "error"),
    [
        ({"log.level": "loud"}, "", BadRequest),
        ({"log.level": "debug", "log.colour": "red"}, "", BadRequest),
        ({"log.level": "debug"}, "dora", NodeNotFound),
    ],
)
async def test_what_is_wrong_changes_nothing(put: dict[str, str], node: str, error: type[Exception]) -> None:
    async with world() as w:
        before = w.replica.catalog.revision
        with pytest.raises(error):
            await w.shared.change(put, (), node, "x")
        with pytest.raises(BadRequest):
            await w.shared.change({}, ("log.colour",), "", "x")
        await w.replica.refresh()
        assert w.replica.catalog.revision == before


async def test_going_back() -> None:
    async with world() as w:
        for level in ("debug", "warning"):
            await w.shared.change({"log.level": level, "log.format": "json"}, (), "", "x")
        change = await w.shared.rollback(1, "y")
        assert (change.version, change.change) == (3, "as they were in version 1")
        assert change.applied == ("anna", "carl")
        assert [kept.node for kept in change.kept] == ["bert"]
        assert change.next_start == ()
        assert w.replica.catalog.settings.values == {"log.level": "debug", "log.format": "json"}
        change = await w.shared.rollback(0, "y")
        assert (change.kept, change.next_start) == ((), ("log.format",))
        with pytest.raises(NotFound, match="1 to 4 are kept"):
            await w.shared.rollback(9, "y")
        assert [(one.version, one.by) for one in w.shared.history()] == [(1, "x"), (2, "x"), (3, "y"), (4, "y")]


async def test_what_this_program_can_not_read_is_not_gone_back_to() -> None:
    async with world() as w:
        await w.control.run(ChangeSettings(1, {"log.colour": "red"}))
        change = await w.shared.change({"log.level": "debug"}, (), "", "x")
        assert change.version == 2
        with pytest.raises(BadRequest, match=r"version 1 has what this node's program can't read: log\.colour = 'red'"):
            await w.shared.rollback(1, "x")
        assert w.replica.catalog.settings.version == 2
        change = await w.shared.rollback(0, "x")
        assert (change.version, change.next_start) == (3, ())


async def test_a_node_that_says_garbage() -> None:
    async with world() as w:
        w.garbage = b"\xc1"
        with pytest.raises(PeerProtocol, match="what node bert says of its settings"):
            await w.shared.shown("bert")


async def test_differences() -> None:
    async with world() as w:
        assert w.shared.difference(None, None) == (0, 0, [])
        with pytest.raises(NotFound, match="nothing was set yet"):
            w.shared.difference(1, None)
        await w.shared.change({"log.level": "debug"}, (), "", "x")
        await w.shared.change({"log.level": "error"}, (), "carl", "x")
        carl = SettingDifference(key="log.level", node="carl", before=None, after="error")
        everyone = SettingDifference(key="log.level", node="", before=None, after="debug")
        assert w.shared.difference(None, None) == (1, 2, [carl])
        assert w.shared.difference(0, None) == (0, 2, [everyone, carl])
        assert w.shared.difference(0, 1) == (0, 1, [everyone])
        with pytest.raises(NotFound, match="1 to 2 are kept"):
            w.shared.difference(0, 7)


async def test_what_holds_on_a_node() -> None:
    async with world() as w:
        assert (await w.shared.shown("anna")).node == "anna"
        assert (await w.shared.shown("bert")).settings["log.level"].source == "flag --log-level"
        with pytest.raises(NodeNotFound):
            await w.shared.shown("dora")
        w.states[B] = PeerState.GONE
        with pytest.raises(PeerUnavailable):
            await w.shared.shown("bert")


async def test_others_are_told_what_holds_here() -> None:
    async with world() as w:
        answer = w.shared.methods().unary[SHOWN]
        caller = Caller(B)
        whole = msgspec.msgpack.decode(await answer(caller, msgspec.msgpack.encode({})), type=NodeSettings)
        assert whole == w.nodes[A].shown()
        some = await answer(caller, msgspec.msgpack.encode({"keys": ["log.level"]}))
        assert list(msgspec.msgpack.decode(some, type=NodeSettings).settings) == ["log.level"]
