import json
from typing import Any

import pytest
from event_support import ANSWERS, CALL, CUTS, LAST, STATS, named_events, told_in_batches
from hypothesis import given
from msgspec import Raw

from ollamamax.core.dialects.responses import response_request
from ollamamax.core.dialects.responses_answers import ResponseAnswer
from ollamamax.core.errors import EngineProtocol
from ollamamax.core.types import Chunk, ToolCall

WALL_NS = 7_000_000_001
USAGE = {
    "input_tokens": 9,
    "output_tokens": 3,
    "total_tokens": 12,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens_details": {"reasoning_tokens": 0},
}
FIELDS = [
    *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "previous_response_id"),
    *("instructions", "output", "error", "tools", "tool_choice", "truncation", "parallel_tool_calls", "text", "top_p"),
    *("presence_penalty", "frequency_penalty", "top_logprobs", "temperature", "reasoning", "usage"),
    *("max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata"),
    *("safety_identifier", "prompt_cache_key"),
]
THOUGHTS = {
    "id": "rs_n_0",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "hm, so"}],
    "encrypted_content": "hm, so",
}
PART = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
MESSAGE = {"id": "msg_n_1", "type": "message", "status": "completed", "role": "assistant", "content": [PART]}
FUNCTION_CALL = {
    "id": "fc_n_2",
    "type": "function_call",
    "status": "completed",
    "call_id": "call_1",
    "name": "weather",
    "arguments": '{"b":1,"a":"x"}',
}


def repeated(**fields: Any) -> dict[str, Raw]:
    return response_request(json.dumps({"model": "m", "input": "hi", **fields}).encode()).repeated


def answer(**fields: Any) -> ResponseAnswer:
    return ResponseAnswer("m", repeated(**fields), "n", 5)


def stream(*chunks: Chunk, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    return named_events(answer(**fields).frames(chunks, WALL_NS, 0))


def test_a_streamed_answer_golden() -> None:
    told = stream(Chunk(thinking="hm,"), Chunk(thinking=" so"), Chunk(text="Hel"), Chunk(text="lo"), LAST)
    assert [name for name, _ in told] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    thoughts = {"item_id": "rs_n_0", "output_index": 0, "summary_index": 0}
    text = {"item_id": "msg_n_1", "output_index": 1, "content_index": 0}
    bodies = [
        {name: value for name, value in body.items() if name not in ("type", "sequence_number")} for _, body in told
    ]
    assert bodies[2:-1] == [
        {"output_index": 0, "item": {"id": "rs_n_0", "type": "reasoning", "summary": []}},
        {**thoughts, "delta": "hm,"},
        {**thoughts, "delta": " so"},
        {**thoughts, "text": "hm, so"},
        {"output_index": 0, "item": THOUGHTS},
        {"output_index": 1, "item": {**MESSAGE, "status": "in_progress", "content": []}},
        {**text, "part": {**PART, "text": ""}},
        {**text, "logprobs": [], "delta": "Hel"},
        {**text, "logprobs": [], "delta": "lo"},
        {**text, "text": "Hello", "logprobs": []},
        {**text, "part": PART},
        {"output_index": 1, "item": MESSAGE},
    ]
    begun, whole = told[0][1]["response"], told[-1][1]["response"]
    assert told[1][1]["response"] == begun
    assert list(begun) == list(whole) == FIELDS
    assert (begun["status"], begun["completed_at"], begun["usage"], begun["output"]) == ("in_progress", None, None, [])
    assert (whole["status"], whole["completed_at"], whole["usage"]) == ("completed", 7, USAGE)
    assert whole["output"] == [THOUGHTS, MESSAGE]


def test_calls_are_items_of_their_own() -> None:
    told = stream(Chunk(thinking="hm, so"), Chunk(text="Hello"), Chunk(tool_calls=(CALL,)), Chunk(text="!"), LAST)
    names = [name for name, _ in told]
    first = names.index("response.function_call_arguments.delta") - 1
    assert names[first:] == [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert told[first][1]["item"] == {**FUNCTION_CALL, "status": "in_progress", "arguments": ""}
    assert told[first + 1][1]["delta"] == CALL.arguments
    assert told[first + 2][1]["arguments"] == CALL.arguments
    assert told[first + 3][1]["item"] == FUNCTION_CALL
    assert told[-1][1]["response"]["output"] == [THOUGHTS, MESSAGE, FUNCTION_CALL]


def test_the_request_is_repeated_in_every_object() -> None:
    fields: dict[str, Any] = {"instructions": "x", "metadata": {"a": "b"}, "max_output_tokens": 5, "temperature": 0}
    told = stream(LAST, **fields)
    for _, body in told:
        assert {name: body["response"][name] for name in fields} == fields


def test_an_answer_of_nothing() -> None:
    told = stream(LAST)
    assert [name for name, _ in told] == ["response.created", "response.in_progress", "response.completed"]
    assert told[-1][1]["response"]["output"] == []


def test_an_answer_at_once() -> None:
    chunk = Chunk(thinking="hm, so", text="Hello", tool_calls=(CALL,), done_reason="stop", stats=STATS)
    told = json.loads(answer().whole(chunk, WALL_NS, 0))
    assert list(told) == FIELDS
    assert told["output"] == [THOUGHTS, MESSAGE, FUNCTION_CALL]
    assert (told["status"], told["created_at"], told["completed_at"], told["usage"]) == ("completed", 5, 7, USAGE)


@pytest.mark.parametrize(("calls", "kinds"), [((), ["message"]), ((CALL,), ["function_call"])])
def test_an_answer_without_text(calls: tuple[ToolCall, ...], kinds: list[str]) -> None:
    told = json.loads(answer().whole(Chunk(tool_calls=calls, done_reason="length"), WALL_NS, 0))
    assert [item["type"] for item in told["output"]] == kinds
    assert told["usage"]["total_tokens"] == 0


def test_an_error_is_the_last_event() -> None:
    writer = answer()
    writer.frames([Chunk(text="Hel")], WALL_NS, 0)
    [(name, body)] = named_events(writer.error("it broke"))
    assert name == body["type"] == "response.failed"
    assert body["sequence_number"] == 5
    assert body["response"]["status"] == "failed"
    assert body["response"]["error"] == {"code": "server_error", "message": "it broke"}
    assert writer.end() == b""


def test_a_half_made_call_fails_here() -> None:
    with pytest.raises(EngineProtocol):
        stream(Chunk(tool_calls=(ToolCall("c", 0, "now", "{"),)))


@given(ANSWERS, CUTS)
def test_events_are_whole_whatever_the_batches(chunks: list[Chunk], cuts: list[int]) -> None:
    at_once = answer().frames(chunks, 0, 0)
    assert told_in_batches(answer().frames, chunks, cuts) == at_once
    told = named_events(at_once)
    assert [body["sequence_number"] for _, body in told] == list(range(len(told)))
    assert all(name == body["type"] for name, body in told)
    output = told[-1][1]["response"]["output"]
    assert items_of(told) == output
    called = next((place for place, chunk in enumerate(chunks) if chunk.tool_calls), len(chunks))
    said = "".join(part["text"] for item in output if item["type"] == "message" for part in item["content"])
    assert said == "".join(chunk.text for chunk in chunks[:called])
    thought = "".join(item["encrypted_content"] for item in output if item["type"] == "reasoning")
    assert thought == "".join(chunk.thinking for chunk in chunks)
    calls = [item["call_id"] for item in output if item["type"] == "function_call"]
    assert calls == [call.id for chunk in chunks for call in chunk.tool_calls]
    assert len({item["id"] for item in output}) == len(output)


def items_of(told: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The items as a client puts them together from the pieces; each opens and closes before the next one."""
    items: list[dict[str, Any]] = []
    pieces: list[str] | None = None
    for name, body in told[2:-1]:
        if name == "response.output_item.added":
            assert pieces is None
            assert body["output_index"] == len(items)
            pieces = []
            continue
        assert pieces is not None
        assert body["output_index"] == len(items)
        if name.endswith(".delta"):
            pieces.append(body["delta"])
        elif name.endswith("text.done"):
            assert body["text"] == "".join(pieces)
        elif name == "response.function_call_arguments.done":
            assert body["arguments"] == "".join(pieces)
        elif name == "response.output_item.done":
            items.append(body["item"])
            pieces = None
    assert pieces is None
    return items
