"""The pure parts under the engines: splitting streams, grammars, vectors, times."""

import asyncio
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import write_llama
from ollamamax.adapters.engines import vectors
from ollamamax.adapters.engines.gbnf import gbnf_of
from ollamamax.adapters.engines.llamacpp import LlamaCppLauncher
from ollamamax.adapters.engines.llamacpp_wire import completion_body, forced_call_schema, sampling
from ollamamax.adapters.engines.ollama_wire import unix_ns
from ollamamax.adapters.engines.splitters import EventSplitter, LineSplitter
from ollamamax.core.errors import BadRequest, EngineProtocol
from ollamamax.core.types import ChatRequest, LaunchSpec, Options
from ollamamax.testing.clock import FakeClock, SeededDice

PIECES = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1).filter(lambda t: t.strip())


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(marks)]


@given(
    st.lists(st.lists(PIECES, min_size=1, max_size=3), max_size=6),
    st.lists(st.integers(0)),
    st.booleans(),
    st.booleans(),
)
def test_events_come_out_whole_however_they_are_cut(
    events: list[list[str]], places: list[int], has_crlf: bool, has_noise: bool
) -> None:
    blocks = ["".join(f"data: {line}\n" for line in lines) + "\n" for lines in events]
    text = ("event: x\n: ping\n\n" if has_noise else "").join(["", *blocks])
    data = text.replace("\n", "\r\n").encode() if has_crlf else text.encode()
    splitter = EventSplitter()
    found = [event for part in cut(data, places) for event in splitter.feed(part)] + splitter.finish()
    assert found == ["\n".join(lines).encode() for lines in events]


@given(st.lists(PIECES, max_size=6), st.lists(st.integers(0)), st.booleans())
def test_lines_come_out_whole_however_they_are_cut(lines: list[str], places: list[int], is_ended: bool) -> None:
    data = "\n".join(lines).encode() + (b"\n\n" if is_ended else b"")
    splitter = LineSplitter()
    found = [line for part in cut(data, places) for line in splitter.feed(part)] + splitter.finish()
    assert found == [line.encode() for line in lines]


@pytest.mark.parametrize("kind", [EventSplitter, LineSplitter])
def test_what_never_ends_is_refused(kind: type[EventSplitter] | type[LineSplitter]) -> None:
    splitter = kind(max_bytes=10)
    assert splitter.feed(b"data: 1234") == []
    with pytest.raises(EngineProtocol):
        splitter.feed(b"5")


FINITE = st.floats(-1e6, 1e6, width=32)


@given(st.lists(FINITE, min_size=1, max_size=20), st.integers(0, 30))
def test_vectors_have_length_one_and_the_asked_direction(raw: list[float], dimensions: int) -> None:
    made = vectors.finished(raw, dimensions)
    wanted = raw[:dimensions] if dimensions else raw
    assert len(made) == len(wanted)
    length = math.sqrt(math.fsum(value * value for value in wanted))
    if length == 0:
        assert set(made) == {0.0}
    else:
        assert math.fsum(value * value for value in made) == pytest.approx(1.0, abs=1e-5)
        assert [value * length for value in made] == pytest.approx(wanted, rel=1e-5, abs=1e-5 * length)


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_vectors_of_no_numbers(bad: float | None) -> None:
    with pytest.raises(BadRequest):
        vectors.finished([1.0, bad])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00.5+01:00", 500_000_000),
        ("2026-08-21T10:00:00.123456789-07:00", 1_787_331_600_123_456_789),
        ("", 0),
        ("yesterday", 0),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert unix_ns(text) == expected


@pytest.mark.parametrize(
    ("options", "name", "expected"),
    [
        (Options(), "n_predict", 5120),
        (Options(num_predict=-2), "n_predict", 5120),
        (Options(num_predict=9999), "n_predict", 5120),
        (Options(num_predict=0), "n_predict", 0),
        (Options(), "seed", 0xFFFFFFFF),
        (Options(seed=42), "seed", 42),
        (Options(), "temperature", 0.8),
        (Options(temperature=-1.0), "temperature", 0.0),
        (Options(top_k=1 << 40), "top_k", (1 << 31) - 1),
        (Options(repeat_last_n=-1), "repeat_last_n", 512),
        (Options(num_keep=-9), "n_keep", -1),
        (Options(num_keep=9999), "n_keep", 512),
    ],
)
def test_options_become_what_llama_cpp_takes(options: Options, name: str, expected: float) -> None:
    assert sampling(ChatRequest(model="m", prompt="", options=options), 512)[name] == expected


def test_a_schema_beyond_the_grammar_goes_as_itself() -> None:
    request = ChatRequest(model="m", prompt="x")
    assert "grammar" in completion_body(request, "x", 512, {"type": "object"})
    pattern = {"type": "string", "pattern": "a+"}
    assert completion_body(request, "x", 512, pattern)["json_schema"] == pattern


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 1},
        {"not": {}},
        {"$ref": "other.json"},
        {"$ref": "#/$defs/none"},
        {"type": "fish"},
        {"type": "array", "maxItems": 5000},
        {"type": "array", "minItems": 3, "maxItems": 2},
        {"enum": []},
        {"properties": 5},
        {"anyOf": 5},
        {"items": {"pattern": "x"}},
    ],
)
def test_what_the_grammar_can_not_say(schema: dict[str, Any]) -> None:
    assert gbnf_of(schema) is None


NODE = {"properties": {"v": {"type": "boolean"}, "next": {"$ref": "#/$defs/node"}}, "required": ["v"]}
TREE = {"$defs": {"node": NODE}, "$ref": "#/$defs/node"}
SCHEMAS: dict[str, tuple[dict[str, Any], str]] = {
    "literals": ({"enum": ["a\"b\\c\n", 1.5, None, {"x": [True]}]}, r'"a\\"b\\\\c\\n"|1\.5|null|\{"x":\[true\]\}'),
    "optional": (
        {"properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}, "required": ["b"]},
        r'\{("a":1,)?"b":2(,"c":3)?\}',
    ),
    "all optional": ({"properties": {"a": {"const": 1}, "b": {"const": 2}}}, r'\{("a":1)?(,?"b":2)?\}'),
    "more": (
        {"properties": {"a": {"const": 1}}, "required": ["z"], "additionalProperties": False},
        r'\{("a":1,)?"z":.*\}',
    ),
    "map": ({"type": "object", "additionalProperties": {"enum": [7]}}, r'\{("[^"]*":7(,"[^"]*":7)*)?\}'),
    "array": ({"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 3}, r"\[[12](,[12]){1,2}\]"),
    "empty array": ({"type": "array", "maxItems": 0}, r"\[\]"),
    "tuple": ({"prefixItems": [{"const": "x"}, {"type": "null"}]}, r'\["x",null\]'),
    "bounded text": ({"type": "string", "minLength": 2, "maxLength": 4}, r'".{2,24}"'),
    "time": ({"type": "string", "format": "date-time"}, r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?(Z|[+-]\d\d:\d\d)"'),
    "number": ({"type": ["integer", "null"]}, r"-?\d+|null"),
    "tree": (TREE, r'(\{"v":(true|false)(,"next":)?)+\}+'),
    "either": ({"oneOf": [{"type": "boolean"}, {"type": "null", "title": "none"}]}, r"true|false|null"),
}  # fmt: skip


async def test_random_models_keep_to_the_grammar(tmp_path: Path) -> None:
    """Each schema on a model of random weights: what ends well must be of the schema's form."""
    path = write_llama(tmp_path / "m.gguf", seed=5)
    spec = LaunchSpec(key="k", name="m", model_path=str(path), ctx_tokens=512, parallel=4)
    engine = await LlamaCppLauncher(FakeClock(), SeededDice()).launch(spec)

    async def check(name: str, seed: int) -> None:
        schema, form = SCHEMAS[name]
        options = Options(num_predict=120, seed=seed)
        text = msgspec.json.encode(schema).decode()
        request = ChatRequest(model="m", prompt="go", format=text, options=options)
        chunks = [chunk async for read in engine.generate(request, "m") for chunk in read]
        said = "".join(chunk.text for chunk in chunks)
        if chunks[-1].done_reason == "stop":
            compact = msgspec.json.encode(msgspec.json.decode(said)).decode()
            assert re.fullmatch(form, compact, re.DOTALL), f"{name}, seed {seed}: {said}"
        else:
            assert name in ("map", "tree", "more"), f"{name}, seed {seed} did not end: {said}"

    try:
        async with asyncio.timeout(60):
            await asyncio.gather(*(check(name, seed) for name in SCHEMAS for seed in range(2)))
    finally:
        await engine.close()


def test_a_forced_call_offers_all_tools_or_the_named_one() -> None:
    tools = tuple({"type": "function", "function": {"name": name}} for name in ("a", "b"))
    both = forced_call_schema(ChatRequest(model="m", tools=tools, tool_choice="required"))
    assert [one["properties"]["name"]["const"] for one in both["anyOf"]] == ["a", "b"]
    one = forced_call_schema(ChatRequest(model="m", tools=tools, tool_choice="=b"))
    assert one["properties"] == {"name": {"const": "b"}, "arguments": {"type": "object"}}
