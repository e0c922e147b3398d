import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.dialects import openai
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import ChatRequest, Message, Options, ToolCall

PNG = b"\x89PNG"
PNG_TEXT = base64.b64encode(PNG).decode()
PNG_URL = f"data:image/png;base64,{PNG_TEXT}"
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": "hi"}


def read(**fields: Any) -> openai.ChatCompletion:
    return openai.chat_completion(json.dumps({"model": "m", "messages": [USER], **fields}).encode())


def messages(*given_messages: Any) -> tuple[Message, ...]:
    return read(messages=list(given_messages)).request.messages


def test_defaults() -> None:
    asked = read()
    assert asked.request == ChatRequest(
        model="m", messages=(Message("user", "hi"),), options=Options(temperature=1.0, top_p=1.0), stream=False
    )
    assert not asked.include_usage


def test_everything() -> None:
    asked = read(
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=5,
        max_completion_tokens=9,
        seed=1,
        stop="x",
        temperature=0,
        top_p=0.5,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        tools=[WEATHER],
        logprobs=True,
        top_logprobs=2,
        n=1,
        user="me",
    )
    assert asked.include_usage
    request = asked.request
    assert (request.stream, request.logprobs, request.top_logprobs, request.tools) == (True, True, 2, (WEATHER,))
    assert request.options == Options(
        num_predict=5,
        seed=1,
        stop=("x",),
        temperature=0.0,
        top_p=0.5,
        frequency_penalty=0.1,
        presence_penalty=0.2,
    )


def test_max_completion_tokens_counts_where_max_tokens_is_missing() -> None:
    assert read(max_completion_tokens=9).request.options.num_predict == 9


def test_stops() -> None:
    assert read(stop=["a", "b"]).request.options.stop == ("a", "b")
    for wrong in (1, ["a", 1]):
        with pytest.raises(BadRequest, match="stop must be a string or an array of strings"):
            read(stop=wrong)


@pytest.mark.parametrize(
    ("given_format", "expected"),
    [
        (None, ""),
        ({"type": "text"}, ""),
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}, '{"type":"object"}'),
        ({"type": "json_schema"}, ""),
    ],
)
def test_response_formats(given_format: object, expected: str) -> None:
    assert read(response_format=given_format).request.format == expected


@pytest.mark.parametrize(
    ("fields", "think"),
    [
        ({}, None),
        ({"reasoning_effort": ""}, None),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "minimal"}, "low"),
        ({"reasoning_effort": "medium"}, "medium"),
        ({"reasoning_effort": "xhigh"}, "max"),
        ({"reasoning": {"effort": "ultra"}, "reasoning_effort": "low"}, "max"),
        ({"reasoning": {}}, None),
    ],
)
def test_efforts(fields: dict[str, Any], think: object) -> None:
    assert read(**fields).request.think == think


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, "auto"),
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "weather"}}, "=weather"),
    ],
)
def test_tool_choices(choice: object, expected: str) -> None:
    assert read(tools=[WEATHER], tool_choice=choice).request.tool_choice == expected


def test_a_tool_choice_without_tools_means_nothing() -> None:
    assert read(tool_choice="required").request.tool_choice == "auto"


def test_parts_become_messages_of_their_own() -> None:
    audio = base64.b64encode(b"RIFF").decode()
    assert messages(
        {
            "role": "User",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": PNG_URL}},
                {"type": "image_url", "image_url": f"data:;base64,{PNG_TEXT}"},
                {"type": "input_audio", "input_audio": {"data": audio, "format": "wav"}},
            ],
        }
    ) == (
        Message("user", "look"),
        Message("user", images=(PNG,)),
        Message("user", images=(PNG,)),
        Message("user", images=(b"RIFF",)),
    )


def test_tool_calls_and_their_answers() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"b": 1, "a": 2}'}}
    told = ToolCall("c1", 0, "weather", '{"b": 1, "a": 2}')
    assert messages(
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "hm"},
        {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
        {"role": "tool", "content": [{"type": "text", "text": "rain"}], "tool_call_id": "c1", "name": "sky"},
        {"role": "tool", "content": "?", "tool_call_id": "c2"},
    ) == (
        Message("assistant", thinking="hm", tool_calls=(told,)),
        Message("tool", "sunny", tool_name="weather", tool_call_id="c1"),
        Message("tool", "rain", tool_name="sky", tool_call_id="c1"),
        Message("tool", "?", tool_call_id="c2"),
    )


def test_calls_stand_on_the_last_part() -> None:
    call = {"id": "c1", "index": 4, "function": {"name": "now", "arguments": ""}}
    told = (ToolCall("c1", 4, "now", "{}"),)
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages({"role": "assistant", "content": parts, "tool_calls": [call]}) == (
        Message("assistant", "a"),
        Message("assistant", "b", tool_calls=told),
    )
    assert messages({"role": "assistant", "content": [], "tool_calls": [call]}) == (
        Message("assistant", tool_calls=told),
    )
    assert messages(USER, {"role": "user", "content": []}) == (Message("user", "hi"),)


IMAGE_URLS = "image URLs are not currently supported, please use base64 encoded data instead"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"messages": []}, "[] is too short - 'messages'"),
        ({"messages": None}, "[] is too short - 'messages'"),
        ({"model": ""}, "model is required"),
        ({"messages": [{"role": "user"}]}, "invalid message content type: <nil>"),
        ({"messages": [{"role": "user", "content": 1}]}, "invalid message content type: float64"),
        ({"messages": [{"role": "user", "content": {}}]}, "invalid message content type: map[string]interface {}"),
        ({"messages": [{"role": "user", "content": True}]}, "invalid message content type: bool"),
        ({"messages": [{"content": ["x"]}]}, "invalid message format"),
        ({"messages": [{"content": [{"type": "file"}]}]}, "invalid message format"),
        ({"messages": [{"content": [{"type": "image_url", "image_url": "https://x/y.png"}]}]}, IMAGE_URLS),
        ({"messages": [{"content": [{"type": "image_url", "image_url": "data:text/plain,x"}]}]}, "invalid image input"),
        (
            {"messages": [{"content": [{"type": "image_url", "image_url": "data:image/png;base64,%"}]}]},
            "invalid image input",
        ),
        ({"messages": [{"tool_calls": [{"function": {"arguments": "["}}]}]}, "invalid tool call arguments"),
        ({"messages": [{"tool_calls": [{"function": {"arguments": "[]"}}]}]}, "invalid tool call arguments"),
        (
            {"temperature": "hot"},
            "json: cannot unmarshal string into Go struct field ChatCompletionRequest.temperature of type float64",
        ),
        (
            {"reasoning_effort": "x"},
            'invalid reasoning value: "x" (must be "minimal", "low", "medium", "high", "xhigh", "ultra", '
            '"max", or "none")',
        ),
        ({"tools": [WEATHER], "tool_choice": "x"}, 'tool_choice must be "auto", "none", "required" or name a function'),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice names 'x', which is not among the tools",
        ),
        ({"top_logprobs": 99}, "top_logprobs must be between 0 and 20"),
    ],
)
def test_refusals(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(**fields)
    assert str(caught.value) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["model", "stream", "stream_options", "stop", "response_format", "tools", "tool_choice", "reasoning", "max_tokens"]
)
MESSAGE = st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "reasoning", "name"]), JSON, max_size=4)


@given(st.dictionaries(FIELDS, JSON), st.lists(MESSAGE, max_size=3) | JSON)
def test_no_json_raises_anything_but_bad_request(fields: dict[str, Any], conversation: Any) -> None:
    with suppress(BadRequest):
        read(**{**fields, "messages": conversation})
