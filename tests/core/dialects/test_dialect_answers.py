import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.dialects import ollama_answers, openai_answers
from ollamamax.core.dialects.framing import Stamp, local_time, ndjson, sse
from ollamamax.core.dialects.gathering import Gatherer
from ollamamax.core.errors import EngineProtocol
from ollamamax.core.types import (
    FOREVER_MS,
    Chunk,
    EmbedResult,
    GenerationStats,
    LoadedModel,
    ModelDetails,
    ModelRecord,
    Progress,
    TokenLogprob,
    ToolCall,
)

WALL_NS = 1_767_323_045_000_000_007  # 2026-01-02T03:04:05
CREATED = "2026-01-02T03:04:05.000000007Z"
STATS = GenerationStats(prompt_tokens=9, cached_tokens=4, prompt_ms=1.5, eval_tokens=3, eval_ms=2.25, load_ms=10)
METRICS = {
    "total_duration": 50,
    "load_duration": 10_000_000,
    "prompt_eval_count": 9,
    "prompt_eval_duration": 1_500_000,
    "eval_count": 3,
    "eval_duration": 2_250_000,
}
CALL = ToolCall("call_1", 0, "weather", '{"b":1,"a":"x"}')
LOGPROB = TokenLogprob("a", -0.5, (97,), (TokenLogprob("b", -1.5, (98,)),))
DETAILS = ModelDetails("parent", "gguf", "llama", ("llama",), "3.2B", "Q4_K_M", 4096, 64)


def lines(data: bytes) -> list[dict[str, Any]]:
    assert b"\n\n" not in data
    return [json.loads(line) for line in data.splitlines()]


def events(data: bytes) -> list[Any]:
    parts = data.decode().split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") for part in parts)
    return [json.loads(part[6:]) for part in parts]


@pytest.mark.parametrize("is_chat", [True, False])
def test_a_streamed_answer_golden(is_chat: bool) -> None:
    def content(text: str, **more: Any) -> dict[str, Any]:
        if is_chat:
            return {"message": {"role": "assistant", "content": text, **more}}
        return {"response": text, **more}

    answer = ollama_answers.OllamaAnswer('t"iny', is_chat, Stamp())
    chunks = [
        Chunk(thinking="hm"),
        Chunk(text="<b>\u00e9\n"),
        Chunk(token_ids=(1,)),
        Chunk(text="", logprobs=(LOGPROB,)),
        Chunk(tool_calls=(CALL,)),
        Chunk(text="end", done_reason="stop", stats=STATS, context=(1, 2)),
    ]
    base = {"model": 't"iny', "created_at": CREATED}
    call = {"id": "call_1", "function": {"index": 0, "name": "weather", "arguments": {"b": 1, "a": "x"}}}
    rival = {"token": "b", "logprob": -1.5, "bytes": [98]}
    probability = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [rival]}
    expected = [
        {**base, **content("", thinking="hm"), "done": False},
        {**base, **content("<b>\u00e9\n"), "done": False},
        {**base, **content(""), "done": False, "logprobs": [probability]},
        {**base, **content("", tool_calls=[call]), "done": False},
        {**base, **content("end"), "done": True, "done_reason": "stop", **METRICS},
    ]
    if not is_chat:
        expected[-1]["context"] = [1, 2]
    assert lines(answer.frames(chunks, WALL_NS, 50)) == expected
    assert answer.end() == b""
    assert answer.error('no "luck"') == b'{"error":"no \\"luck\\""}\n'


def test_the_order_of_fields_is_ollamas() -> None:
    answer = ollama_answers.OllamaAnswer("m", True, Stamp())
    [plain] = lines(answer.frames([Chunk(text="x")], WALL_NS, 1))
    assert list(plain) == ["model", "created_at", "message", "done"]
    [last] = lines(answer.frames([Chunk(done_reason="length", stats=STATS)], WALL_NS, 1))
    assert list(last) == ["model", "created_at", "message", "done", "done_reason", *METRICS]


def test_zero_metrics_are_left_out_and_what_took_place_took_time() -> None:
    answer = ollama_answers.OllamaAnswer("m", False, Stamp())
    bare = {"model": "m", "created_at": CREATED, "response": "", "done": True}
    for reason in ("load", "unload"):
        told = json.loads(answer.whole(Chunk(done_reason=reason, stats=STATS), WALL_NS, 9))
        assert told == {**bare, "done_reason": reason}
    assert json.loads(answer.whole(Chunk(done_reason="stop"), WALL_NS, 9)) == {**bare, "done_reason": "stop"}
    nothing = json.loads(answer.whole(Chunk(done_reason="stop", stats=GenerationStats()), WALL_NS, 0))
    assert nothing == {**bare, "done_reason": "stop", "total_duration": 1, "load_duration": 1}
    counted = GenerationStats(prompt_tokens=1, eval_tokens=1)
    hasty = json.loads(answer.whole(Chunk(done_reason="stop", stats=counted), WALL_NS, 0))
    assert (hasty["prompt_eval_duration"], hasty["eval_duration"]) == (1, 1)


@pytest.mark.parametrize("arguments", ["", "[]", "{", "\ud83d"])
def test_a_half_made_call_is_the_engines_fault(arguments: str) -> None:
    chunk = Chunk(tool_calls=(ToolCall("c", 0, "f", arguments),))
    with pytest.raises(EngineProtocol, match="the arguments of the call of 'f' are no JSON object"):
        ollama_answers.OllamaAnswer("m", True, Stamp()).frames([chunk], WALL_NS, 0)
    with pytest.raises(EngineProtocol):
        openai_answers.OpenAiAnswer("m", "id", 1, False).frames([chunk], WALL_NS, 0)


TEXT = st.text(st.characters(codec="utf-8"))


@given(st.lists(TEXT), TEXT)
def test_streamed_text_is_whole(texts: list[str], model: str) -> None:
    chunks = [*(Chunk(text=text) for text in texts), Chunk(done_reason="stop", stats=STATS)]
    told = lines(ollama_answers.OllamaAnswer(model, True, Stamp()).frames(chunks, WALL_NS, 1))
    assert "".join(line["message"]["content"] for line in told) == "".join(texts)
    assert {line["model"] for line in told} == {model}
    heard = events(openai_answers.OpenAiAnswer(model, "id", 1, True).frames(chunks, WALL_NS, 1))
    assert "".join(item["choices"][0]["delta"].get("content", "") for item in heard if item["choices"]) == "".join(
        texts
    )


def test_gathering() -> None:
    gatherer = Gatherer()
    gatherer.add([Chunk(text="a", thinking="x"), Chunk(tool_calls=(CALL,))])
    assert gatherer.whole() is None
    gatherer.add([Chunk(text="b", logprobs=(LOGPROB,)), Chunk(text="c", done_reason="stop", stats=STATS, context=(1,))])
    assert gatherer.whole() == Chunk("abc", "x", (CALL,), (), (LOGPROB,), "stop", STATS, (1,))


def test_embeddings() -> None:
    result = EmbedResult(((0.6, 0.8),), prompt_tokens=4, load_ms=1)
    told = {"model": "m", "embeddings": [[0.6, 0.8]], "total_duration": 7, "load_duration": 1_000_000}
    assert json.loads(ollama_answers.embeddings("m", result, 7)) == {**told, "prompt_eval_count": 4}
    uncounted = EmbedResult(((0.6, 0.8),), load_ms=1)
    assert json.loads(ollama_answers.embeddings("m", uncounted, 7)) == told
    assert json.loads(ollama_answers.embeddings("m", EmbedResult(()), 7)) == {"model": "m", "embeddings": []}


def test_progress() -> None:
    assert ollama_answers.progress(Progress("success")) == {"status": "success"}
    full = Progress("pulling", "sha256:a", 9, 3)
    assert ollama_answers.progress(full) == {"status": "pulling", "digest": "sha256:a", "total": 9, "completed": 3}


def test_tags() -> None:
    old = ModelRecord("old:latest", "d" * 64, 5, WALL_NS - 10**9, ModelDetails())
    new = ModelRecord("new:latest", "e" * 64, 6, WALL_NS, DETAILS, ("completion",))
    told = json.loads(ollama_answers.tags([old, new], lambda _: 7200))["models"]
    assert [row["name"] for row in told] == ["new:latest", "old:latest"]
    assert told[0] == {
        "name": "new:latest",
        "model": "new:latest",
        "modified_at": "2026-01-02T05:04:05.000000007+02:00",
        "size": 6,
        "digest": "e" * 64,
        "details": {
            "parent_model": "parent",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "3.2B",
            "quantization_level": "Q4_K_M",
            "context_length": 4096,
            "embedding_length": 64,
        },
        "capabilities": ["completion"],
    }
    assert told[1]["details"]["families"] is None
    assert "context_length" not in told[1]["details"]
    assert "capabilities" not in told[1]
    assert ollama_answers.tags([], lambda _: 0) == b'{"models":[]}'


def test_running() -> None:
    soon = LoadedModel("soon:latest", "d", 5, 0, 4096, WALL_NS + 10**9, DETAILS)
    never = LoadedModel("never:latest", "e", 6, 6, 2048, FOREVER_MS, DETAILS)
    told = json.loads(ollama_answers.running([soon, never], WALL_NS, lambda _: 0))["models"]
    assert [row["name"] for row in told] == ["never:latest", "soon:latest"]
    assert told[0]["expires_at"].startswith("2318-")
    assert told[1] == {
        "name": "soon:latest",
        "model": "soon:latest",
        "size": 5,
        "digest": "d",
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "3.2B",
            "quantization_level": "Q4_K_M",
        },
        "expires_at": "2026-01-02T03:04:06.000000007Z",
        "size_vram": 0,
        "context_length": 4096,
    }
    assert ollama_answers.running([], WALL_NS, lambda _: 0) == b'{"models":[]}'


def test_stamps() -> None:
    stamp = Stamp()
    assert stamp.at(WALL_NS) == CREATED.encode()
    assert stamp.at(WALL_NS + 1) == CREATED.replace("7Z", "8Z").encode()
    assert stamp.at(WALL_NS + 10**9) == CREATED.replace(":05.", ":06.").encode()
    assert local_time(WALL_NS, -12_600) == "2026-01-01T23:34:05.000000007-03:30"
    assert local_time(-1, 0).startswith("1970-01-01T00:00:00.")
    assert local_time(1 << 80, 3600).startswith("9999-01-01T")


def test_frames() -> None:
    assert ndjson({"a": 1}) == b'{"a":1}\n'
    assert sse({"a": 1}) == b'data: {"a":1}\n\n'


def openai_choices(data: bytes) -> list[Any]:
    return [event["choices"] for event in events(data)]


def test_a_streamed_completion_golden() -> None:
    answer = openai_answers.OpenAiAnswer("tiny", "chatcmpl-1", 77, include_usage=True)
    first = answer.frames([Chunk(), Chunk(thinking="hm", text="so")], WALL_NS, 1)
    assert events(first)[0] == {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 77,
        "model": "tiny",
        "system_fingerprint": "fp_ollama",
        "choices": [
            {
                "index": 0,
                "delta": {"role": "assistant", "content": "", "reasoning": "hm"},
                "finish_reason": None,
            }
        ],
    }
    assert openai_choices(first)[1:] == [[{"index": 0, "delta": {"content": "so"}, "finish_reason": None}]]
    plain = answer.frames([Chunk(text=" it"), Chunk(token_ids=(1,)), Chunk(text="\u00e9")], WALL_NS, 1)
    assert openai_choices(plain) == [
        [{"index": 0, "delta": {"content": " it"}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "\u00e9"}, "finish_reason": None}],
    ]
    assert set(events(plain)[0]) == set(events(first)[0])
    called = answer.frames([Chunk(tool_calls=(CALL,), logprobs=(LOGPROB,))], WALL_NS, 1)
    function = {"name": "weather", "arguments": '{"b":1,"a":"x"}'}
    rival = {"token": "b", "logprob": -1.5, "bytes": [98]}
    [[choice]] = openai_choices(called)
    assert choice["delta"] == {
        "content": "",
        "tool_calls": [{"id": "call_1", "index": 0, "type": "function", "function": function}],
    }
    assert choice["logprobs"] == {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [rival]}]}
    last = events(answer.frames([Chunk(text="!", done_reason="stop", stats=STATS)], WALL_NS, 1))
    assert [event["choices"] for event in last] == [
        [{"index": 0, "delta": {"content": "!"}, "finish_reason": None}],
        [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}],
        [],
    ]
    assert last[-1]["usage"] == {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    assert all("usage" not in event for event in last[:-1])
    assert answer.end() == b"data: [DONE]\n\n"


def test_an_empty_completion_still_tells_its_role() -> None:
    answer = openai_answers.OpenAiAnswer("m", "id", 1, include_usage=False)
    told = openai_choices(answer.frames([Chunk(done_reason="length")], WALL_NS, 1))
    assert told == [
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        [{"index": 0, "delta": {}, "finish_reason": "length"}],
    ]


def test_a_whole_completion_golden() -> None:
    answer = openai_answers.OpenAiAnswer("tiny", "chatcmpl-1", 77, include_usage=False)
    told = json.loads(answer.whole(Chunk("hi", done_reason="stop", stats=STATS), WALL_NS, 1))
    assert told == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 77,
        "model": "tiny",
        "system_fingerprint": "fp_ollama",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
    }
    chunk = Chunk("", "hm", (CALL,), (), (LOGPROB,), "stop")
    [choice] = json.loads(answer.whole(chunk, WALL_NS, 1))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["reasoning"] == "hm"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == CALL.arguments
    assert choice["logprobs"]["content"][0]["token"] == "a"


@pytest.mark.parametrize(
    ("status", "kind"), [(400, "invalid_request_error"), (404, "not_found_error"), (503, "api_error")]
)
def test_openai_errors(status: int, kind: str) -> None:
    told = {"error": {"message": "no", "type": kind, "param": None, "code": None}}
    assert openai_answers.error_body(status, "no") == told


def test_openai_error_event() -> None:
    [event] = events(openai_answers.OpenAiAnswer("m", "id", 1, False).error("no"))
    assert event["error"] == {"message": "no", "type": "api_error", "param": None, "code": None}


def test_openai_models() -> None:
    old = ModelRecord("someone/old:latest", "d", 5, WALL_NS - 10**9, DETAILS)
    new = ModelRecord("new:latest", "e", 6, WALL_NS, DETAILS)
    told = json.loads(openai_answers.model_list([old, new]))
    assert told == {
        "object": "list",
        "data": [
            {"id": "new:latest", "object": "model", "created": WALL_NS // 10**9, "owned_by": "library"},
            {"id": "someone/old:latest", "object": "model", "created": WALL_NS // 10**9 - 1, "owned_by": "someone"},
        ],
    }
    assert json.loads(openai_answers.model_list([])) == {"object": "list", "data": None}


@pytest.mark.parametrize(("is_chat", "count"), [(True, 0), (False, 2)])
def test_the_rendered_prompt(is_chat: bool, count: int) -> None:
    answer = ollama_answers.OllamaAnswer("m", is_chat, Stamp())
    place = {"message": {"role": "", "content": ""}} if is_chat else {"response": ""}
    images = {"image_count": count} if count else {}
    assert json.loads(answer.rendered("<user>hi", count, WALL_NS)) == {
        "model": "m",
        "created_at": CREATED,
        **place,
        "done": False,
        "_debug_info": {"rendered_template": "<user>hi", **images},
    }


def test_an_embedding_in_the_older_form() -> None:
    assert ollama_answers.embedding(EmbedResult(((0.5, -1.0),))) == b'{"embedding":[0.5,-1.0]}'
    assert ollama_answers.embedding(EmbedResult(())) == b'{"embedding":[]}'


def test_the_version_is_new_enough_for_those_who_ask() -> None:
    told = ollama_answers.version("0.1.0")
    assert told["ollamamax"] == "0.1.0"
    assert tuple(map(int, told["version"].split("."))) >= (0, 6, 4)  # what VS Code's Copilot asks for
