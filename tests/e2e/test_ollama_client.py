"""The `ollama` client from PyPI against a real node."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import ollama
import pytest
from nodes import Node, eventually

QUESTIONS = json.loads((Path(__file__).parent / "tiny_questions.json").read_text())
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
GREEDY = {"temperature": 0}


@pytest.fixture
def client(shared_node: Node) -> Iterator[ollama.Client]:
    client = ollama.Client(host=shared_node.url, timeout=120)
    yield client
    client._client.close()


@pytest.mark.parametrize("entry", QUESTIONS, ids=lambda entry: str(entry.get("question", "conversation")))
def test_tiny_answers_sensibly(client: ollama.Client, entry: dict[str, object]) -> None:
    messages = entry.get("messages") or [{"role": "user", "content": entry["question"]}]
    answer = client.chat("tiny", messages=messages, options=GREEDY)  # type: ignore[call-overload]
    text = answer.message.content or ""
    assert any(str(one).lower() in text.lower() for one in entry["accept"]), text  # type: ignore[attr-defined]


def test_chat_streams_pieces_that_make_the_whole(client: ollama.Client) -> None:
    messages = [{"role": "user", "content": "What is OllamaMax?"}]
    whole = client.chat("tiny", messages=messages, options=GREEDY)
    parts = list(client.chat("tiny", messages=messages, options=GREEDY, stream=True))
    assert len(parts) > 3
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    last = parts[-1]
    assert last.done_reason == "stop"
    for figure in (last.total_duration, last.prompt_eval_count, last.eval_count, last.eval_duration):
        assert figure
        assert figure > 0
    assert last.eval_count == whole.eval_count


def test_generate(client: ollama.Client) -> None:
    whole = client.generate("tiny", "What is the capital of France?", options=GREEDY)
    assert "Paris" in whole.response
    assert whole.done_reason == "stop"
    assert whole.context
    parts = list(client.generate("tiny", "What is the capital of France?", options=GREEDY, stream=True))
    assert "".join(part.response for part in parts) == whole.response


def test_options_act(client: ollama.Client) -> None:
    short = client.generate("chain", "abc", raw=True, options={"num_predict": 5, "temperature": 0})
    assert short.done_reason == "length"
    assert short.eval_count == 5
    whole = client.generate("chain", "abc", raw=True, options={"num_predict": 40, "temperature": 0}).response
    stop = whole[10:12]
    cut = client.generate("chain", "abc", raw=True, options={"num_predict": 40, "temperature": 0, "stop": [stop]})
    assert cut.response == whole[: whole.index(stop)]
    assert cut.done_reason == "stop"


def test_system_and_template_of_a_created_model_act(client: ollama.Client) -> None:
    created = client.create(
        "parrot", from_="chain", template="{{ .System }}|{{ .Prompt }}|", system="sys", parameters={"num_predict": 3}
    )
    assert created.status == "success"
    shown = client.show("parrot")
    assert shown.template == "{{ .System }}|{{ .Prompt }}|"
    assert shown.parameters
    assert shown.parameters.split() == ["num_predict", "3"]
    answer = client.generate("parrot", "hello")
    assert answer.eval_count == 3
    prompt = "sys|hello|"
    raw = client.generate("chain", prompt, raw=True, options={"num_predict": 3})
    assert answer.response == raw.response
    assert answer.prompt_eval_count == raw.prompt_eval_count
    client.delete("parrot")


def test_json_schema_is_obeyed(client: ollama.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"capital": {"type": "string", "enum": ["Paris", "Rome"]}, "sure": {"type": "boolean"}},
        "required": ["capital", "sure"],
    }
    question = [{"role": "user", "content": "Answer in JSON: what is the capital of France?"}]
    answer = client.chat("tiny", messages=question, format=schema, options={**GREEDY, "num_predict": 100})
    value = json.loads(answer.message.content or "")
    assert set(value) == {"capital", "sure"}
    assert value["capital"] in ("Paris", "Rome")
    free = client.chat("tiny", messages=question, format="json", options={**GREEDY, "num_predict": 100})
    assert isinstance(json.loads(free.message.content or ""), dict)


@pytest.mark.parametrize("stream", [False, True])
def test_tools(client: ollama.Client, stream: bool) -> None:
    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    if stream:
        parts = list(client.chat("tiny", messages=question, tools=[WEATHER], options=GREEDY, stream=True))
        calls = [call for part in parts for call in part.message.tool_calls or []]
        assert parts[-1].done
    else:
        calls = list(client.chat("tiny", messages=question, tools=[WEATHER], options=GREEDY).message.tool_calls or [])
    assert [call.function.name for call in calls] == ["get_weather"]
    assert calls[0].function.arguments == {"city": "Paris"}
    follow = [
        *question,
        {"role": "assistant", "content": "", "tool_calls": [call.model_dump() for call in calls]},
        {"role": "tool", "content": "sunny", "tool_name": "get_weather"},
    ]
    answer = client.chat("tiny", messages=follow, tools=[WEATHER], options=GREEDY)
    assert "sunny" in (answer.message.content or "").lower()


def test_embed(client: ollama.Client) -> None:
    answer = client.embed("embedder", ["one", "two", "one"])
    assert len(answer.embeddings) == 3
    assert answer.embeddings[0] == pytest.approx(answer.embeddings[2], abs=1e-4)
    assert answer.embeddings[0] != pytest.approx(answer.embeddings[1], abs=1e-4)
    for vector in answer.embeddings:
        assert sum(x * x for x in vector) == pytest.approx(1.0, abs=1e-4)
    assert answer.prompt_eval_count
    cut = client.embed("embedder", "one", dimensions=8)
    assert len(cut.embeddings[0]) == 8
    with pytest.raises(ollama.ResponseError, match="embed"):
        client.embed("tiny", "one")


def test_embeddings_in_the_older_form(client: ollama.Client) -> None:
    older = client.embeddings("embedder", "one").embedding
    assert older == pytest.approx(client.embed("embedder", "one").embeddings[0], abs=1e-6)
    assert not client.embeddings("embedder", "").embedding


def test_a_prompt_that_is_too_long_loses_its_middle(client: ollama.Client) -> None:
    options = {"num_ctx": 256, "num_predict": 3, "temperature": 0}
    answer = client.generate("chain", "a" * 600 + "xyz", raw=True, options=options)
    assert answer.response == "ABC"
    assert (answer.prompt_eval_count or 0) < 256
    with pytest.raises(ollama.ResponseError, match="longer than the context length"):
        client._request_raw(
            "POST",
            "/api/generate",
            json={"model": "chain", "prompt": "a" * 600, "truncate": False, "options": options, "stream": False},
        )


def test_keep_alive_loads_and_unloads(client: ollama.Client) -> None:
    def loaded() -> list[str | None]:
        return [row.name for row in client.ps().models]

    client.copy("chain", "mine")
    assert client.generate("mine", "", keep_alive="10m").done_reason == "load"
    assert any(name in ("mine:latest", "chain:latest") for name in loaded())
    rows = [row for row in client.ps().models if row.name in ("mine:latest", "chain:latest")]
    assert rows[0].size
    assert rows[0].expires_at is not None
    assert client.generate("mine", "", keep_alive=0).done_reason == "unload"
    eventually("mine has left memory", lambda: not {"mine:latest", "chain:latest"} & set(loaded()))
    client.delete("mine")


def test_list_show_copy_delete(client: ollama.Client) -> None:
    names = {row.model for row in client.list().models}
    assert {"tiny:latest", "chain:latest", "embedder:latest"} <= names
    shown = client.show("tiny")
    assert shown.modelinfo
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["llama.context_length"] >= 512
    assert {"completion", "tools"} <= set(shown.capabilities or [])
    client.copy("tiny", "someone/copy:v1")
    rows = {row.model: row for row in client.list().models}
    assert rows["someone/copy:v1"].digest == rows["tiny:latest"].digest
    client.delete("someone/copy:v1")
    assert "someone/copy:v1" not in {row.model for row in client.list().models}


@pytest.mark.parametrize(
    ("call", "status", "text"),
    [
        (lambda c: c.chat("nobody", messages=[{"role": "user", "content": "x"}]), 404, "model 'nobody' not found"),
        (lambda c: c.generate("nobody", "x"), 404, "model 'nobody' not found"),
        (lambda c: c.embed("nobody", "x"), 404, 'model "nobody" not found, try pulling it first'),
        (lambda c: c.show("nobody"), 404, "model 'nobody:latest' not found"),
        (lambda c: c.generate("../etc/passwd", "x"), 400, "invalid model name"),
        (lambda c: c.copy("nobody", "other"), 404, 'model "nobody" not found'),
        (lambda c: c.delete("nobody"), 404, "model 'nobody' not found"),
        (lambda c: c.create("x"), 400, "neither 'from' or 'files' was specified"),
    ],
)
def test_errors_are_ollamas(
    client: ollama.Client, call: Callable[[ollama.Client], object], status: int, text: str
) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        call(client)
    assert (caught.value.status_code, caught.value.error) == (status, text)
