"""Who answers when nobody who has the model can: those that would fetch it, else this node's own version."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.routing.decide import FETCH_TIER, Decision, decide
from ollamamax.core.routing.filters import OTHER_VERSION, UNREACHABLE
from ollamamax.core.routing.place import MEMORY_FACTOR, NO_MEMORY, place
from ollamamax.core.routing.predict import RequestFacts, RoutingConfig
from ollamamax.core.types import (
    EngineFacts,
    EngineKind,
    EngineModel,
    FleetSnapshot,
    ModelDetails,
    ModelEntry,
    ModelRecord,
)

KEY = "tiny:latest"
SIZE = 1_000_000
ENTRY = ModelEntry(name="Tiny:latest", digest="right", size_bytes=SIZE, changed_ns=1)
ASKED = RequestFacts(KEY, prompt_tokens=10, output_tokens=100)
CONFIG = RoutingConfig()
ENOUGH = int(SIZE * MEMORY_FACTOR) + 1


def store(
    node: str = "",
    digest: str | None = None,
    *,
    kind: EngineKind = EngineKind.LLAMACPP,
    free: int = ENOUGH,
    reachable: bool = True,
    out: str = "",
    in_flight: int = 0,
    loaded: bool = False,
) -> EngineFacts:
    """A node's own engine. digest: of its version of the model, None = it has none."""
    models = {}
    if digest is not None:
        record = ModelRecord(KEY, digest, SIZE, 0, ModelDetails())
        models[KEY] = EngineModel(KEY, KEY, loaded, record)
    return EngineFacts(
        f"{node}/local" if node else "local",
        kind,
        models,
        1,
        in_flight,
        reachable=reachable,
        busy={KEY: in_flight} if in_flight else {},
        node_id=node,
        out=out,
        free_memory_bytes=free,
    )


def settled(*stores: EngineFacts, excluded: dict[str, str] | None = None) -> Decision:
    """As the router does."""
    known = [one for one in stores if KEY in one.models]
    decision = decide(ASKED, FleetSnapshot(0.0, tuple(known)), excluded or {}, CONFIG, digest=ENTRY.digest)
    if decision.best is None:
        return place(decision, known, stores, excluded or {}, ENTRY, CONFIG)
    return decision


def ids(decision: Decision) -> list[str]:
    return [one.engine_id for one in decision.ranked]


def reasons(decision: Decision) -> dict[str, str]:
    return {one.engine_id: one.reason for one in decision.out}


def test_who_has_it_comes_before_who_would_fetch_it() -> None:
    decision = settled(store(), store("b", "right", in_flight=1))
    assert ids(decision) == ["b/local"]
    assert decision.best is not None
    assert not decision.best.has_room


@pytest.mark.parametrize(
    "holder",
    [store("b", "right", out="is cordoned"), store("b", "right", out="is shutting down"), store("b", "")],
    ids=["cordoned", "draining", "left out"],
)
def test_a_holder_that_is_out_gives_its_files(holder: EngineFacts) -> None:
    decision = settled(store(), holder, store("c"), excluded={"b/local": "is left out for a while after 3 failures"})
    assert ids(decision) == ["local", "c/local"]
    assert [one.tier for one in decision.ranked] == [FETCH_TIER] * 2
    assert decision.ranked[0].served_as == "Tiny:latest"
    assert not decision.ranked[0].is_loaded
    assert "1. local: to be fetched, a slot is free" in decision.explain()
    load_ms = CONFIG.load_base_ms + SIZE / CONFIG.load_bytes_per_ms
    fetch_ms = SIZE / CONFIG.transfer_bytes_per_ms
    assert decision.ranked[0].ttft_ms == pytest.approx(load_ms + fetch_ms + 1000 * 10 / CONFIG.prefill_tps)
    assert decision.ranked[1].ttft_ms == pytest.approx(decision.ranked[0].ttft_ms + CONFIG.peer_ttft_ms)


@pytest.mark.parametrize(
    ("holder", "reason"),
    [
        (store("b", "right", reachable=False), UNREACHABLE),
        (store("b", "", kind=EngineKind.OLLAMA, reachable=False), UNREACHABLE),
        (store("b", "right", kind=EngineKind.OLLAMA, out="is cordoned"), "is cordoned"),
        (store("b", "wrong"), OTHER_VERSION),
    ],
    ids=["away", "another server that is away", "another server", "another version"],
)
def test_what_nobody_can_give_is_not_fetched(holder: EngineFacts, reason: str) -> None:
    decision = settled(store(), holder)
    assert decision.best is None
    assert reasons(decision) == {"b/local": reason}
    assert not decision.is_nowhere


def test_what_only_the_catalog_knows_is_fetched_from_wherever_it_may_be() -> None:
    assert ids(settled(store(), store("b"))) == ["local", "b/local"]


def test_where_it_does_not_go() -> None:
    decision = settled(
        store(free=ENOUGH - 1),
        store("b", free=0),
        store("c", reachable=False),
        store("d", out="is cordoned"),
        store("e"),
        excluded={"e/local": "failed: disk full"},
    )
    assert decision.best is None
    assert not decision.is_nowhere
    assert reasons(decision) == {
        "local": NO_MEMORY,
        "b/local": NO_MEMORY,
        "c/local": UNREACHABLE,
        "d/local": "is cordoned",
        "e/local": "failed: disk full",
    }


def test_another_version_here_serves_while_nobody_can_give_the_right_one() -> None:
    decision = settled(store("", "old", loaded=True), store("b", "right", reachable=False))
    assert ids(decision) == ["local"]
    assert reasons(decision) == {"b/local": UNREACHABLE}
    assert decision.ranked[0].tier == 0
    assert ids(settled(store("", "old"), store("b", "older"))) == ["local"]


def test_another_version_here_does_not_serve_otherwise() -> None:
    assert ids(settled(store("", "old"), store("b", "right"))) == ["b/local"]
    cordoned = store("b", "right", out="is cordoned")
    assert ids(settled(store("", "old"), cordoned, store("c"))) == ["c/local"]
    assert ids(settled(store("", "old", out="is cordoned"), store("b", "older"))) == []
    assert ids(settled(store("", "old"), store("b", "right", reachable=False), excluded={"local": "x"})) == []


stores = st.builds(
    store,
    st.sampled_from(["", "b", "c", "d"]),
    st.sampled_from([None, "", "right", "wrong"]),
    kind=st.sampled_from(EngineKind),
    free=st.sampled_from([0, ENOUGH - 1, ENOUGH]),
    reachable=st.booleans(),
    out=st.sampled_from(["", "is cordoned"]),
    in_flight=st.integers(0, 2),
    loaded=st.booleans(),
)


@given(
    st.lists(stores, unique_by=lambda one: one.node_id, max_size=4),
    st.dictionaries(st.sampled_from(["local", "b/local"]), st.just("no"), max_size=2),
)
def test_who_is_ranked_may_be_asked(fleet: list[EngineFacts], excluded: dict[str, str]) -> None:
    decision = settled(*fleet, excluded=excluded)
    by_id = {one.engine_id: one for one in fleet}
    assert not set(ids(decision)) & set(reasons(decision))
    for one in decision.ranked:
        facts = by_id[one.engine_id]
        assert facts.reachable
        assert not facts.out
        assert one.engine_id not in excluded
        assert (one.tier == FETCH_TIER) == (KEY not in facts.models)
        if one.tier == FETCH_TIER:
            assert facts.free_memory_bytes > SIZE * MEMORY_FACTOR
    assert len({one.tier == FETCH_TIER for one in decision.ranked}) <= 1
    assert ids(settled(*reversed(fleet), excluded=excluded)) == ids(decision)
