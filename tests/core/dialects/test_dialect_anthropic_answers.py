import json
from typing import Any

import pytest
from event_support import ANSWERS, CALL, CUTS, LAST, STATS, named_events, told_in_batches
from hypothesis import given

from ollamamax.core.dialects.anthropic_answers import MessageAnswer, error_body, token_count
from ollamamax.core.errors import EngineProtocol
from ollamamax.core.types import Chunk, ToolCall

BASE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m"}
USAGE = {"input_tokens": 9, "output_tokens": 3}


def answer() -> MessageAnswer:
    return MessageAnswer("m", "msg_1", 5, "r-1")


def stream(*chunks: Chunk) -> list[dict[str, Any]]:
    told = named_events(answer().frames(chunks, 0, 0))
    assert all(name == body["type"] for name, body in told)
    return [body for _, body in told]


def test_a_streamed_answer_golden() -> None:
    begun = {**BASE, "content": [], "stop_reason": None, "stop_sequence": None}
    told = stream(Chunk(thinking="hm"), Chunk(text="Hel"), Chunk(text="lo"), Chunk(tool_calls=(CALL,)), LAST)
    assert told == [
        {"type": "message_start", "message": {**begun, "usage": {"input_tokens": 5, "output_tokens": 0}}},
        {"type": "ping"},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "thinking", "thinking": "", "signature": ""},
        },
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hel"}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "lo"}},
        {"type": "content_block_stop", "index": 1},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}},
        },
        {
            "type": "content_block_delta",
            "index": 2,
            "delta": {"type": "input_json_delta", "partial_json": '{"b":1,"a":"x"}'},
        },
        {"type": "content_block_stop", "index": 2},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": USAGE},
        {"type": "message_stop"},
    ]


@pytest.mark.parametrize(("reason", "told"), [("stop", "end_turn"), ("length", "max_tokens"), ("load", "end_turn")])
def test_stop_reasons(reason: str, told: str) -> None:
    assert stream(Chunk(done_reason=reason))[-2]["delta"]["stop_reason"] == told
    assert json.loads(answer().whole(Chunk(done_reason=reason), 0, 0))["stop_reason"] == told


def test_an_answer_at_once() -> None:
    chunk = Chunk(thinking="hm", text="Hello", tool_calls=(CALL,), done_reason="stop", stats=STATS)
    assert json.loads(answer().whole(chunk, 0, 0)) == {
        **BASE,
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "Hello"},
            {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"b": 1, "a": "x"}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": USAGE,
    }
    empty = json.loads(answer().whole(Chunk(done_reason="length"), 0, 0))
    assert (empty["content"], empty["usage"]) == ([], {"input_tokens": 0, "output_tokens": 0})


def test_an_error_is_the_last_event() -> None:
    told = {"type": "error", "error": {"type": "api_error", "message": "it broke"}, "request_id": "req_r-1"}
    assert named_events(answer().error("it broke")) == [("error", told)]
    assert answer().end() == b""


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (529, "overloaded_error"),
    ],
)
def test_errors(status: int, kind: str) -> None:
    assert error_body(status, "no", "r-1") == {
        "type": "error",
        "error": {"type": kind, "message": "no"},
        "request_id": "req_r-1",
    }


def test_counts() -> None:
    assert json.loads(token_count(STATS)) == {"input_tokens": 9}
    assert json.loads(token_count(None)) == {"input_tokens": 0}


def test_a_half_made_call_fails_here() -> None:
    with pytest.raises(EngineProtocol):
        stream(Chunk(tool_calls=(ToolCall("c", 0, "now", "[]"),)))


@given(ANSWERS, CUTS)
def test_events_are_whole_whatever_the_batches(chunks: list[Chunk], cuts: list[int]) -> None:
    at_once = answer().frames(chunks, 0, 0)
    assert told_in_batches(answer().frames, chunks, cuts) == at_once
    told = [body for _, body in named_events(at_once)]
    assert [body["type"] for body in told[:2]] == ["message_start", "ping"]
    assert [body["type"] for body in told[-2:]] == ["message_delta", "message_stop"]
    blocks = blocks_of(told[2:-2])
    for kind, field in (("text", "text"), ("thinking", "thinking")):
        said = "".join(text for block, text in blocks if block == kind)
        assert said == "".join(getattr(chunk, field) for chunk in chunks)
    assert sum(kind == "tool_use" for kind, _ in blocks) == sum(len(chunk.tool_calls) for chunk in chunks)


def blocks_of(told: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Kind and content of each block as a client puts it together; each opens and closes before the next one."""
    blocks: list[tuple[str, str]] = []
    is_open = False
    for body in told:
        if body["type"] == "content_block_start":
            assert not is_open
            is_open = True
            blocks.append((body["content_block"]["type"], ""))
        assert is_open
        assert body["index"] == len(blocks) - 1
        kind, text = blocks[-1]
        if body["type"] == "content_block_delta":
            pieces = {"text": "text", "thinking": "thinking", "tool_use": "partial_json"}
            blocks[-1] = kind, text + body["delta"][pieces[kind]]
        elif body["type"] == "content_block_stop":
            is_open = False
    assert not is_open
    return blocks
