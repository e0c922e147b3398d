import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.dialects import ollama_models
from ollamamax.core.errors import BadRequest, InvalidOption, Unsupported
from ollamamax.core.types import CreateRequest, Message, Options, TransferRequest

DIGEST = "sha256:" + "a" * 64


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_show() -> None:
    shown = ollama_models.show_request(body(name="m", verbose=True, system="s", options={"num_ctx": 8}, template="t"))
    assert shown == ollama_models.ShowRequest("m", True, "s", Options(num_ctx=8))
    assert ollama_models.show_request(body(model="a", name="b")) == ollama_models.ShowRequest("a")


@pytest.mark.parametrize("read", [ollama_models.show_request, ollama_models.delete_request])
def test_show_and_delete_need_a_model(read: Any) -> None:
    with pytest.raises(BadRequest, match=r"^model is required$"):
        read(b"{}")


def test_delete_and_copy() -> None:
    assert ollama_models.delete_request(body(model="m")) == "m"
    assert ollama_models.delete_request(body(name="m")) == "m"
    assert ollama_models.copy_request(body(source="a", destination="b")) == ("a", "b")
    assert ollama_models.copy_request(b"{}") == ("", "")


def test_create_with_everything() -> None:
    request, streamed = ollama_models.create_request(
        body(
            model="new",
            files={"dir/a.gguf": DIGEST},
            adapters={"b.gguf": DIGEST},
            template="t",
            system="s",
            license=["one", "two"],
            parameters={"num_ctx": 8, "custom": "kept"},
            messages=[{"role": "user", "content": "hi"}],
            quantize="Q8_0",
            stream=False,
            requires="0.1.0",
            renderer="gemma4",
            parser="gemma4",
        )
    )
    assert not streamed
    assert request == CreateRequest(
        model="new",
        files={"dir/a.gguf": DIGEST},
        adapters={"b.gguf": DIGEST},
        template="t",
        system="s",
        licenses=("one", "two"),
        parameters={"num_ctx": 8, "custom": "kept"},
        messages=(Message("user", "hi"),),
        renderer="gemma4",
        parser="gemma4",
        requires="0.1.0",
        quantize="Q8_0",
    )


def test_create_from_another_model() -> None:
    asked = {"name": "new", "from": "old", "quantization": "F16", "license": "mine", "messages": [], "system": ""}
    request, streamed = ollama_models.create_request(json.dumps(asked).encode())
    assert streamed
    assert request == CreateRequest(model="new", from_model="old", quantize="F16", licenses=("mine",))
    assert ollama_models.create_request(b'{"license": ""}') == (CreateRequest(model=""), True)


@pytest.mark.parametrize("path", ["/a.gguf", "../a.gguf", "a/../b", "./a", "a//b", "", "..", ".", "a\\b", "a/"])
def test_files_stay_inside(path: str) -> None:
    with pytest.raises(BadRequest, match=r"^file path must be relative$"):
        ollama_models.create_request(body(model="m", files={path: DIGEST}))


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"files": {"a": ""}}, BadRequest, "invalid digest format"),
        (
            {"files": {"a": 1}},
            BadRequest,
            "json: cannot unmarshal number into Go struct field CreateRequest.files of type string",
        ),
        ({"draft_quantize": "F16"}, BadRequest, "--draft-quantize requires a DRAFT model"),
        ({"info": {"a": 1}}, Unsupported, "creating a model with 'info' is not supported"),
        ({"draft_files": {"a": DIGEST}}, Unsupported, "creating a model with 'draft_files' is not supported"),
        ({"remote_host": "x"}, Unsupported, "creating a model with 'remote_host' is not supported"),
        ({"parameters": {"num_ctx": "x"}}, InvalidOption, 'option "num_ctx" must be of type integer'),
        (
            {"license": 1},
            BadRequest,
            "json: cannot unmarshal number into Go struct field CreateRequest.license of type string",
        ),
    ],
)
def test_create_refuses(fields: dict[str, Any], kind: type[BadRequest], text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        ollama_models.create_request(body(**{"model": "m", **fields}))
    assert (type(caught.value), str(caught.value)) == (kind, text)


@given(
    st.dictionaries(
        st.sampled_from(["model", "name", "from", "files", "adapters", "license", "messages", "parameters", "source"]),
        st.none() | st.text() | st.integers() | st.lists(st.text()) | st.dictionaries(st.text(), st.text() | st.none()),
    )
)
def test_no_json_raises_anything_but_bad_request(value: dict[str, Any]) -> None:
    for read in (ollama_models.create_request, ollama_models.show_request, ollama_models.copy_request):
        with suppress(BadRequest):
            read(json.dumps(value).encode())


def test_pull_and_push() -> None:
    said = body(Name="me/m", insecure=True, stream=False, username="u", password="p")
    for read in (ollama_models.pull_request, ollama_models.push_request):
        assert read(said) == (TransferRequest("me/m", True), False)
        assert read(body(model="a", name="b")) == (TransferRequest("a"), True)
    assert ollama_models.pull_request(b"{}") == (TransferRequest(""), True)
    with pytest.raises(BadRequest, match=r"^model is required$"):
        ollama_models.push_request(b"{}")
    with pytest.raises(BadRequest, match=r"Go struct field PullRequest.insecure of type bool"):
        ollama_models.pull_request(body(model="m", insecure="yes"))
