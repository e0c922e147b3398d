import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.dialects import ollama
from ollamamax.core.errors import BadRequest, InvalidOption, Unsupported
from ollamamax.core.types import FOREVER_MS, ChatRequest, EmbedRequest, Message, Options, ToolCall

PNG = b"\x89PNG"
PNG_TEXT = base64.b64encode(PNG).decode()
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        "model",
        "prompt",
        "messages",
        "Stream",
        "format",
        "keep_alive",
        "options",
        "think",
        "images",
        "context",
        "tools",
        "raw",
        "suffix",
        "system",
        "template",
        "logprobs",
        "top_logprobs",
        "input",
        "dimensions",
        "truncate",
        "shift",
    ]
)
MESSAGES = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "images", "tool_calls", "thinking"]), JSON, max_size=4),
    max_size=3,
)


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


CONVERSATION: list[Any] = [
    {"role": "System", "content": "be brief"},
    {"role": "user", "content": "what is this?", "images": [PNG_TEXT]},
    {
        "role": "assistant",
        "thinking": "hm",
        "content": None,
        "tool_calls": [
            {"id": "call_1", "function": {"index": 3, "name": "weather", "arguments": {"b": 1, "a": "x"}}},
            {"function": {"name": "now"}},
        ],
    },
    {"role": "tool", "content": "sunny", "tool_name": "weather", "tool_call_id": "call_1"},
    None,
]


def test_a_chat_with_everything() -> None:
    request = ollama.chat_request(
        body(
            model="tiny",
            messages=CONVERSATION,
            stream=False,
            format={"type": "object", "b": 1, "a": 2},
            keep_alive="1h30m",
            tools=[WEATHER, {"function": {"name": "now"}}],
            options={"temperature": 0, "num_predict": 5.9, "stop": ["x"], "unheard": 1, "seed": None},
            think="high",
            truncate=False,
            shift=False,
            logprobs=True,
            top_logprobs=20,
            unknown={"x": 1},
        )
    )
    assert request == ChatRequest(
        model="tiny",
        messages=(
            Message("system", "be brief"),
            Message("user", "what is this?", images=(PNG,)),
            Message(
                "assistant",
                "",
                "hm",
                tool_calls=(ToolCall("call_1", 3, "weather", '{"b":1,"a":"x"}'), ToolCall("", 1, "now", "{}")),
            ),
            Message("tool", "sunny", tool_name="weather", tool_call_id="call_1"),
            Message(""),
        ),
        stream=False,
        format='{"type":"object","b":1,"a":2}',
        keep_alive_ms=5_400_000,
        tools=(WEATHER, {"type": "function", "function": {"name": "now"}}),
        options=Options(temperature=0.0, num_predict=5, stop=("x",)),
        think="high",
        truncate=False,
        shift=False,
        logprobs=True,
        top_logprobs=20,
    )


def test_defaults_and_nulls_are_the_same() -> None:
    names = ["stream", "format", "keep_alive", "options", "think", "truncate", "shift", "logprobs", "tools"]
    bare = ollama.chat_request(body(model="m", messages=[]))
    assert bare == ollama.chat_request(body(model="m", messages=None, **dict.fromkeys(names)))
    assert bare == ChatRequest(model="m")
    assert bare.stream


def test_generate_becomes_one_user_turn() -> None:
    request = ollama.generate_request(
        body(
            Model="m",
            PROMPT="hi",
            suffix="end",
            system="sys",
            template="{{ .Prompt }}",
            context=[1, 2],
            images=[PNG_TEXT],
            think=False,
            format="json",
            keep_alive=-1,
        )
    )
    assert request == ChatRequest(
        model="m",
        messages=(Message("user", "hi", images=(PNG,)),),
        suffix="end",
        system="sys",
        template="{{ .Prompt }}",
        context=(1, 2),
        want_context=True,
        think=False,
        format="json",
        keep_alive_ms=FOREVER_MS,
    )


def test_raw_goes_verbatim() -> None:
    request = ollama.generate_request(body(model="m", prompt="<s>hi", raw=True, suffix="ignored", format=""))
    assert request == ChatRequest(model="m", prompt="<s>hi", raw=True)


@pytest.mark.parametrize("raw", [False, True])
def test_an_empty_prompt_loads_or_unloads(raw: bool) -> None:
    request = ollama.generate_request(body(model="m", prompt="", keep_alive=0, raw=raw, images=[PNG_TEXT], system="s"))
    assert request == ChatRequest(model="m", keep_alive_ms=0, raw=raw)


@pytest.mark.parametrize("field", [{"template": "x"}, {"system": "x"}, {"context": [1]}])
def test_raw_excludes_what_the_template_would_use(field: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=r"^raw mode does not support template, system, or context$"):
        ollama.generate_request(body(model="m", prompt="x", raw=True, **field))


def test_raw_takes_no_images() -> None:
    with pytest.raises(Unsupported, match="raw mode does not support images"):
        ollama.generate_request(body(model="m", prompt="x", raw=True, images=[PNG_TEXT]))


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"top_logprobs": 21}, BadRequest, "top_logprobs must be between 0 and 20"),
        ({"top_logprobs": -1}, BadRequest, "top_logprobs must be between 0 and 20"),
        ({"keep_alive": "10"}, BadRequest, 'time: missing unit in duration "10"'),
        (
            {"think": "a lot"},
            BadRequest,
            'invalid think value: "a lot" (must be "high", "medium", "low", "max", true, or false)',
        ),
        (
            {"think": 1},
            BadRequest,
            'think must be a boolean or string ("high", "medium", "low", "max", true, or false)',
        ),
        (
            {"format": "xml"},
            InvalidOption,
            'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object',
        ),
        ({"format": [1]}, InvalidOption, 'invalid format: "[1]"; expected "json" or a valid JSON Schema object'),
        ({"options": {"num_ctx": "big"}}, InvalidOption, 'option "num_ctx" must be of type integer'),
        (
            {"options": []},
            BadRequest,
            "json: cannot unmarshal array into Go struct field GenerateRequest.options of type map[string]interface {}",
        ),
        (
            {"model": 5},
            BadRequest,
            "json: cannot unmarshal number into Go struct field GenerateRequest.model of type string",
        ),
        ({"images": ["%"]}, BadRequest, "illegal base64 data at input byte 0"),
        (
            {"images": [1]},
            BadRequest,
            "json: cannot unmarshal number into Go struct field GenerateRequest.images of type []uint8",
        ),
        (
            {"context": [1.5]},
            BadRequest,
            "json: cannot unmarshal number into Go struct field GenerateRequest.context of type int",
        ),
    ],
)
def test_generate_refuses(fields: dict[str, Any], kind: type[BadRequest], text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        ollama.generate_request(body(**{"model": "m", "prompt": "x", **fields}))
    assert (type(caught.value), str(caught.value)) == (kind, text)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model": ""}, "model is required"),
        ({"model": None}, "model is required"),
        (
            {"messages": [{"content": ["x"]}]},
            "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string",
        ),
        (
            {"messages": ["x"]},
            "json: cannot unmarshal string into Go struct field ChatRequest.messages of type api.Message",
        ),
        (
            {"messages": {}},
            "json: cannot unmarshal object into Go struct field ChatRequest.messages of type []api.Message",
        ),
        (
            {"messages": [{"tool_calls": [{"function": {"arguments": "{}"}}]}]},
            "json: cannot unmarshal string into Go struct field "
            "ChatRequest.messages.tool_calls.function.arguments of type map[string]interface {}",
        ),
        ({"tools": ["x"]}, "json: cannot unmarshal string into Go struct field ChatRequest.tools of type api.Tool"),
        (
            {"tools": [{"function": 1}]},
            "json: cannot unmarshal number into Go struct field ChatRequest.tools.function of type api.ToolFunction",
        ),
        ({"tools": [{"function": {}}]}, "json: a tool's function.name must be a string, not null"),
    ],
)
def test_chat_refuses(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        ollama.chat_request(body(**{"model": "m", **fields}))
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("given_input", "inputs"), [("a", ("a",)), (["a", ""], ("a", "")), ([""], ("",)), ("", ()), ([], ()), (None, ())]
)
def test_inputs_to_embed(given_input: object, inputs: tuple[str, ...]) -> None:
    assert ollama.embed_request(body(model="m", input=given_input)) == EmbedRequest(model="m", inputs=inputs)


def test_embed_with_everything() -> None:
    request = ollama.embed_request(
        body(model="m", input=["a"], truncate=False, dimensions=8, keep_alive=5, options={"num_ctx": 64})
    )
    assert request == EmbedRequest(
        model="m", inputs=("a",), truncate=False, dimensions=8, keep_alive_ms=5000, options=Options(num_ctx=64)
    )


@pytest.mark.parametrize("wrong", [1, True, {"a": 1}, ["a", 1]])
def test_other_inputs_are_refused(wrong: object) -> None:
    with pytest.raises(BadRequest, match=r"^invalid input type$"):
        ollama.embed_request(body(model="m", input=wrong))


@given(st.dictionaries(FIELDS, JSON) | JSON, MESSAGES)
def test_no_json_raises_anything_but_bad_request(value: Any, messages: list[dict[str, Any]]) -> None:
    for raw in (value, {"model": "m", "messages": messages}, {**value, "model": "m"} if isinstance(value, dict) else 1):
        for read in (ollama.chat_request, ollama.generate_request, ollama.embed_request):
            with suppress(BadRequest):
                read(json.dumps(raw).encode())


@given(st.binary())
def test_no_bytes_raise_anything_but_bad_request(raw: bytes) -> None:
    for read in (ollama.chat_request, ollama.generate_request, ollama.embed_request):
        with suppress(BadRequest):
            read(raw)


def test_embeddings_in_the_older_form() -> None:
    read = ollama.embeddings_request
    assert read(body(model="m", prompt="x", keep_alive="1s", options={"num_ctx": 8})) == EmbedRequest(
        model="m", inputs=("x",), truncate=False, keep_alive_ms=1000, options=Options(num_ctx=8)
    )
    assert read(body(model="m")).inputs == ()
    with pytest.raises(BadRequest, match=r"^model is required$"):
        read(body(prompt="x"))
    with pytest.raises(BadRequest, match=r"Go struct field EmbeddingRequest.prompt of type string"):
        read(body(model="m", prompt=["x"]))


def test_a_prompt_can_be_asked_for() -> None:
    assert ollama.chat_request(body(model="m", messages=[], _debug_render_only=True)).render_only
    assert ollama.generate_request(body(model="m", prompt="x", _Debug_Render_Only=True)).render_only
    assert not ollama.generate_request(body(model="m", prompt="x")).render_only
