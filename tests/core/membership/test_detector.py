"""The detector against its rules, and against a world in which nodes, their mesh and their links come and go."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ollamamax.core.membership.detector import (
    MAX_STRANGERS,
    Changed,
    Detector,
    DetectorConfig,
    DispatchFailed,
    Effect,
    Event,
    FactsArrived,
    MeshFound,
    MeshLost,
    NodeAdded,
    NodeRemoved,
    PeerState,
    Probe,
    ProbeAnswered,
    ProbeFailed,
    Reconciled,
    Recount,
    Spare,
    TokenAppeared,
    TokenVanished,
)

ALIVE, SUSPECT, GONE = PeerState.ALIVE, PeerState.SUSPECT, PeerState.GONE
CONFIG = DetectorConfig()


def detector(*events: Event) -> Detector:
    """One that hears the mesh and knows node "a", after some events at time 0."""
    made = Detector(CONFIG)
    for event in (MeshFound(), NodeAdded("a"), *events):
        made.step(event, 0.0)
        made.check_invariants()
    return made


def large(*events: Event, count: int = 160) -> Detector:
    return detector(*(NodeAdded(f"n{number}") for number in range(count - 1)), *events)


def step(machine: Detector, event: Event, now_ms: float = 1.0) -> list[Effect]:
    effects = machine.step(event, now_ms)
    machine.check_invariants()
    return effects


def test_a_new_node_is_asked_at_once_and_not_used_before() -> None:
    machine = Detector(CONFIG)
    assert step(machine, NodeAdded("a")) == [Probe("a")]
    assert machine.state("a") is SUSPECT
    assert step(machine, NodeAdded("a")) == []
    # Nobody hears it in the mesh, so it is asked again and again.
    assert step(machine, ProbeAnswered("a")) == [Changed("a", ALIVE, SUSPECT), Probe("a", 1_000, 250)]
    assert step(machine, ProbeAnswered("a")) == [Probe("a", 1_000, 250)]


def test_a_token_makes_a_node_alive_and_ends_the_asking() -> None:
    machine = detector()
    assert step(machine, TokenAppeared("a"), 7.0) == [Spare("a"), Changed("a", ALIVE, SUSPECT)]
    assert (machine.state("a"), machine.since_ms("a"), machine.has_token("a")) == (ALIVE, 7.0, True)
    assert step(machine, ProbeAnswered("a")) == []
    assert step(machine, ProbeFailed("a", is_silence=False)) == [], "nobody waits for that"
    assert step(machine, TokenAppeared("a")) == []


@pytest.mark.parametrize("is_silence", [True, False])
def test_a_vanished_token_makes_suspect_and_a_question_decides(is_silence: bool) -> None:
    machine = detector(TokenAppeared("a"))
    assert step(machine, TokenVanished("a")) == [Changed("a", SUSPECT, ALIVE), Probe("a")]
    assert step(machine, TokenVanished("a")) == []
    assert step(machine, ProbeFailed("a", is_silence)) == [Changed("a", GONE, SUSPECT), Probe("a", 800, 200)]
    assert step(machine, TokenVanished("a")) == []
    assert step(machine, TokenAppeared("a")) == [Spare("a"), Changed("a", ALIVE, GONE)]


def test_a_suspect_that_answers_is_used_and_watched() -> None:
    machine = detector(TokenAppeared("a"), TokenVanished("a"))
    assert step(machine, ProbeAnswered("a")) == [Changed("a", ALIVE, SUSPECT), Probe("a", 1_000, 250)]
    assert step(machine, ProbeFailed("a", is_silence=True)) == [Changed("a", SUSPECT, ALIVE), Probe("a")]
    assert step(machine, ProbeAnswered("a")) == [Changed("a", ALIVE, SUSPECT), Probe("a", 1_000, 250)]
    assert step(machine, ProbeFailed("a", is_silence=False)) == [Changed("a", GONE, ALIVE), Probe("a", 800, 200)]


def test_a_suspect_whose_token_goes_is_asked_already() -> None:
    machine = detector(TokenAppeared("a"), DispatchFailed("a"))
    assert step(machine, TokenVanished("a")) == []
    assert not machine.has_token("a")
    assert machine.state("a") is SUSPECT


@pytest.mark.parametrize(
    ("others", "expected_ms"),
    [(0, [1_000, *[2_000] * 6]), (199, [1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000])],
)
def test_who_is_gone_is_asked_less_and_less_often(others: int, expected_ms: list[float]) -> None:
    machine = detector(*(NodeAdded(f"other{number}") for number in range(others)))
    pauses_ms = []
    for _ in range(7):
        (probe,) = [one for one in step(machine, ProbeFailed("a", is_silence=True)) if isinstance(one, Probe)]
        pauses_ms.append(probe.after_ms + probe.spread_ms)
    assert pauses_ms == expected_ms
    step(machine, ProbeAnswered("a"))
    assert step(machine, ProbeFailed("a", is_silence=False))[-1] == Probe("a", 800, 200)


def test_a_call_that_failed_makes_suspect() -> None:
    machine = detector(TokenAppeared("a"))
    assert step(machine, DispatchFailed("a")) == [Changed("a", SUSPECT, ALIVE), Probe("a")]
    assert step(machine, DispatchFailed("a")) == []
    # That its token is told once more says nothing about its link.
    assert step(machine, TokenAppeared("a")) == [Probe("a")]
    step(machine, ProbeFailed("a", is_silence=False))
    assert step(machine, TokenAppeared("a")) == [Probe("a")]
    assert machine.state("a") is GONE
    assert step(machine, ProbeAnswered("a")) == [Changed("a", ALIVE, GONE)]


def test_facts_of_one_that_is_not_alive_have_it_asked() -> None:
    machine = detector()
    assert step(machine, FactsArrived("a", is_router=True)) == [Probe("a")]
    step(machine, TokenAppeared("a"))
    assert step(machine, FactsArrived("a", is_router=True)) == []


def test_without_the_mesh_no_token_speaks_against_anybody() -> None:
    machine = detector(TokenAppeared("a"))
    assert step(machine, MeshLost()) == [Probe("a")]
    assert step(machine, TokenVanished("a")) == []
    assert step(machine, Reconciled(frozenset())) == []
    assert machine.state("a") is ALIVE
    assert step(machine, MeshFound()) == [Recount()]
    assert step(machine, Reconciled(frozenset({"a"}))) == [Spare("a")]
    assert step(machine, Reconciled(frozenset())) == [Changed("a", SUSPECT, ALIVE), Probe("a")]


def test_who_went_while_the_mesh_was_lost_is_found_out_afterwards() -> None:
    machine = detector(TokenAppeared("a"), MeshLost(), ProbeAnswered("a"), MeshFound())
    assert step(machine, Reconciled(frozenset())) == [Changed("a", SUSPECT, ALIVE), Probe("a")]


def test_a_router_that_died_with_the_mesh_is_found_gone_by_asking() -> None:
    machine = detector(TokenAppeared("a"), MeshLost())
    assert step(machine, ProbeFailed("a", is_silence=False)) == [Changed("a", GONE, ALIVE), Probe("a", 800, 200)]
    assert step(machine, MeshLost()) == []


def test_a_token_that_comes_before_its_node_is_known_counts() -> None:
    machine = detector(TokenAppeared("b"))
    assert step(machine, NodeAdded("b")) == [Changed("b", ALIVE, SUSPECT)]
    step(machine, TokenAppeared("c"))
    step(machine, TokenVanished("c"))
    assert step(machine, NodeAdded("c")) == [Probe("c")]
    step(machine, Reconciled(frozenset({"b", "d"})))
    assert step(machine, NodeAdded("d")) == [Changed("d", ALIVE, SUSPECT)]


def test_strangers_are_bounded() -> None:
    machine = Detector(CONFIG)
    for number in range(MAX_STRANGERS + 10):
        machine.step(TokenAppeared(f"n{number}"), 0.0)
    assert step(machine, NodeAdded(f"n{MAX_STRANGERS - 1}"))[0] == Changed(f"n{MAX_STRANGERS - 1}", ALIVE, SUSPECT)
    assert step(machine, NodeAdded(f"n{MAX_STRANGERS}")) == [Probe(f"n{MAX_STRANGERS}")]


def test_who_is_no_member_is_forgotten() -> None:
    machine = detector(TokenAppeared("a"))
    assert step(machine, NodeRemoved("a")) == [Spare("a")]
    assert step(machine, NodeRemoved("a")) == []
    for event in (ProbeAnswered("a"), DispatchFailed("a"), FactsArrived("a", is_router=False)):
        assert step(machine, event) == []


def test_a_large_cluster_does_not_ask_all_at_once() -> None:
    machine = large(TokenAppeared("a"), FactsArrived("a", is_router=True), TokenAppeared("n1"))
    assert step(machine, NodeAdded("late")) == [Probe("late", 2_000, 2_000)]
    asked = {probe.node_id: probe.spread_ms for probe in step(machine, MeshLost()) if isinstance(probe, Probe)}
    assert asked["a"] == 0, "a router is asked first"
    assert asked["n1"] == pytest.approx(1_000 * 161 / 16)
    step(machine, MeshFound())
    step(machine, Reconciled(frozenset({"a", "n1"})))
    assert step(machine, TokenVanished("n1")) == [Changed("n1", SUSPECT, ALIVE), Probe("n1", 0, 1_000)]


class World(RuleBasedStateMachine):
    """Nodes that are up or down. What the detector asks is answered truthfully; tokens may be forged or forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Detector(DetectorConfig(small=2))
        self.now_ms = 0.0
        self.up: dict[str, bool] = {}
        self.asked: set[str] = set()
        self.states: dict[str, PeerState] = {}

    def tell(self, event: Event) -> None:
        self.now_ms += 1.0
        for effect in self.machine.step(event, self.now_ms):
            match effect:
                case Probe(node_id):
                    self.asked.add(node_id)
                case Spare(node_id):
                    self.asked.discard(node_id)
                case Changed(node_id, state, former):
                    assert self.states.get(node_id, SUSPECT) is former
                    assert former is not state
                    self.states[node_id] = state
                case Recount():
                    pass

    nodes = st.sampled_from("abcd")

    @rule(node=nodes, is_up=st.booleans())
    def add(self, node: str, is_up: bool) -> None:
        self.up.setdefault(node, is_up)
        self.tell(NodeAdded(node))

    @rule(node=nodes)
    def remove(self, node: str) -> None:
        self.up.pop(node, None)
        self.states.pop(node, None)
        self.tell(NodeRemoved(node))

    @rule(node=nodes, is_up=st.booleans())
    def turn(self, node: str, is_up: bool) -> None:
        if node in self.up:
            self.up[node] = is_up

    @rule(node=nodes)
    def token(self, node: str) -> None:
        self.tell(TokenAppeared(node))

    @rule(node=nodes)
    def no_token(self, node: str) -> None:
        self.tell(TokenVanished(node))

    @rule(event=st.sampled_from([MeshLost(), MeshFound()]))
    def mesh(self, event: Event) -> None:
        self.tell(event)

    @rule(tokens=st.frozensets(nodes))
    def recount(self, tokens: frozenset[str]) -> None:
        self.tell(Reconciled(tokens))

    @rule(node=nodes, is_router=st.booleans())
    def facts(self, node: str, is_router: bool) -> None:
        self.tell(FactsArrived(node, is_router))

    @rule(node=nodes)
    def doubt(self, node: str) -> None:
        self.tell(DispatchFailed(node))

    @rule(node=nodes, is_silence=st.booleans())
    def answer(self, node: str, is_silence: bool) -> None:
        if node in self.asked:
            self.asked.remove(node)
            if self.up.get(node, False):
                self.tell(ProbeAnswered(node))
            else:
                self.tell(ProbeFailed(node, is_silence))

    @rule(node=nodes)
    def late_failure(self, node: str) -> None:
        """A question that was spared while it was under way."""
        if node not in self.asked:
            self.tell(ProbeFailed(node, is_silence=True))

    @rule()
    def settle(self) -> None:
        """The mesh tells the truth and all questions are answered: so does the detector."""
        self.tell(MeshFound())
        self.tell(Reconciled(frozenset(node for node, is_up in self.up.items() if is_up)))
        for _ in range(3):
            for node in sorted(self.asked & self.up.keys()):
                self.answer(node, is_silence=True)
        for node, is_up in self.up.items():
            assert self.machine.state(node) is (ALIVE if is_up else GONE), node

    @invariant()
    def holds(self) -> None:
        self.machine.check_invariants()
        for node, state in self.states.items():
            assert self.machine.state(node) is state


World.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestWorld = World.TestCase
