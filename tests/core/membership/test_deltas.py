"""Facts in pieces: what is written is read again, gaps are noticed, garbage is refused."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ollamamax.core.errors import PeerProtocol
from ollamamax.core.membership import deltas
from ollamamax.core.membership.deltas import FactsReader, FactsWriter, Reading
from ollamamax.core.types import EngineKind, EngineModel, LoadedModel, ModelDetails, NodeEngine, NodeFacts

ME = "a" * 16
LOADED = LoadedModel("tiny:latest", "d" * 64, 1, 2, 4096, 5, ModelDetails(family="llama"))
TINY = EngineModel("tiny:latest", "tiny:latest", loaded=True, running=LOADED)
IDLE = EngineModel("other:latest", "other:latest")
LOCAL = NodeEngine(name="local", kind=EngineKind.LLAMACPP, slots=2, models=(TINY, IDLE), busy={"tiny:latest": 1})
REMOTE = NodeEngine(name="gpu/box", kind=EngineKind.OPENAI, slots=4, models=(IDLE,))
FACTS = NodeFacts(
    node_id=ME,
    instance="i1",
    name="node-a",
    version="1",
    protocol_min=1,
    protocol_max=1,
    addresses=("10.0.0.1:11435",),
    role="router",
    engines=(LOCAL, REMOTE),
    loaded=(LOADED,),
)

MODELS = st.builds(
    EngineModel,
    key=st.text("ab", min_size=1, max_size=2),
    served_as=st.just("x"),
    loaded=st.booleans(),
    running=st.none() | st.just(LOADED),
    slots=st.integers(0, 3),
)
ENGINES = st.lists(
    st.builds(
        NodeEngine,
        name=st.sampled_from(["local", "b", "c/d"]),
        kind=st.sampled_from(EngineKind),
        slots=st.integers(0, 9),
        models=st.lists(MODELS, max_size=3, unique_by=lambda model: model.key).map(tuple),
        in_flight=st.integers(0, 3),
        decode_tps=st.sampled_from([0.0, 12.5]),
        busy=st.none() | st.just({"a": 1}),
    ),
    max_size=3,
    unique_by=lambda engine: engine.name,
).map(tuple)
ANY_FACTS = st.builds(
    lambda engines, queued, free, loaded: replace(
        FACTS, engines=engines, queued=queued, free_memory_bytes=free, loaded=loaded
    ),
    ENGINES,
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([(), (LOADED,)]),
)


def message(data: bytes) -> dict[str, object]:
    decoded: dict[str, object] = msgspec.msgpack.decode(data)
    return decoded


def written(*several: NodeFacts) -> tuple[FactsWriter, list[bytes]]:
    writer = FactsWriter()
    found = [writer.delta(facts) for facts in several]
    return writer, [data for data in found if data is not None]


def reader_of(*messages: bytes) -> FactsReader:
    reader = FactsReader(ME)
    for data in messages:
        assert reader.read(data) is Reading.NEWS
    return reader


@given(st.lists(ANY_FACTS, min_size=1, max_size=5))
def test_whoever_reads_all_knows_all(history: list[NodeFacts]) -> None:
    writer, reader = FactsWriter(), FactsReader(ME)
    for facts in history:
        data = writer.delta(facts)
        if data is not None:
            assert reader.read(data) is Reading.NEWS
        assert reader.facts == facts
        late = FactsReader(ME)
        late.read(writer.whole())
        assert late.facts == facts


@given(st.lists(ANY_FACTS, min_size=1, max_size=8), st.lists(st.integers(0, 9), max_size=16))
def test_losses_repeats_and_late_ones_never_make_wrong_facts(history: list[NodeFacts], order: list[int]) -> None:
    writer, reader = FactsWriter(), FactsReader(ME)
    messages, truth = [], []
    for facts in history:
        data = writer.delta(facts)
        if data is not None:
            messages.append(data)
            truth.append(facts)
    for index in order:
        if index < len(messages):
            reader.read(messages[index])
            assert reader.facts is None or reader.facts in truth
    if reader.read(writer.whole()) is Reading.OLD:
        assert order, "the whole is old only for who has read the last message"
    assert reader.facts == history[-1]


def test_only_what_changed_travels() -> None:
    busy = replace(FACTS, engines=(replace(LOCAL, in_flight=1), REMOTE))
    _, messages = written(FACTS, FACTS, busy, replace(busy, loaded=()), replace(busy, loaded=(), queued=3))
    sections = [set(message(data)["sections"]) for data in messages]
    assert sections[1:] == [{"load/local"}, {"loaded"}, {"base"}]
    assert [message(data)["is_whole"] for data in messages] == [True, False, False, False]


def test_a_running_model_does_not_make_the_list_of_models_travel() -> None:
    warm = replace(TINY, running=replace(LOADED, expires_ns=9))
    _, messages = written(FACTS, replace(FACTS, engines=(replace(LOCAL, models=(warm, IDLE)), REMOTE)))
    assert set(message(messages[1])["sections"]) == {"running/local"}


def test_models_that_did_not_change_are_the_same_objects() -> None:
    _, (first, second) = written(FACTS, replace(FACTS, engines=(replace(LOCAL, in_flight=1), REMOTE)))
    reader = reader_of(first)
    assert reader.facts is not None
    before = reader.facts.engines[0].models
    reader.read(second)
    assert reader.facts.engines[0].models is before


def test_an_engine_that_is_detached_is_gone_and_may_come_back_empty() -> None:
    bare = replace(REMOTE, models=())
    _, messages = written(FACTS, replace(FACTS, engines=(LOCAL,)), replace(FACTS, engines=(LOCAL, bare)))
    reader = reader_of(*messages)
    assert reader.facts is not None
    assert reader.facts.engines == (LOCAL, bare)


def test_a_gap_is_noticed_and_the_whole_closes_it() -> None:
    writer, messages = written(*(replace(FACTS, queued=number) for number in range(4)))
    reader = reader_of(messages[0])
    assert reader.read(messages[2]) is Reading.GAP
    assert reader.facts == FACTS
    assert reader.read(writer.whole()) is Reading.NEWS
    assert reader.facts == replace(FACTS, queued=3)
    assert reader.read(messages[1]) is Reading.OLD
    assert FactsReader(ME).read(messages[1]) is Reading.GAP


def test_an_echo_shows_that_something_was_missed() -> None:
    writer, messages = written(FACTS, replace(FACTS, queued=1))
    late, current = reader_of(messages[0]), reader_of(*messages)
    assert late.read(writer.echo()) is Reading.GAP
    assert current.read(writer.echo()) is Reading.OLD
    assert FactsReader(ME).read(writer.echo()) is Reading.GAP


def test_another_start_of_the_node_begins_anew() -> None:
    _, (old,) = written(FACTS)
    _, new = written(replace(FACTS, instance="i2"), replace(FACTS, instance="i2", queued=1))
    reader = reader_of(old)
    assert reader.is_of("i1")
    assert reader.read(new[1]) is Reading.GAP
    assert reader.read(new[0]) is Reading.NEWS
    assert reader.is_of("i2")
    assert not reader.is_of("i1")
    assert not FactsReader(ME).is_of("")


def test_what_a_newer_program_adds_is_left_alone() -> None:
    _, (data,) = written(FACTS)
    whole = message(data)
    sections = whole["sections"]
    assert isinstance(sections, dict)
    sections["new"] = 1
    sections["new/local"] = 1
    sections["base"]["colour"] = "red"
    sections["load/gpu/box"]["kind"] = "quantum"
    whole["more"] = [1]
    reader = reader_of(msgspec.msgpack.encode(whole))
    assert reader.facts == replace(FACTS, engines=(LOCAL,)), "an engine of an unknown kind is of no use"
    sections["load/gpu/box"]["slots"] = 5
    delta = {**whole, "is_whole": False, "sequence": 2, "sections": {"load/gpu/box": sections["load/gpu/box"]}}
    assert reader.read(msgspec.msgpack.encode(delta)) is Reading.NEWS


def broken(change: object) -> bytes:
    _, (data,) = written(FACTS)
    whole = message(data)
    change(whole)
    return msgspec.msgpack.encode(whole)


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.update(node_id="b" * 16),
        lambda it: it.update(sequence="1"),
        lambda it: it.pop("sections"),
        lambda it: it["sections"].pop("base"),
        lambda it: it["sections"].pop("load/local"),
        lambda it: it["sections"].pop("models/local"),
        lambda it: it["sections"].update({"models/local": [1]}),
        lambda it: it["sections"].update({"memory": {"gpu_count": "many"}}),
        lambda it: it["sections"].update({"engines": ["local", "local"]}),
        lambda it: it["sections"]["base"].update(addresses=["a:1"] * 9),
        lambda it: it["sections"].update({f"x{number}": 0 for number in range(1_000)}),
        lambda it: it["sections"].update({"models/local": [it["sections"]["models/local"][0]] * 10_001}),
    ],
)
def test_garbage_is_refused_and_changes_nothing(change: object) -> None:
    _, (data,) = written(FACTS)
    reader = reader_of(data)
    bad = broken(lambda it: (it.update(sequence=2), change(it)))
    with pytest.raises(PeerProtocol):
        reader.read(bad)
    assert reader.facts == FACTS
    assert reader.read(data) is Reading.OLD


def test_too_much_is_refused_unread() -> None:
    with pytest.raises(PeerProtocol, match="more than"):
        FactsReader(ME).read(b"\xc0" * (deltas.MAX_MESSAGE_BYTES + 1))


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(PeerProtocol):
        FactsReader(ME).read(data)


@given(st.data())
def test_a_damaged_message_is_refused_or_read(draw: st.DataObject) -> None:
    _, (data,) = written(FACTS)
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        damaged[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    reader = FactsReader(ME)
    try:
        assert reader.read(bytes(damaged)) in (Reading.NEWS, Reading.GAP, Reading.OLD)
    except PeerProtocol:
        assert reader.facts is None
