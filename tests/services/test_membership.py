"""The membership over twins: nodes die, fall silent, come back, join and leave; the mesh breaks, or is not there."""

import asyncio

import pytest
from msgspec.structs import replace

from membership_world import ALIVE, GONE, SUSPECT, Node, World, keys, node_id, world
from ollamamax.adapters.system.clock import SystemClock
from ollamamax.core.errors import PeerUnavailable, ShuttingDown
from ollamamax.core.membership.deltas import FactsReader
from ollamamax.ports import Caller, MeshConfig, MeshEvent, MeshRole, PeerMethods
from ollamamax.services.fact_sheet import FactSheet
from ollamamax.services.node_host import PING, NodeHost
from ollamamax.testing.mesh import MemoryMesh


def told_by(node: Node) -> int:
    """How many requests wait there, as it has told so far."""
    reader = FactsReader(node.node_id)
    reader.read(node.sheet.whole())
    assert reader.facts is not None
    return reader.facts.queued


async def test_nodes_see_each_other_and_what_each_tells() -> None:
    async with world("abc") as made:
        for node in made.nodes.values():
            others = "abc".replace(node.letter, "")
            await node.sees(others)
            await node.until(lambda node=node, others=others: all(node.facts_of(one) for one in others))
            assert set(node.seen()) == set(others)
        a, b = made.nodes["a"], made.nodes["b"]
        b.tell(queued=3)
        await a.until(lambda: a.knows("b", queued=3, name="node-b"))
        assert a.membership.peers()[node_id("b")].record == made.replica.catalog.nodes[node_id("b")]
        assert a.events == []


async def test_a_killed_node_is_gone_and_used_again_when_it_is_back() -> None:
    async with world("abc") as made:
        a, c = made.nodes["a"], made.nodes["c"]
        for node in (a, c):
            await node.sees("b")
        await made.kill("b")
        for node in (a, c):
            await node.sees("b", GONE)
            assert node.seen().keys() == set("abc") - {node.letter}
            assert [(event.kind, event.node) for event in node.events] == [("gone", "node-b")]
        made.node("b")
        for node in (a, c):
            await node.sees("b")
            assert node.events[-1].kind == "back"
            await node.until(lambda node=node: node.knows("b", instance="start-b"))


async def test_a_silent_node_is_suspected_then_gone() -> None:
    async with world("abc") as made:
        a = made.nodes["a"]
        await a.sees("bc")
        made.silence("b")
        await a.sees("b", GONE)
        assert [state for one, state in a.states if one == "b"][-2:] == [SUSPECT, GONE]
        assert a.seen()["c"] is ALIVE
        made.wake("b")
        await a.sees("b")
        await made.nodes["b"].sees("ac")


async def test_who_answers_is_used_though_the_mesh_lost_it() -> None:
    async with world("abc") as made:
        a, b = made.nodes["a"], made.nodes["b"]
        await a.sees("bc")
        await a.until(lambda: a.facts_of("b") is not None)
        made.hub.cut(node_id("b"))
        await a.until(lambda: ("b", SUSPECT) in a.states[2:])
        await a.sees("b")
        opened = len(a.mesh.opened)
        for number in range(7):
            b.tell(queued=number)
            await a.until(lambda number=number: touched(a) and a.knows("b", queued=number))
        assert len(a.mesh.opened) == opened, "a mesh that reaches half of the others stays"
        made.peers.leave(node_id("b"))
        await a.sees("b", GONE)


async def test_a_call_that_failed_takes_a_node_out_until_it_answers() -> None:
    async with world("ab") as made:
        a = made.nodes["a"]
        await a.sees("b")
        made.peers.cut(node_id("a"), node_id("b"))
        a.membership.doubt(node_id("b"))
        assert a.seen()["b"] is SUSPECT
        await a.sees("b", GONE)
        made.peers.heal(node_id("a"), node_id("b"))
        await a.sees("b")


async def test_a_doubt_that_was_wrong_is_soon_over() -> None:
    async with world("ab") as made:
        a = made.nodes["a"]
        await a.sees("b")
        a.membership.doubt(node_id("b"))
        a.membership.doubt(node_id("f"))
        assert a.seen() == {"b": SUSPECT}
        await a.sees("b")
        assert a.events == []


class BrokenMesh(MemoryMesh):
    """Its port is blocked."""

    tries = 0

    async def open(self, config: MeshConfig) -> None:
        self.tries += 1
        raise PeerUnavailable("blocked")


async def test_it_works_without_a_mesh() -> None:
    async with world("ab", start="") as made:
        a = made.node("a", BrokenMesh(made.hub))
        b = made.node("b", BrokenMesh(made.hub))
        for node, other in ((a, b), (b, a)):
            await node.sees(other.letter)
            await node.until(lambda node=node, other=other: node.facts_of(other.letter) is not None)
        b.tell(queued=5)
        await a.until(lambda: a.knows("b", queued=5))
        await made.kill("b")
        await a.sees("b", GONE)
        made.node("b", BrokenMesh(made.hub))
        await a.sees("b")
        assert a.membership.role == "client"


async def test_a_mesh_that_opens_later_is_used() -> None:
    class LateMesh(BrokenMesh):
        async def open(self, config: MeshConfig) -> None:
            if self.tries == 0:
                await super().open(config)
            await MemoryMesh.open(self, config)

    async with world("ab", start="b") as made:
        a = made.node("a", LateMesh(made.hub))
        await a.until(lambda: a.membership.role == "router")
        await made.nodes["b"].sees("a")


async def test_the_first_three_are_routers_and_the_next_takes_over() -> None:
    async with world("abcde") as made:
        nodes = made.nodes
        for node in nodes.values():
            await node.until(lambda node=node: node.membership.role == ("router" if node.letter in "abc" else "client"))
        connect = nodes["e"].mesh.opened[-1].connect
        routers = {f"127.0.0.1:{10_000 + 2 * ord(one) + 1}" for one in "abc"}
        assert set(connect[:3]) == routers
        assert connect[-1] == "127.0.0.1:10", "seeds come last"
        await nodes["e"].sees("abcd")
        await made.kill("b")
        await nodes["d"].until(lambda: nodes["d"].membership.role == "router")
        await nodes["a"].until(lambda: nodes["a"].knows("d", role="router"))
        made.node("b")
        await nodes["d"].until(lambda: nodes["d"].membership.role == "client")
        assert nodes["e"].membership.role == "client"


async def test_members_come_and_go_with_the_catalog() -> None:
    async with world("ab") as made:
        a = made.nodes["a"]
        await a.sees("b")
        made.replica.become("abc")
        assert a.seen()["c"] is SUSPECT
        made.node("c")
        await a.sees("bc")
        made.replica.become("ac", revoked="b")
        assert a.seen().keys() == {"c"}
        await a.until(lambda: a.mesh.opened[-1].denied == {node_id("b")})
        await made.nodes["c"].until(lambda: made.nodes["c"].mesh.opened[-1].denied == {node_id("b")})
        await a.sees("c")
        assert a.events == []


async def test_a_record_that_changes_is_shown() -> None:
    async with world("ab") as made:
        a = made.nodes["a"]
        await a.sees("b")
        former = made.replica.catalog
        moved = replace(former.nodes[node_id("b")], addresses=("127.0.0.1:7",), cordoned=True)
        made.replica.catalog = replace(former, nodes={**former.nodes, node_id("b"): moved})
        a.membership._on_catalog(former, made.replica.catalog)
        assert a.membership.peers()[node_id("b")].record is moved


async def test_renewed_papers_open_the_mesh_anew() -> None:
    async with world("ab") as made:
        a = made.nodes["a"]
        await a.sees("b")
        a.keys = keys("a", serial=1)
        a.membership.renewed()
        await a.until(lambda: a.mesh.opened[-1].keys.certificate == b"1")
        await made.nodes["b"].sees("a")


async def test_a_view_that_did_not_change_is_the_same_object() -> None:
    async with world("abc", start="ab") as made:
        a, b, c = made.nodes["a"], made.nodes["b"], made.node("c")
        c.sheet._echo_ms = 60_000.0
        await a.until(lambda: a.facts_of("b") is not None and a.knows("c", role="router"))
        before = dict(a.membership.peers())
        b.tell(queued=2)
        await a.until(lambda: a.knows("b", queued=2))
        after = a.membership.peers()
        assert after[node_id("b")] is not before[node_id("b")]
        assert after[node_id("c")] is before[node_id("c")]


async def test_lost_messages_are_asked_for() -> None:
    async with world("ab") as made:
        a, b = made.nodes["a"], made.nodes["b"]
        await a.until(lambda: a.facts_of("b") is not None)
        made.hub.loss = 1.0
        b.tell(queued=1)
        await b.until(lambda: told_by(b) == 1)
        a.mesh.hear(MeshEvent(""))
        await a.until(lambda: a.knows("b", queued=1))


async def test_a_gap_is_closed_by_asking() -> None:
    async with world("ab") as made:
        a, b = made.nodes["a"], made.nodes["b"]
        await a.until(lambda: a.facts_of("b") is not None)
        made.hub.hold()
        for number in range(1, 4):
            b.tell(queued=number)
            await b.until(lambda number=number: told_by(b) == number)
        made.hub.release(lambda late: late.reverse())
        await a.until(lambda: a.knows("b", queued=3))


async def test_lossy_late_and_doubled_messages_end_in_the_truth() -> None:
    async with world("abc") as made:
        a, b = made.nodes["a"], made.nodes["b"]
        await a.until(lambda: a.facts_of("b") is not None)
        made.hub.loss, made.hub.doubling = 0.4, 0.4
        for number in range(30):
            b.tell(queued=number)
            await asyncio.sleep(0)
        made.hub.loss = 0.0
        b.tell(queued=99)
        await a.until(lambda: a.knows("b", queued=99))


@pytest.mark.parametrize("garbage", [b"", b"\xff" * 100, b"\x80"])
async def test_garbage_changes_nothing(garbage: bytes) -> None:
    async with world("ab") as made:
        a = made.nodes["a"]
        await a.until(lambda: a.facts_of("b") is not None)
        before = a.facts_of("b")
        for sender in ("b", "f"):
            a.mesh.hear(MeshEvent(node_id(sender), None, garbage))
            a.mesh.hear(MeshEvent(node_id(sender), None, garbage))
        a.mesh.hear(MeshEvent(node_id("f"), True))
        made.nodes["b"].tell(queued=1)
        await a.until(lambda: a.knows("b", queued=1))
        assert a.seen() == {"b": ALIVE}
        assert before is not None


async def test_who_loses_the_mesh_suspects_nobody() -> None:
    async with world("abcd") as made:
        d = made.nodes["d"]
        await d.sees("abc")
        await d.until(lambda: d.membership.role == "client")
        seen_before = len(d.states)
        made.hub.cut(node_id("d"))
        await d.until(lambda: not d.mesh._view)
        await d.until(lambda: len([call for call in made.peers.calls if call[0] == node_id("d")]) > 6)
        assert d.states[seen_before:] == []
        made.hub.heal()
        await d.until(lambda: bool(d.mesh._view))
        made.nodes["a"].tell(queued=4)
        await d.until(lambda: d.knows("a", queued=4))


async def test_a_sign_that_only_blinks_is_no_change() -> None:
    async with world("ab") as made:
        a = made.nodes["a"]
        await a.sees("b")
        seen_before = len(a.states)
        for _ in range(3):
            a.mesh.hear(MeshEvent(node_id("b"), False))
            a.mesh.hear(MeshEvent(node_id("b"), True))
        made.nodes["b"].tell(queued=1)
        await a.until(lambda: a.knows("b", queued=1))
        assert a.states[seen_before:] == []


async def test_a_vanished_sign_that_nobody_told_of_is_noticed() -> None:
    async with world("ab") as made:
        a = made.nodes["a"]
        await a.sees("b")
        made.peers.leave(node_id("b"))
        a.mesh._view.pop(node_id("b"))
        await a.sees("b", GONE)


async def test_a_mesh_that_does_not_reach_who_answers_is_opened_anew_and_less_and_less_often() -> None:
    async with world("ab") as made:
        a = made.nodes["a"]
        await a.sees("b")
        opened = len(a.mesh.opened)
        made.hub.cut(node_id("b"))
        await a.sees("b")
        for number in (1, 2):
            a.membership._part.touch()
            await a.until(lambda number=number: touched(a) and len(a.mesh.opened) >= opened + number)
        assert a.membership._apart_ms > 300.0
        made.hub.heal()
        await a.until(lambda: touched(a) and a.membership._apart_ms == 200.0)


def touched(node: Node) -> bool:
    node.membership._part.touch()
    return True


@pytest.mark.parametrize("answer", [b"junk", b"other"])
async def test_who_answers_strangely_is_not_used(answer: bytes) -> None:
    async with world("abc", start="ac") as made:
        a, c = made.nodes["a"], made.nodes["c"]

        async def strange(caller: Caller, body: bytes) -> bytes:
            if answer == b"other":
                return await made.peers.link(node_id("a")).call(
                    made.replica.catalog.nodes[node_id("c")], PING, b"", timeout_ms=1_000.0
                )
            return answer

        made.peers.listen(node_id("b"), [PeerMethods(unary={PING: strange})])
        for node in (a, c):
            await node.sees("b", GONE)


async def test_an_error_of_its_own_shows_that_a_node_is_there() -> None:
    async with world("ab", start="a") as made:

        async def busy(caller: Caller, body: bytes) -> bytes:
            raise ShuttingDown("later")

        made.peers.listen(node_id("b"), [PeerMethods(unary={PING: busy})])
        await made.nodes["a"].sees("b")


async def test_another_start_of_a_node_is_noticed_by_asking() -> None:
    async with world("ab") as made:
        a, b = made.nodes["a"], made.nodes["b"]
        await a.until(lambda: a.facts_of("b") is not None)
        made.hub.loss = 1.0
        b.facts = replace(b.facts, instance="start-2")
        sheet = FactSheet(b._told, b.mesh, SystemClock())
        host = NodeHost(b.node_id, "start-2", "1", lambda: 0, lambda: False)
        made.peers.listen(b.node_id, [host.methods(), sheet.methods()])
        a.membership.doubt(b.node_id)
        await a.until(lambda: a.knows("b", instance="start-2"))


async def test_a_message_that_nothing_follows_is_missed_by_its_echo() -> None:
    async with world("ab") as made:
        a, b = made.nodes["a"], made.nodes["b"]
        await a.until(lambda: a.facts_of("b") is not None)
        made.hub.loss = 1.0
        b.tell(queued=1)
        await b.until(lambda: told_by(b) == 1)
        made.hub.loss = 0.0
        await a.until(lambda: a.knows("b", queued=1))


async def test_a_cluster_of_one_is_a_router() -> None:
    async with world("a") as made:
        a = made.nodes["a"]
        await a.until(lambda: a.membership.role == "router")
        assert a.seen() == {}
        config = a.mesh.opened[-1]
        assert (config.role, config.listen) == (MeshRole.ROUTER, f"127.0.0.1:{10_000 + 2 * ord('a') + 1}")


async def test_it_ends_cleanly_in_the_middle_of_everything() -> None:
    async with world("abc") as made:
        made.silence("b")
        a = made.nodes["a"]
        a.membership.doubt(node_id("c"))
        await a.until(lambda: bool(a.states))
    assert isinstance(made, World)
