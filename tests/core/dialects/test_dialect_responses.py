import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.dialects import responses
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import ChatRequest, Message, Options, ToolCall

PNG = b"\x89PNG"
PNG_URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
WEATHER = {"type": "function", "name": "weather", "description": "d", "parameters": {"type": "object"}, "strict": True}
TOLD = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}


def read(**fields: Any) -> responses.ResponseRequest:
    return responses.response_request(json.dumps({"model": "m", "input": "hi", **fields}).encode())


def repeated(**fields: Any) -> dict[str, Any]:
    return {name: json.loads(bytes(value)) for name, value in read(**fields).repeated.items()}


def messages(*items: Any, **fields: Any) -> tuple[Message, ...]:
    return read(input=list(items), **fields).request.messages


def call(call_id: str = "c1", name: str = "weather", arguments: str = '{"b":1,"a":2}', **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **more}


def output(call_id: str = "c1", result: Any = "sunny") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": result}


def test_defaults() -> None:
    assert read().request == ChatRequest(
        model="m", messages=(Message("user", "hi"),), options=Options(temperature=1.0), stream=False
    )
    assert repeated() == {
        "instructions": None,
        "tools": [],
        "tool_choice": "auto",
        "truncation": "disabled",
        "text": {"format": {"type": "text"}},
        "top_p": 1.0,
        "temperature": 1.0,
        "reasoning": None,
        "max_output_tokens": None,
        "metadata": {},
    }


def test_everything() -> None:
    text = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}}
    fields: dict[str, Any] = {
        "instructions": "be brief",
        "stream": True,
        "max_output_tokens": 5,
        "temperature": 0,
        "top_p": 0.5,
        "reasoning": {"effort": "xhigh", "summary": "auto"},
        "text": text,
        "tools": [WEATHER],
        "tool_choice": "required",
        "truncation": "auto",
        "metadata": {"a": "b"},
        "store": True,
        "background": True,
        "previous_response_id": None,
    }
    assert read(**fields).request == ChatRequest(
        model="m",
        messages=(Message("system", "be brief"), Message("user", "hi")),
        tools=(TOLD,),
        tool_choice="required",
        format='{"type":"object"}',
        options=Options(num_predict=5, temperature=0.0, top_p=0.5),
        think="max",
        stream=True,
    )
    assert repeated(**fields) == {
        "instructions": "be brief",
        "tools": [WEATHER],
        "tool_choice": "required",
        "truncation": "auto",
        "text": text,
        "top_p": 0.5,
        "temperature": 0.0,
        "reasoning": {"effort": "xhigh", "summary": "auto"},
        "max_output_tokens": 5,
        "metadata": {"a": "b"},
    }


def test_a_summary_alone_is_no_effort() -> None:
    assert read(reasoning={"summary": "auto"}).request.think is None
    assert repeated(reasoning={"summary": "auto"})["reasoning"] == {"effort": None, "summary": "auto"}


@pytest.mark.parametrize(
    ("given_format", "expected"),
    [
        (None, ""),
        ({"type": "text"}, ""),
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema"}, ""),
        ({"type": "json_schema", "schema": {"type": "array"}}, '{"type":"array"}'),
    ],
)
def test_formats(given_format: object, expected: str) -> None:
    assert read(text={"format": given_format}).request.format == expected


def test_groups_of_tools_are_flat_and_foreign_ones_are_left_out() -> None:
    namespace = {
        "type": "namespace",
        "name": "sky",
        "tools": [
            WEATHER,
            {"type": "function", "name": "sky.moon", "parameters": None},
            {"type": "namespace", "name": "deeper", "tools": [WEATHER]},
            {"type": "custom", "name": "patch"},
        ],
    }
    asked = read(
        tools=[{"type": "web_search"}, namespace, WEATHER], tool_choice={"type": "function", "name": "weather"}
    )
    assert [tool["function"]["name"] for tool in asked.request.tools] == ["sky.weather", "sky.moon", "weather"]
    assert asked.request.tools[1]["function"]["parameters"] == {"type": "object", "properties": {}}
    assert asked.request.tool_choice == "=weather"


def test_a_tool_choice_without_tools_means_nothing() -> None:
    assert read(tool_choice="required").request.tool_choice == "auto"
    assert read(tools=[{"type": "web_search"}], tool_choice={"type": "web_search"}).request.tool_choice == "auto"


def test_nothing_to_say() -> None:
    assert read(input="").request.messages == ()
    assert read(input=None).request.messages == ()
    assert read(input=[]).request.messages == ()


def test_messages() -> None:
    assert messages(
        {"role": "User", "content": "plain"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "said"}]},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "look "},
                {"type": "input_image", "image_url": PNG_URL},
                {"type": "input_image", "file_id": "f1"},
                {"type": "refusal", "refusal": "no"},
                {"type": "input_text", "text": "!"},
            ],
        },
        {"role": "user"},
        {"type": "web_search_call", "id": "w1"},
    ) == (
        Message("user", "plain"),
        Message("assistant", "said"),
        Message("user", "look no!", images=(PNG,)),
        Message("user"),
    )


def test_what_is_said_to_the_system_at_first_is_one_message() -> None:
    assert messages(
        {"role": "developer", "content": "b"},
        {"role": "system", "content": "c"},
        {"role": "user", "content": "d"},
        {"role": "developer", "content": "e"},
        instructions="a",
    ) == (Message("system", "a\n\nb\n\nc"), Message("user", "d"), Message("system", "e"))


def test_calls_of_one_turn_stand_together() -> None:
    first, second = ToolCall("c1", 0, "weather", '{"b":1,"a":2}'), ToolCall("c2", 1, "sky.moon", "{}")
    assert messages(
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "let me see"},
        call(),
        call("c2", "moon", "", namespace="sky"),
        output(),
        output("c2", [{"type": "input_text", "text": "new"}, {"type": "input_image", "image_url": PNG_URL}]),
        output("c9", None),
    ) == (
        Message("user", "?"),
        Message("assistant", "let me see", tool_calls=(first, second)),
        Message("tool", "sunny", tool_name="weather", tool_call_id="c1"),
        Message("tool", "new", images=(PNG,), tool_name="sky.moon", tool_call_id="c2"),
        Message("tool", tool_call_id="c9"),
    )


def test_text_between_a_call_and_its_output_goes_to_the_call() -> None:
    told = ToolCall("c1", 0, "weather", "{}")
    texts = [{"role": "assistant", "content": "one"}, {"role": "assistant", "content": "two"}]
    assert messages(call(arguments="{}"), *texts, output()) == (
        Message("assistant", "one\ntwo", tool_calls=(told,)),
        Message("tool", "sunny", tool_name="weather", tool_call_id="c1"),
    )


def test_thoughts_stand_with_what_follows_them() -> None:
    told = ToolCall("c1", 0, "weather", "{}")
    summary = [{"type": "summary_text", "text": "in "}, {"type": "summary_text", "text": "short"}, 5, {"text": 1}]
    assert messages(
        {"type": "reasoning", "summary": [], "encrypted_content": "hm"},
        call(arguments="{}"),
        {"type": "reasoning", "summary": summary},
        {"role": "assistant", "content": "so"},
        output(),
        {"type": "reasoning", "encrypted_content": "now"},
        {"role": "assistant", "content": "done"},
        {"type": "reasoning", "encrypted_content": "left over"},
        {"role": "user", "content": "thanks"},
    ) == (
        Message("assistant", "so", thinking="in short", tool_calls=(told,)),
        Message("tool", "sunny", tool_name="weather", tool_call_id="c1"),
        Message("assistant", "done", thinking="now"),
        Message("user", "thanks"),
        Message("assistant", thinking="left over"),
    )


STATE = "is not supported: responses are not kept here; send the earlier turns in 'input'"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model": ""}, "model is required"),
        ({"previous_response_id": "resp_1"}, f"previous_response_id {STATE}"),
        ({"conversation": {"id": "conv_1"}}, f"conversation {STATE}"),
        (
            {"input": 5},
            "input must be a string or array: json: cannot unmarshal number into Go value of type []json.RawMessage",
        ),
        (
            {"input": ["x"]},
            "input[0]: json: cannot unmarshal string into Go value of type openai.ResponsesInputItem",
        ),
        ({"input": [{}]}, "input[0]: input item missing required 'type' field"),
        ({"input": [{"role": "user"}, {"type": "x"}]}, 'input[1]: unknown input item type: "x"'),
        (
            {"input": [{"role": "user", "content": 5}]},
            "input[0]: content must be a string or array: json: cannot unmarshal number into Go value of type "
            "[]json.RawMessage",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "x"}]}]},
            "input[0]: content[0]: unknown content type: x",
        ),
        ({"input": [{"role": "user", "content": [5]}]}, "input[0]: content[0]: unknown content type: number"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            "input[0]: file inputs are not currently supported",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}]},
            "input[0]: invalid image input",
        ),
        (
            {"input": [call(arguments="[]")]},
            "input[0]: failed to parse function call arguments: they are no JSON object",
        ),
        (
            {"input": [call(call_id=5)]},  # type: ignore[arg-type]
            "input[0]: json: cannot unmarshal number into Go struct field ResponsesFunctionCall.call_id of type string",
        ),
        (
            {"input": [output(result=5)]},
            "input[0]: output must be a string or array: json: cannot unmarshal number "
            "into Go value of type []json.RawMessage",
        ),
        ({"tools": [{"type": "function"}]}, "a tool of type function needs a name"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "web_search"}},
            'tool_choice must be "auto", "none", "required" or name a function',
        ),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}},
            "tool_choice names 'x', which is not among the tools",
        ),
        (
            {"text": {"format": "json"}},
            "json: cannot unmarshal string into Go struct field ResponsesRequest.text.format of type "
            "openai.ResponsesTextFormat",
        ),
        (
            {"max_output_tokens": "5"},
            "json: cannot unmarshal string into Go struct field ResponsesRequest.max_output_tokens of type int",
        ),
        (
            {"reasoning": {"effort": "x"}},
            'invalid reasoning value: "x" (must be "minimal", "low", "medium", "high", "xhigh", "ultra", '
            '"max", or "none")',
        ),
    ],
)
def test_refusals(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(**fields)
    assert str(caught.value) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=8,
)
TYPES = st.sampled_from(["message", "function_call", "function_call_output", "reasoning", "web_search_call"])
ITEM = st.fixed_dictionaries(
    {},
    optional={
        "type": TYPES | JSON,
        "role": st.sampled_from(["user", "assistant", "system", "developer"]) | JSON,
        "content": JSON,
        "summary": JSON,
        "encrypted_content": st.text() | JSON,
        "call_id": st.text(max_size=1) | JSON,
        "name": st.text(max_size=1) | JSON,
        "arguments": st.just("{}") | JSON,
        "output": JSON,
    },
)
FIELDS = st.sampled_from(["model", "tools", "tool_choice", "text", "reasoning", "metadata", "instructions", "stream"])


@given(st.dictionaries(FIELDS, JSON), st.lists(ITEM, max_size=4) | JSON)
def test_no_json_raises_anything_but_bad_request(fields: dict[str, Any], items: Any) -> None:
    with suppress(BadRequest):
        read(**{**fields, "input": items})


@given(
    st.lists(
        st.sampled_from([call(), output(), {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}])
    )
)
def test_nothing_said_is_lost(items: list[dict[str, Any]]) -> None:
    read_back = messages(*items)
    said = "".join(message.content for message in read_back if message.role in ("user", "assistant"))
    assert said.replace("\n", "") == "".join(item["content"] for item in items if "role" in item)
    assert sum(len(message.tool_calls) for message in read_back) == items.count(call())
    assert sum(message.role == "tool" for message in read_back) == items.count(output())
