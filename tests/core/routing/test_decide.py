"""Filters, predictions, scorers, policy and decision."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ollamamax.core.routing.decide import DEFAULT_POLICY, Decision, decide
from ollamamax.core.routing.filters import IN_DOUBT, NO_MODEL, OTHER_VERSION, UNREACHABLE, slots_for, why_out
from ollamamax.core.routing.policies import LeastWork, Placed
from ollamamax.core.routing.predict import MIN_LEFT_TOKENS, RequestFacts, RoutingConfig
from ollamamax.core.routing.scorers import SCORERS, Candidate
from ollamamax.core.types import EngineFacts, EngineKind, EngineModel, FleetSnapshot, ModelDetails, ModelRecord

KEY = "tiny:latest"
CONFIG = RoutingConfig()
ASKED = RequestFacts(KEY, prompt_tokens=10, output_tokens=100)


def model(loaded: bool = True, size_bytes: int = 0, slots: int = 0, key: str = KEY) -> EngineModel:
    record = ModelRecord(key, "d", size_bytes, 0, ModelDetails()) if size_bytes else None
    return EngineModel(key, f"served-{key}", loaded, record, slots=slots)


def engine(
    engine_id: str,
    offered: EngineModel | None = None,
    slots: int = 4,
    in_flight: int = 0,
    outstanding: float = 0.0,
    decode_tps: float = 0.0,
    load_ms: float = 0.0,
    reachable: bool = True,
    busy: dict[str, int] | None = None,
    kind: EngineKind = EngineKind.OLLAMA,
    node_id: str = "",
    out: str = "",
) -> EngineFacts:
    offered = offered or model()
    return EngineFacts(
        engine_id,
        kind,
        {offered.key: offered},
        slots,
        in_flight,
        outstanding,
        0.0,
        decode_tps,
        load_ms,
        reachable,
        0.0,
        busy,
        node_id,
        out,
    )


def choose(*engines: EngineFacts, excluded: dict[str, str] | None = None, asked: RequestFacts = ASKED) -> Decision:
    return decide(asked, FleetSnapshot(0.0, engines), excluded or {}, CONFIG)


def ids(decision: Decision) -> list[str]:
    return [one.engine_id for one in decision.ranked]


def test_reasons_to_be_out() -> None:
    there = engine("a")
    assert why_out(there, KEY, {}) == ""
    assert why_out(there, "other", {"a": "broken"}) == NO_MODEL
    assert why_out(engine("a", reachable=False), KEY, {}) == UNREACHABLE
    assert why_out(there, KEY, {"a": "broken", "b": "x"}) == "broken"
    assert why_out(engine("a", out="is cordoned"), KEY, {"a": "broken"}) == "is cordoned"


@pytest.mark.parametrize(
    ("kind", "offered", "digest", "reason"),
    [
        (EngineKind.LLAMACPP, model(size_bytes=1), "", ""),
        (EngineKind.LLAMACPP, model(size_bytes=1), "d", ""),
        (EngineKind.LLAMACPP, model(size_bytes=1), "e", OTHER_VERSION),
        # What other servers call a digest, and models that tell none, are not compared.
        (EngineKind.OLLAMA, model(size_bytes=1), "e", ""),
        (EngineKind.LLAMACPP, model(), "e", ""),
        (EngineKind.LLAMACPP, EngineModel(KEY, KEY, True, ModelRecord(KEY, "", 1, 0, ModelDetails())), "e", ""),
    ],
)
def test_only_the_version_that_the_cluster_means_counts(
    kind: EngineKind, offered: EngineModel, digest: str, reason: str
) -> None:
    facts = engine("a", offered, kind=kind)
    assert why_out(facts, KEY, {}, digest) == reason
    decision = decide(ASKED, FleetSnapshot(0.0, (facts,)), {}, CONFIG, digest=digest)
    assert [one.reason for one in decision.out] == ([reason] if reason else [])


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (engine("a", slots=4, in_flight=1), (4, 3)),
        (engine("a", slots=2, in_flight=5), (2, 0)),
        (engine("a", slots=0), (1, 1)),
        # Slots per model: what other models do does not matter.
        (engine("a", slots=4, in_flight=9, busy={"other": 9}), (4, 4)),
        (engine("a", model(slots=2), slots=4, in_flight=2, busy={KEY: 2}), (2, 0)),
        # A shared pool knows no slots of a model.
        (engine("a", model(slots=1), slots=4), (4, 4)),
    ],
)
def test_slots(facts: EngineFacts, expected: tuple[int, int]) -> None:
    assert slots_for(facts, facts.models[KEY]) == expected


def test_loaded_with_a_free_slot_goes_by_least_work() -> None:
    decision = choose(engine("busy", in_flight=2, outstanding=500), engine("idle"), engine("some", in_flight=1))
    assert ids(decision) == ["idle", "some", "busy"]
    assert {one.tier for one in decision.ranked} == {0}
    assert decision.best is not None
    assert decision.best.has_room
    assert decision.best.served_as == f"served-{KEY}"


def test_a_faster_engine_with_more_to_do_may_be_better() -> None:
    decision = choose(engine("fast", in_flight=2, outstanding=400, decode_tps=200), engine("slow", decode_tps=5))
    assert ids(decision) == ["fast", "slow"]


def test_loaded_and_free_comes_before_the_rest() -> None:
    decision = choose(
        engine("unloaded", model(loaded=False), decode_tps=1000),
        engine("full", slots=1, in_flight=1, decode_tps=1000),
        engine("slow", in_flight=3, outstanding=10_000, decode_tps=1),
    )
    assert ids(decision)[0] == "slow"
    assert [one.tier for one in decision.ranked] == [0, 1, 1]


def test_the_rest_goes_by_the_predicted_first_token() -> None:
    waits = engine("waits", slots=1, in_flight=1, outstanding=100, decode_tps=10)
    loads = engine("loads", model(loaded=False), load_ms=3_000)
    assert ids(choose(waits, loads)) == ["loads", "waits"]
    soon = engine("soon", slots=1, in_flight=1, outstanding=40, decode_tps=100)
    decision = choose(soon, loads)
    assert ids(decision) == ["soon", "loads"]
    assert decision.best is not None
    assert not decision.best.has_room


def test_many_who_wait_make_loading_elsewhere_worth_it() -> None:
    soon = engine("soon", slots=1, in_flight=1, outstanding=40, decode_tps=100)
    loads = engine("loads", model(loaded=False), load_ms=3_000)
    crowd = RequestFacts(KEY, 10, 100, queued_tokens=1_000)
    assert ids(choose(soon, loads, asked=crowd)) == ["loads", "soon"]


def test_ties_break_by_id() -> None:
    assert ids(choose(engine("b"), engine("c"), engine("a"))) == ["a", "b", "c"]
    # By node first; and this node's own come before others', whatever they are called.
    peers = engine("a/local", node_id="22"), engine("b/x", node_id="11"), engine("b/local", node_id="11")
    assert ids(choose(*peers, engine("local"))) == ["local", "b/local", "b/x", "a/local"]


def test_another_node_costs_a_little_more() -> None:
    here, there = choose(engine("z"), engine("a/local", node_id="11")).ranked
    assert here.engine_id == "z"
    assert there.ttft_ms == pytest.approx(here.ttft_ms + CONFIG.peer_ttft_ms)
    assert ids(choose(engine("z", in_flight=1), engine("a/local", node_id="11"))) == ["a/local", "z"]


def test_predictions() -> None:
    (one,) = choose(engine("a", model(loaded=False, size_bytes=2_000_000_000))).ranked
    assert one.ttft_ms == CONFIG.load_base_ms + 2_000 + 10 / CONFIG.prefill_tps * 1000
    assert one.tpot_ms == 1000 / CONFIG.decode_tps
    (one,) = choose(engine("a", model(loaded=False))).ranked
    assert one.ttft_ms > CONFIG.unknown_size_bytes / CONFIG.load_bytes_per_ms
    (one,) = choose(engine("a", slots=2, in_flight=2, outstanding=200, decode_tps=100)).ranked
    assert one.ttft_ms == pytest.approx(200 / 2 * 10 + 20)


def test_requests_that_outgrew_their_prediction_still_count() -> None:
    (one,) = choose(engine("a", slots=2, in_flight=2, outstanding=0, decode_tps=100)).ranked
    assert one.ttft_ms == pytest.approx(MIN_LEFT_TOKENS * 10 + 20)


def test_nowhere_and_all_out_differ() -> None:
    nowhere = choose(engine("a", model(key="other")), engine("b", model(key="other"), reachable=False))
    assert nowhere.best is None
    assert nowhere.is_nowhere
    assert choose().is_nowhere
    out = choose(engine("a", reachable=False), engine("b", model(key="other")))
    assert out.best is None
    assert not out.is_nowhere
    assert not out.is_open
    assert not choose(engine("a")).is_nowhere


def test_while_somebody_is_in_doubt_nothing_is_settled() -> None:
    doubtful = engine("a", reachable=False, out=IN_DOUBT)
    assert choose(doubtful, engine("b", reachable=False)).is_open
    assert not choose(doubtful, engine("b")).is_open
    assert not choose(engine("b", out="is cordoned")).is_open


def test_a_decision_explains_itself() -> None:
    text = choose(
        engine("a"),
        engine("b", model(loaded=False), slots=1, in_flight=1, load_ms=5_000),
        engine("c", reachable=False),
        engine("d"),
        excluded={"d": "is left out"},
    ).explain()
    lines = text.splitlines()
    assert lines[0] == f"{KEY}: about 10 prompt tokens and 100 of output"
    assert lines[1].startswith("1. a: loaded, a slot is free, first token in about 20 ms, then 33 ms each; ")
    assert "residency=1.00 room=1.00" in lines[1]
    assert lines[2].startswith("2. b: not loaded, no slot is free")
    assert lines[3:] == [f"-  c: {UNREACHABLE}", "-  d: is left out"]


def test_another_policy_can_take_over() -> None:
    class ByName:
        def rank(self, candidates: list[Candidate]) -> list[Placed]:
            return [Placed(0, 0.0, one) for one in sorted(candidates, key=lambda one: one.engine_id, reverse=True)]

    decision = decide(ASKED, FleetSnapshot(0.0, (engine("a"), engine("b"))), {}, CONFIG, ByName())
    assert ids(decision) == ["b", "a"]


def test_what_nobody_asks_for_is_not_scored() -> None:
    fleet = FleetSnapshot(0.0, (engine("a", in_flight=1), engine("b"), engine("c", model(loaded=False))))
    silent, told = (decide(ASKED, fleet, {}, CONFIG, explained=explained) for explained in (False, True))
    assert ids(silent) == ids(told)
    assert [one.scores for one in silent.ranked] == [{}] * 3


amounts = st.floats(0, 1e9)
engines = st.builds(
    engine,
    st.sampled_from("abcdefgh"),
    st.builds(model, st.booleans(), st.integers(0, 1 << 40), st.integers(0, 4), st.sampled_from([KEY, "other"])),
    st.integers(0, 8),
    st.integers(0, 16),
    amounts,
    amounts,
    amounts,
    st.booleans(),
    st.none() | st.dictionaries(st.just(KEY), st.integers(1, 9)),
)
fleets = st.lists(engines, unique_by=lambda one: one.engine_id, max_size=8)
requests = st.builds(RequestFacts, st.just(KEY), st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))

refusals = st.dictionaries(st.sampled_from("abcdefgh"), st.just("no"), max_size=4)


class Unhurried(LeastWork):
    """Not the very policy that a single engine needs no thought for."""


@pytest.mark.parametrize("loaded", [True, False])
@given(engines, requests, refusals, st.sampled_from(["", "d", "e"]), st.data())
def test_a_single_engine_is_judged_like_any(
    loaded: bool, facts: EngineFacts, asked: RequestFacts, excluded: dict[str, str], digest: str, data: st.DataObject
) -> None:
    kind, node_id = data.draw(st.sampled_from(EngineKind)), data.draw(st.sampled_from(["", "n"]))
    models = {key: replace(offered, loaded=loaded) for key, offered in facts.models.items()}
    fleet = FleetSnapshot(0.0, (replace(facts, models=models, kind=kind, node_id=node_id),))
    quick, thorough = (
        decide(asked, fleet, excluded, CONFIG, policy, digest, explained=False)
        for policy in (DEFAULT_POLICY, Unhurried())
    )
    assert quick == thorough


@given(fleets, requests, refusals)
def test_each_engine_is_ranked_or_out_and_the_order_is_total(
    fleet: list[EngineFacts], asked: RequestFacts, excluded: dict[str, str]
) -> None:
    decision = choose(*fleet, excluded=excluded, asked=asked)
    assert sorted(ids(decision) + [one.engine_id for one in decision.out]) == sorted(one.engine_id for one in fleet)
    assert ids(choose(*reversed(fleet), excluded=excluded, asked=asked)) == ids(decision)
    by_id = {one.engine_id: one for one in fleet}
    for one in decision.ranked:
        facts = by_id[one.engine_id]
        assert facts.reachable
        assert KEY in facts.models
        assert one.engine_id not in excluded
        assert one.scores.keys() == SCORERS.keys()
        assert all(0.0 <= score <= 1.0 for score in one.scores.values())
        assert one.ttft_ms >= 0
        assert one.tpot_ms > 0
        assert (one.tier == 0) == (one.is_loaded and one.has_room)
    assert [one.tier for one in decision.ranked] == sorted(one.tier for one in decision.ranked)
    for tier, scorer in ((0, "work"), (1, "ttft")):
        scores = [one.scores[scorer] for one in decision.ranked if one.tier == tier]
        assert scores == sorted(scores, reverse=True)
