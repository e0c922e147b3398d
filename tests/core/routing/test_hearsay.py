"""What another node tells is bounded, and our own requests are not counted twice."""

import math

from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.routing.hearsay import MAX_COUNT, MAX_SLOTS, MAX_TPS, Others, others, sound, together
from ollamamax.core.types import EngineKind, EngineModel, NodeEngine

HONEST = NodeEngine(
    name="local",
    kind=EngineKind.LLAMACPP,
    slots=4,
    models=(EngineModel("a", "a", slots=2), EngineModel("b", "b")),
    in_flight=3,
    outstanding_tokens=100.5,
    prefill_tps=500.0,
    decode_tps=30.0,
    load_ms=700.0,
    busy={"a": 2, "b": 1},
)


def test_what_can_be_true_stays() -> None:
    assert sound(HONEST) == HONEST


def test_what_cannot_be_true_counts_as_not_told() -> None:
    told = sound(
        NodeEngine(
            name="x",
            kind=EngineKind.OLLAMA,
            slots=-1,
            models=(EngineModel("a", "a", slots=-7),),
            in_flight=1 << 60,
            outstanding_tokens=math.nan,
            prefill_tps=math.inf,
            decode_tps=-1.0,
            load_ms=1e300,
        )
    )
    assert (told.slots, told.models[0].slots, told.in_flight) == (0, 0, MAX_COUNT)
    assert (told.outstanding_tokens, told.prefill_tps, told.decode_tps, told.load_ms) == (0, 0, 0, 0)
    assert told.busy is None


def test_others_are_all_but_ourselves() -> None:
    assert others(HONEST, 2, 60.0, {"a": 2}) == Others(1, 40.5, {"b": 1})
    assert others(HONEST, 0, 0.0, {}) == Others(3, 100.5, {"a": 2, "b": 1})
    # Ours had not yet arrived when it told.
    assert others(HONEST, 9, 900.0, {"a": 9}) == Others(0, 0.0, {"b": 1})
    shared = NodeEngine(name="x", kind=EngineKind.OLLAMA, slots=4, in_flight=3)
    assert others(shared, 1, 0.0, {"a": 1}) == Others(2, 0.0, None)


def test_together() -> None:
    assert together({"a": 1}, {"a": 2, "b": 3}) == {"a": 3, "b": 3}
    assert together({}, {}) == {}


numbers = st.integers(-(1 << 63), 1 << 63)
amounts = st.floats(allow_nan=True, allow_infinity=True)
engines = st.builds(
    NodeEngine,
    name=st.just("x"),
    kind=st.sampled_from(EngineKind),
    slots=numbers,
    models=st.lists(st.builds(EngineModel, st.just("a"), st.just("a"), slots=numbers), max_size=2).map(tuple),
    in_flight=numbers,
    outstanding_tokens=amounts,
    prefill_tps=amounts,
    decode_tps=amounts,
    load_ms=amounts,
    busy=st.none() | st.dictionaries(st.sampled_from("ab"), numbers),
)


@given(engines, st.integers(0, 9), st.floats(0, 1e6), st.dictionaries(st.sampled_from("ab"), st.integers(1, 9)))
def test_whatever_is_told_the_figures_are_usable(
    told: NodeEngine, in_flight: int, tokens: float, busy: dict[str, int]
) -> None:
    clean = sound(told)
    assert 0 <= clean.slots <= MAX_SLOTS
    assert all(0 <= model.slots <= MAX_SLOTS for model in clean.models)
    assert 0.0 <= clean.decode_tps <= MAX_TPS
    assert all(map(math.isfinite, (clean.outstanding_tokens, clean.prefill_tps, clean.load_ms)))
    assert sound(clean) == clean
    theirs = others(clean, in_flight, tokens, busy)
    assert 0 <= theirs.in_flight <= max(clean.in_flight, 0)
    assert theirs.outstanding_tokens >= 0
    assert (theirs.busy is None) == (told.busy is None)
    assert all(count > 0 for count in (theirs.busy or {}).values())
