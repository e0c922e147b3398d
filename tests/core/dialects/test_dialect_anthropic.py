import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.dialects import anthropic
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import ChatRequest, Message, Options, ToolCall

PNG = b"\x89PNG"
IMAGE = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PNG).decode()},
}
WEATHER = {"name": "weather", "description": "d", "input_schema": {"type": "object"}}
TOLD = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": "hi"}


def read(**fields: Any) -> ChatRequest:
    asked = {"model": "m", "max_tokens": 5, "messages": [USER], **fields}
    return anthropic.messages_request(json.dumps(asked).encode())


def messages(*given_messages: Any, **fields: Any) -> tuple[Message, ...]:
    return read(messages=list(given_messages), **fields).messages


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def use(call_id: Any = "t1", name: Any = "weather", given: Any = None, kind: str = "tool_use") -> dict[str, Any]:
    return {"type": kind, "id": call_id, "name": name, "input": given or {"b": 1, "a": 2}}


def result(content: Any = "sunny", call_id: Any = "t1", kind: str = "tool_result") -> dict[str, Any]:
    return {"type": kind, "tool_use_id": call_id, "content": content, "is_error": False}


def test_defaults() -> None:
    assert read() == ChatRequest(
        model="m", messages=(Message("user", "hi"),), options=Options(num_predict=5), stream=False
    )


def test_everything() -> None:
    asked = read(
        system=[
            {"type": "text", "text": "be ", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "brief"},
        ],
        stream=True,
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        stop_sequences=["x", "y"],
        tools=[WEATHER],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        thinking={"type": "enabled", "budget_tokens": 1024},
        output_config={"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        metadata={"user_id": "me"},
    )
    assert asked == ChatRequest(
        model="m",
        messages=(Message("system", "be brief"), Message("user", "hi")),
        tools=(TOLD,),
        tool_choice="required",
        format='{"type":"object"}',
        options=Options(num_predict=5, temperature=0.5, top_p=0.25, top_k=7, stop=("x", "y")),
        think=True,
        stream=True,
    )


@pytest.mark.parametrize("system", [None, "", [], [{"type": "other"}]])
def test_no_system_prompt(system: object) -> None:
    assert read(system=system).messages == (Message("user", "hi"),)


@pytest.mark.parametrize(
    ("fields", "think"),
    [
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, False),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": " XHigh "}}, "high"),
        ({"output_config": {"effort": "max"}}, "max"),
        ({"output_config": {"effort": "extreme"}}, None),
        ({"output_config": {}}, None),
    ],
)
def test_thinking(fields: dict[str, Any], think: object) -> None:
    assert read(**fields).think == think


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, "auto"),
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "weather"}, "=weather"),
    ],
)
def test_tool_choices(choice: object, expected: str) -> None:
    assert read(tools=[WEATHER], tool_choice=choice).tool_choice == expected


def test_tools_that_run_on_servers_are_left_out() -> None:
    server = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    shell = {"type": "bash_20250124", "name": "bash"}
    asked = read(tools=[server, shell, {"type": "custom", **WEATHER}])
    assert [tool["function"]["name"] for tool in asked.tools] == ["bash", "weather"]
    assert asked.tools[0]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert read(tools=[server], tool_choice={"type": "any"}).tool_choice == "auto"


def test_blocks() -> None:
    assert messages(
        user({"type": "text", "text": "look "}, IMAGE, {"type": "document"}, 5, {"type": "text", "text": "here"}),
        {"role": "Assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
        {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]},
        {"role": "system", "content": "now"},
        {"role": "user", "content": ""},
        user(),
    ) == (
        Message("user", "look here", images=(PNG,)),
        Message("assistant", thinking="hm"),
        Message("system", "now"),
    )


def test_calls_and_their_results() -> None:
    first, second = ToolCall("t1", 0, "weather", '{"b":1,"a":2}'), ToolCall("t2", 1, "now", '{"b":1,"a":2}')
    told = [{"type": "text", "text": "sun"}, IMAGE, {"type": "text", "text": "ny"}]
    assert messages(
        {"role": "assistant", "content": [{"type": "text", "text": "wait"}, use(), use("t2", "now")]},
        user({"type": "text", "text": "and?"}, result(told), result("noon", "t2"), result(None, "t9"), result("", 5)),
    ) == (
        Message("assistant", "wait", tool_calls=(first, second)),
        Message("tool", "sunny", images=(PNG,), tool_name="weather", tool_call_id="t1"),
        Message("tool", "noon", tool_name="now", tool_call_id="t2"),
        Message("tool", tool_call_id="t9"),
        Message("tool"),
        Message("user", "and?"),
    )


def test_what_a_server_searched_elsewhere() -> None:
    found = [{"type": "web_search_result", "title": "T", "url": "http://u"}, {"type": "other"}]
    blocks = [use("s1", "web_search", {"query": "q"}, "server_tool_use"), result(found, "s1", "web_search_tool_result")]
    assert messages(
        {"role": "assistant", "content": [*blocks, result({"type": "x"}, "s1", "web_search_tool_result")]}
    ) == (
        Message("assistant", tool_calls=(ToolCall("s1", 0, "web_search", '{"query":"q"}'),)),
        Message("tool", "- T: http://u\n", tool_name="web_search", tool_call_id="s1"),
        Message("tool", tool_name="web_search", tool_call_id="s1"),
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model": ""}, "model is required"),
        ({"max_tokens": None}, "max_tokens is required and must be positive"),
        ({"max_tokens": -1}, "max_tokens is required and must be positive"),
        ({"messages": []}, "messages is required"),
        ({"messages": [user()]}, "messages is required"),
        (
            {"messages": [{"role": "user"}]},
            "json: cannot unmarshal null into Go struct field MessagesRequest.messages.content of type "
            "[]anthropic.ContentBlock",
        ),
        (
            {"system": 5},
            "json: cannot unmarshal number into Go struct field MessagesRequest.system of type "
            "[]anthropic.ContentBlock",
        ),
        ({"messages": [user({"type": "image"})]}, "invalid image source"),
        (
            {"messages": [user({"type": "image", "source": {"type": "url", "url": "http://u"}})]},
            "invalid image source type: url. Only base64 images are supported.",
        ),
        (
            {"messages": [user({"type": "image", "source": {"type": "base64", "data": "%"}})]},
            "invalid base64 image data: illegal base64 data at input byte 0",
        ),
        ({"messages": [user({"type": "image", "source": {"type": "base64"}})]}, "invalid image source"),
        ({"messages": [user(use(call_id=""))]}, "tool_use block missing required 'id' field"),
        ({"messages": [user(use(name=5))]}, "tool_use block missing required 'name' field"),
        ({"messages": [user(use(given=["x"]))]}, "tool_use block: input must be an object, not array"),
        (
            {"stop_sequences": ["a", 1]},
            "json: cannot unmarshal number into Go struct field MessagesRequest.stop_sequences of type string",
        ),
        ({"tools": [{}]}, "a tool needs a name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "x"}}, "tool_choice.type must be auto, any, tool or none"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}},
            "tool_choice names 'x', which is not among the tools",
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": "many"}},
            "json: cannot unmarshal string into Go struct field MessagesRequest.thinking.budget_tokens of type int",
        ),
        (
            {"temperature": "hot"},
            "json: cannot unmarshal string into Go struct field MessagesRequest.temperature of type float64",
        ),
    ],
)
def test_refusals(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(**fields)
    assert str(caught.value) == text


def test_counting_reads_the_same_conversation() -> None:
    fields = {
        "model": "m",
        "messages": [USER],
        "system": "be brief",
        "tools": [WEATHER],
        "thinking": {"type": "enabled"},
    }
    counted = anthropic.count_request(json.dumps(fields).encode())
    asked = anthropic.messages_request(json.dumps({**fields, "max_tokens": 5}).encode())
    assert (counted.messages, counted.tools, counted.think) == (asked.messages, asked.tools, asked.think)
    assert counted.count_only
    assert not asked.count_only
    assert not counted.stream
    with pytest.raises(BadRequest, match="model is required"):
        anthropic.count_request(b"{}")


def test_the_estimate_grows_with_the_prompt() -> None:
    assert anthropic.estimated_tokens(read()) == 1
    long = read(messages=[{"role": "user", "content": "x" * 396}])
    assert anthropic.estimated_tokens(long) == 100
    assert anthropic.estimated_tokens(read(tools=[WEATHER])) > anthropic.estimated_tokens(read())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=8,
)
KINDS = st.sampled_from(["text", "image", "tool_use", "tool_result", "thinking", "web_search_tool_result"])
BLOCK = st.fixed_dictionaries(
    {"type": KINDS | JSON},
    optional={
        "text": JSON,
        "thinking": JSON,
        "source": st.fixed_dictionaries({"type": st.just("base64") | JSON}, optional={"data": st.text() | JSON}) | JSON,
        "id": st.text() | JSON,
        "name": st.text() | JSON,
        "input": JSON,
        "tool_use_id": JSON,
        "content": JSON | st.lists(st.fixed_dictionaries({"type": KINDS, "text": JSON, "source": JSON}), max_size=2),
    },
)
MESSAGE = st.fixed_dictionaries({}, optional={"role": st.text() | JSON, "content": st.lists(BLOCK, max_size=3) | JSON})
FIELDS = st.sampled_from(["system", "tools", "tool_choice", "thinking", "output_config", "stop_sequences", "stream"])


@given(st.dictionaries(FIELDS, JSON), st.lists(MESSAGE, max_size=3) | JSON)
def test_no_json_raises_anything_but_bad_request(fields: dict[str, Any], conversation: Any) -> None:
    with suppress(BadRequest):
        read(**{**fields, "messages": conversation})
