import base64
import json
import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.dialects import openai_completions, openai_embeddings
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import (
    ChatRequest,
    Chunk,
    EmbedRequest,
    EmbedResult,
    GenerationStats,
    Message,
    Options,
    TokenLogprob,
)

STATS = GenerationStats(prompt_tokens=9, eval_tokens=3)
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
BASE = {"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "m", "system_fingerprint": "fp_ollama"}
PLAIN = Options(temperature=1.0, top_p=1.0, frequency_penalty=0.0, presence_penalty=0.0)


def read(**fields: Any) -> openai_completions.Completion:
    return openai_completions.completion(json.dumps({"model": "m", "prompt": "hi", **fields}).encode())


def answer(include_usage: bool = False) -> openai_completions.CompletionAnswer:
    return openai_completions.CompletionAnswer("m", "cmpl-1", 5, include_usage)


def events(data: bytes) -> list[Any]:
    parts = data.decode().split("\n\n")
    assert parts.pop() == ""
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def test_defaults() -> None:
    asked = read(echo=True, best_of=3, n=2)
    assert asked.request == ChatRequest(model="m", messages=(Message("user", "hi"),), options=PLAIN, stream=False)
    assert not asked.include_usage


def test_everything() -> None:
    asked = read(
        suffix="end",
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=5,
        seed=1,
        stop=["x"],
        temperature=0,
        top_p=0.5,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        logprobs=2,
    )
    assert asked.include_usage
    request = asked.request
    assert (request.suffix, request.stream, request.logprobs, request.top_logprobs) == ("end", True, True, 2)
    assert request.options == Options(
        num_predict=5,
        seed=1,
        stop=("x",),
        temperature=0.0,
        top_p=0.5,
        frequency_penalty=0.1,
        presence_penalty=0.2,
    )


def test_without_a_prompt_the_model_is_loaded() -> None:
    assert read(prompt="").request.messages == ()
    assert read(prompt=None).request.messages == ()


def test_no_alternatives_are_logprobs_too() -> None:
    request = read(logprobs=0).request
    assert (request.logprobs, request.top_logprobs) == (True, 0)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"prompt": ["a", "b"]},
            "json: cannot unmarshal array into Go struct field CompletionRequest.prompt of type string",
        ),
        ({"logprobs": 21}, "top_logprobs must be between 0 and 20"),
        ({"logprobs": -1}, "top_logprobs must be between 0 and 20"),
        (
            {"logprobs": True},
            "json: cannot unmarshal bool into Go struct field CompletionRequest.logprobs of type int",
        ),
        ({"stop": 1}, "stop must be a string or an array of strings"),
    ],
)
def test_refusals(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(**fields)
    assert str(caught.value) == text


def test_a_streamed_answer() -> None:
    chunks = [
        Chunk(thinking="hm"),
        Chunk(text="He\n"),
        Chunk(text="llo"),
        Chunk(text="!", done_reason="stop", stats=STATS),
    ]
    told = events(answer().frames(chunks, 0, 0))
    assert told == [
        {**BASE, "choices": [{"text": "He\n", "index": 0, "finish_reason": None}]},
        {**BASE, "choices": [{"text": "llo", "index": 0, "finish_reason": None}]},
        {**BASE, "choices": [{"text": "!", "index": 0, "finish_reason": "stop"}]},
    ]
    assert answer().end() == b"data: [DONE]\n\n"
    error = {"message": "no", "type": "api_error", "param": None, "code": None}
    assert events(answer().error("no")) == [{"error": error}]


def test_usage_is_zero_until_the_end() -> None:
    told = events(answer(include_usage=True).frames([Chunk(text="a"), Chunk(done_reason="length", stats=STATS)], 0, 0))
    assert [event["usage"] for event in told] == [NO_USAGE, NO_USAGE, USAGE]
    assert [len(event["choices"]) for event in told] == [1, 1, 0]
    assert told[1]["choices"][0]["finish_reason"] == "length"


def test_logprobs_know_where_their_tokens_stand() -> None:
    rival = TokenLogprob("z", -2.0)
    one, two = TokenLogprob("ab", -0.5, (97, 98), (rival,)), TokenLogprob("c", -1.0)
    chunks = [
        Chunk(text="xy"),
        Chunk(text="abc", logprobs=(one, two)),
        Chunk(text="c", logprobs=(two,), done_reason="stop", stats=STATS),
    ]
    _, first, last = events(answer().frames(chunks, 0, 0))
    assert first["choices"][0]["logprobs"] == {
        "tokens": ["ab", "c"],
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [{"z": -2.0}, {}],
        "text_offset": [2, 4],
    }
    assert last["choices"][0]["logprobs"]["text_offset"] == [5]
    assert last["choices"][0]["finish_reason"] == "stop"


def test_an_answer_at_once() -> None:
    told = json.loads(answer().whole(Chunk(text="hello", done_reason="load"), 0, 0))
    assert told == {
        **BASE,
        "choices": [{"text": "hello", "index": 0, "finish_reason": "load"}],
        "usage": NO_USAGE,
    }


@given(st.lists(st.text()), st.booleans())
def test_no_text_is_lost(texts: list[str], include_usage: bool) -> None:
    chunks = [*(Chunk(text=text) for text in texts), Chunk(done_reason="stop", stats=STATS)]
    told = events(answer(include_usage).frames(chunks, 0, 0))
    assert "".join(choice["text"] for event in told for choice in event["choices"]) == "".join(texts)
    assert [choice["finish_reason"] for event in told for choice in event["choices"]][-1] == "stop"


def embed(**fields: Any) -> openai_embeddings.Embeddings:
    return openai_embeddings.embeddings(json.dumps({"model": "m", **fields}).encode())


@pytest.mark.parametrize(
    ("given_input", "inputs"), [("a", ("a",)), ("", ("",)), (["a", "b"], ("a", "b")), ([""], ("",))]
)
def test_inputs(given_input: object, inputs: tuple[str, ...]) -> None:
    assert embed(input=given_input) == openai_embeddings.Embeddings(EmbedRequest(model="m", inputs=inputs))


def test_dimensions_and_encodings() -> None:
    asked = embed(input="a", dimensions=4, encoding_format="BASE64", user="me")
    assert asked.request.dimensions == 4
    assert asked.as_base64
    assert not embed(input="a", encoding_format="float").as_base64


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "invalid input"),
        ({"input": []}, "invalid input"),
        ({"input": [1, 2, 3]}, "invalid input type"),
        ({"input": [[1, 2]]}, "invalid input type"),
        ({"input": 5}, "invalid input type"),
        (
            {"encoding_format": "int8"},
            "Invalid value for 'encoding_format' = int8. Supported values: ['float', 'base64'].",
        ),
    ],
)
def test_refused_embeddings(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        embed(**fields)
    assert str(caught.value) == text


VECTORS = ((0.5, -0.25), (1.0, 0.0))


def test_vectors_as_numbers() -> None:
    assert json.loads(openai_embeddings.embedding_list("m", EmbedResult(VECTORS, prompt_tokens=7), False)) == {
        "object": "list",
        "data": [
            {"object": "embedding", "embedding": [0.5, -0.25], "index": 0},
            {"object": "embedding", "embedding": [1.0, 0.0], "index": 1},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), min_size=1))
def test_vectors_as_base64_are_little_endian_float32(vectors: list[list[float]]) -> None:
    result = EmbedResult(tuple(tuple(vector) for vector in vectors))
    told = json.loads(openai_embeddings.embedding_list("m", result, True))
    back = [base64.b64decode(item["embedding"]) for item in told["data"]]
    assert [list(struct.unpack(f"<{len(packed) // 4}f", packed)) for packed in back] == vectors


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["model", "prompt", "suffix", "logprobs", "stop", "stream_options"]), JSON))
def test_no_json_raises_anything_but_bad_request(fields: dict[str, Any]) -> None:
    with suppress(BadRequest):
        read(**fields)
    with suppress(BadRequest):
        embed(input=fields.get("prompt"), encoding_format=fields.get("suffix"), dimensions=fields.get("logprobs"))
