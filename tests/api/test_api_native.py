"""Ollama's own API where it is neither a list nor an answer: accounts, the cloud, compressed bodies, old forms."""

import json
from typing import Any

import pytest
import zstandard
from api_fakes import ask, serving

from ollamamax.api.encodings import MAX_UNPACKED_BYTES
from ollamamax.core.types import Chunk

CLOUD = "ollama cloud is disabled: "
ZSTD = {"Content-Encoding": "zstd"}


def packed(value: Any) -> bytes:
    return zstandard.compress(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("method", "path", "status", "told"),
    [
        ("GET", "/api/status", 200, {"cloud": {"disabled": True, "source": "config"}}),
        ("POST", "/api/me", 401, {"error": "unauthorized"}),
        ("POST", "/api/signout", 401, {"error": "you are not currently signed in"}),
        ("DELETE", "/api/user/keys/c3No%2FQ==", 401, {"error": "you are not currently signed in"}),
        ("POST", "/api/experimental/web_search", 403, {"error": CLOUD + "web search is unavailable"}),
        ("POST", "/api/experimental/web_fetch", 403, {"error": CLOUD + "web fetch is unavailable"}),
        ("GET", "/api/experimental/model-recommendations", 200, {"recommendations": []}),
    ],
)
async def test_accounts_and_the_cloud(method: str, path: str, status: int, told: dict[str, Any]) -> None:
    async with serving() as node:
        reply = await node.client.request(method, path)
        assert (reply.status_code, reply.json()) == (status, told)


@pytest.mark.parametrize("model", ["gpt-oss:cloud", "gpt-oss:120b-CLOUD"])
async def test_models_of_the_cloud(model: str) -> None:
    async with serving() as node:
        for path, body in (
            ("/api/chat", ask(model=model)),
            ("/api/generate", {"model": model, "prompt": "x"}),
            ("/api/embed", {"model": model, "input": "x"}),
            ("/v1/chat/completions", ask(model=model)),
        ):
            reply = await node.post(path, body)
            assert reply.status_code == 403
            assert CLOUD + "remote model is unavailable" in reply.text
        shown = await node.post("/api/show", {"model": model})
        assert (shown.status_code, shown.json()["error"]) == (403, CLOUD + "remote model details are unavailable")
        deleted = await node.client.request("DELETE", "/api/delete", content=json.dumps({"model": model}).encode())
        assert deleted.status_code == 404


async def test_a_model_of_the_cloud_that_an_engine_offers() -> None:
    async with serving() as node:
        node.gateway.known.add("gpt-oss:120b-cloud")
        assert (await node.post("/api/chat", ask(model="gpt-oss:120b-cloud"))).status_code == 200


async def test_the_older_form_of_embeddings() -> None:
    async with serving() as node:
        told = (await node.post("/api/embeddings", {"model": "tiny", "prompt": "a b", "keep_alive": "1m"})).json()
        assert told.keys() == {"embedding"}
        assert len(told["embedding"]) == 8
        for body in ({"model": "tiny"}, {"model": "tiny", "prompt": ""}):
            assert (await node.post("/api/embeddings", body)).json() == {"embedding": []}
        missing = await node.post("/api/embeddings", {"model": "nobody", "prompt": "x"})
        assert (missing.status_code, missing.json()["error"]) == (
            404,
            'model "nobody" not found, try pulling it first',
        )
        unnamed = await node.post("/api/embeddings", {"prompt": "x"})
        assert (unnamed.status_code, unnamed.json()["error"]) == (400, "model is required")


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
async def test_compressed_bodies(path: str) -> None:
    async with serving() as node:
        body = ask("hello " * 1000, stream=False, max_tokens=9)
        reply = await node.post(path, packed(body), headers=ZSTD)
        assert reply.status_code == 200
        assert node.engine.requests[-1][0].messages[0].content == "hello " * 1000


async def test_a_body_of_several_frames() -> None:
    async with serving() as node:
        body = json.dumps(ask(stream=False)).encode()
        parts = zstandard.compress(body[:20]) + zstandard.compress(body[20:])
        assert (await node.post("/api/chat", parts, headers={"Content-Encoding": "ZSTD"})).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (zstandard.compress(b" " * (MAX_UNPACKED_BYTES + 1)), 413, "exceeds the limit of 20971520 bytes"),
        (b"no zstd at all", 400, "the body is no valid zstd"),
        (packed(ask())[:-12], 400, "unexpected EOF"),
        (b"", 400, "missing request body"),
    ],
)
async def test_compressed_bodies_that_are_refused(body: bytes, status: int, text: str) -> None:
    async with serving() as node:
        reply = await node.post("/api/chat", body, headers=ZSTD)
        assert reply.status_code == status
        assert text in reply.json()["error"]


async def test_other_encodings_are_refused() -> None:
    async with serving() as node:
        reply = await node.post("/api/chat", b"x", headers={"Content-Encoding": "br"})
        assert (reply.status_code, reply.json()["error"]) == (400, "unsupported content encoding: br")


async def test_a_limit_of_ones_own_holds_for_what_is_unpacked() -> None:
    async with serving(max_body_bytes=1000) as node:
        reply = await node.post("/api/chat", packed(ask("x" * 2000)), headers=ZSTD)
        assert (reply.status_code, reply.json()["error"]) == (
            413,
            "the request's body exceeds the limit of 1000 bytes once it is unpacked",
        )


async def test_the_rendered_prompt_alone() -> None:
    async with serving() as node:
        for body in (ask("hi you"), ask("hi you", stream=True)):
            told = (await node.post("/api/chat", {**body, "_debug_render_only": True})).json()
            assert told.pop("created_at")
            assert told == {
                "model": "tiny",
                "message": {"role": "", "content": ""},
                "done": False,
                "_debug_info": {"rendered_template": "hi you"},
            }
        image = {"role": "user", "content": "see", "images": ["aGk="]}
        told = (await node.post("/api/chat", ask(messages=[image], _debug_render_only=True))).json()
        assert told["_debug_info"] == {"rendered_template": "see", "image_count": 1}
        asked = {"model": "tiny", "prompt": "x", "raw": True, "_debug_render_only": True}
        told = (await node.post("/api/generate", asked)).json()
        assert (told["response"], told["done"], told["_debug_info"]) == ("", False, {"rendered_template": "x"})
        loaded = (await node.post("/api/generate", {"model": "tiny", "_debug_render_only": True})).json()
        assert loaded["done_reason"] == "load"


WAV = b"RIFF\x24\0\0\0WAVEfmt "


@pytest.mark.parametrize(("form", "kind"), [("json", "application/json"), ("text", "text/plain")])
async def test_transcriptions(form: str, kind: str) -> None:
    async with serving() as node:
        fields = {"model": "tiny", "response_format": form}
        reply = await node.client.post("/v1/audio/transcriptions", data=fields, files={"file": ("a.wav", WAV)})
        assert reply.status_code == 200
        assert reply.headers["content-type"] == f"{kind}; charset=utf-8"
        text = "Hello there, how are you?"
        assert (reply.text if form == "text" else reply.json()) == (text if form == "text" else {"text": text})
        assert node.engine.requests[-1][0].messages[-1].images == (WAV,)


@pytest.mark.parametrize(
    ("data", "model", "status", "text"),
    [
        (b"OggS", "tiny", 400, "the audio is neither WAV nor MP3; convert it first"),
        (b"", "tiny", 400, "audio file is empty"),
        (WAV, "nobody", 404, "model 'nobody' not found"),
    ],
)
async def test_transcriptions_that_fail(data: bytes, model: str, status: int, text: str) -> None:
    async with serving() as node:
        path = "/v1/audio/transcriptions"
        reply = await node.client.post(path, data={"model": model}, files={"file": ("a", data)})
        assert (reply.status_code, reply.json()["error"]["message"]) == (status, text)


async def test_a_transcription_that_is_cut_short() -> None:
    async with serving() as node:

        async def cut_short(*_: Any) -> Any:
            yield [Chunk(text="half")]

        node.gateway.chat = cut_short  # type: ignore[method-assign, assignment]
        path = "/v1/audio/transcriptions"
        reply = await node.client.post(path, data={"model": "tiny"}, files={"file": ("a", WAV)})
        assert (reply.status_code, reply.json()["error"]["message"]) == (502, "the answer ended before it was complete")
