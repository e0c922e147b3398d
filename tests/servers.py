"""Small engines on loopback that say what a test wants, over real HTTP: a fake Ollama, a fake OpenAI-compatible server,
and a server that answers with given bytes.

    async with FakeOllama() as server:
        engine = OllamaEngine(AttachedEngine(name="far", kind=EngineKind.OLLAMA, url=server.url), session)

What they have seen stands in plain attributes; `await server.until(lambda: server.active == 0)` waits for a change
(bound it with `asyncio.timeout`).
"""

import asyncio
import json
from abc import abstractmethod
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from loopback import LoopbackServer
from ollamamax.core.options import parse_options
from ollamamax.core.types import Options
from ollamamax.testing.engine import DEFAULT_WORDS, Watched, scripted, token_id

Json = dict[str, Any]


class FakeServer(Watched):
    """What both fakes share.

    Knobs: words of the answer (cut by num_predict and stop strings like an engine's).  first_gate, next_gate: held
    before the first word, before each later one.  refusal: (status, text) instead of an answer.  fail_after: after so
    many words do `failure`: "error" (an error in the stream), "close" (just end it), "garbage".
    Records: requests (path, body, headers), active streams, left (streams whose reader went away).
    """

    def __init__(self, words: Sequence[str] = DEFAULT_WORDS, models: Sequence[str] = ("tiny:latest",)) -> None:
        super().__init__()
        self.words = tuple(words)
        self.models = tuple(models)
        self.first_gate, self.next_gate = asyncio.Event(), asyncio.Event()
        self.first_gate.set()
        self.next_gate.set()
        self.refusal: tuple[int, str] | None = None
        self.fail_after = -1
        self.failure = "error"
        self.requests: list[tuple[str, Json, dict[str, str]]] = []
        self.active = self.left = 0
        self.url = ""
        self._app = web.Application()
        self._app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(self._app, handler_cancellation=True, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.first_gate.set()
        self.next_gate.set()
        await self._runner.cleanup()

    @abstractmethod
    def whole(self, path: str, body: Json) -> Json | None:
        """The answer of a request that is not streamed; None if it is, or is unknown."""

    @abstractmethod
    def pieces(self, path: str, body: Json, words: list[str], reason: str) -> list[bytes]:
        """The parts of a streamed answer: one per word, and the last."""

    @abstractmethod
    def error_piece(self, text: str) -> bytes:
        """An error inside a stream."""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body: Json = json.loads(raw) if raw else {}
        self.requests.append((request.path, body, dict(request.headers)))
        self.note()
        if self.refusal is not None:
            status, text = self.refusal
            return web.json_response({"error": text}, status=status)
        whole = self.whole(request.path, body)
        if whole is not None:
            return web.json_response(whole)
        self.active += 1
        try:
            return await self._stream(request, body)
        except (asyncio.CancelledError, ConnectionError):
            self.left += 1
            raise
        finally:
            self.active -= 1
            self.note()

    async def _stream(self, request: web.Request, body: Json) -> web.StreamResponse:
        response = web.StreamResponse()
        await self.first_gate.wait()
        await response.prepare(request)
        reads = scripted(self.words, _options(body), 7)
        words, reason = [read[0].text for read in reads[:-1]], reads[-1][0].done_reason
        async for piece in self._paced(self.pieces(request.path, body, words, reason)):
            await response.write(piece)
            self.note()
        await response.write_eof()
        return response

    async def _paced(self, pieces: list[bytes]) -> AsyncIterator[bytes]:
        for count, piece in enumerate(pieces):
            if count == self.fail_after:
                if self.failure == "error":
                    yield self.error_piece("it broke")
                elif self.failure == "garbage":
                    yield b"data: <html>no</html>\n\n"
                return
            if count:
                await self.next_gate.wait()
            yield piece


def _options(body: Json) -> Options:
    """From Ollama's form or OpenAI's."""
    given = body.get("options") or {"num_predict": body.get("max_tokens"), "stop": body.get("stop")}
    return parse_options(given)[0]


def _vectors(body: Json, size: int) -> list[list[float]]:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    return [[1.0 + token_id(f"{text}#{place}") % 97 for place in range(size)] for text in texts]


class FakeOllama(FakeServer):
    """Speaks /api: tags, ps, show, chat, generate (NDJSON), embed."""

    def whole(self, path: str, body: Json) -> Json | None:
        """Listings, show, embeddings, loads."""
        if path == "/api/tags":
            return {"models": [_listed(name) for name in self.models]}
        if path == "/api/ps":
            running = {"expires_at": "2318-01-02T03:04:05.123456789+01:00", "size_vram": 0, "context_length": 4096}
            return {"models": [_listed(name) | running for name in self.models[:1]]}
        if path == "/api/show":
            return {"model_info": {"general.architecture": "llama"}, "capabilities": ["completion"]}
        if path == "/api/embed":
            return {"embeddings": _vectors(body, 8), "prompt_eval_count": 3, "load_duration": 2_000_000}
        if not body.get("messages") and not body.get("prompt"):
            reason = "unload" if body.get("keep_alive") == 0 else "load"
            return {"model": body["model"], "response": "", "done": True, "done_reason": reason}
        return None

    def pieces(self, path: str, body: Json, words: list[str], reason: str) -> list[bytes]:
        """NDJSON lines."""
        is_chat = path == "/api/chat"
        lines = [{"model": body["model"], "done": False, **_said(word, is_chat)} for word in words]
        last: Json = {"model": body["model"], "done": True, "done_reason": reason, **_said("", is_chat)}
        last |= {"prompt_eval_count": 7, "prompt_eval_duration": 14_000_000, "load_duration": 3_000_000}
        last |= {"eval_count": len(words), "eval_duration": 10_000_000 * len(words)}
        if not is_chat:
            last["context"] = [1, 2, *map(token_id, words)]
        return [json.dumps(line).encode() + b"\n" for line in [*lines, last]]

    def error_piece(self, text: str) -> bytes:
        """One line."""
        return json.dumps({"error": text}).encode() + b"\n"


class FakeOpenAI(FakeServer):
    """Speaks /v1: models, chat/completions, completions (server-sent events), embeddings."""

    def whole(self, path: str, body: Json) -> Json | None:
        """Listing and embeddings."""
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}
        if path == "/v1/embeddings":
            data = [{"embedding": vector, "index": index} for index, vector in enumerate(_vectors(body, 8))]
            return {"data": data[::-1], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
        return None

    def pieces(self, path: str, body: Json, words: list[str], reason: str) -> list[bytes]:
        """Events: one per word, the finish reason, the usage, [DONE]."""
        is_chat = path == "/v1/chat/completions"
        choices: list[Json] = [
            {"index": 0, "delta": {"content": word}} if is_chat else {"text": word} for word in words
        ]
        choices.append({"index": 0, "delta": {}, "finish_reason": reason})
        events: list[Json] = [{"choices": [choice], "usage": None} for choice in choices]
        events.append({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": len(words)}})
        return [*(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events), b"data: [DONE]\n\n"]

    def error_piece(self, text: str) -> bytes:
        """One event."""
        return b"data: " + json.dumps({"error": {"message": text, "type": "server_error"}}).encode() + b"\n\n"


def _listed(name: str) -> Json:
    details = {"family": "llama", "families": None, "parameter_size": "3.5M", "quantization_level": "F16"}
    return {"name": name, "model": name, "size": 1000, "digest": "ab" * 32, "details": details,
            "modified_at": "2026-01-02T03:04:05.123456789Z"}  # fmt: skip


def _said(word: str, is_chat: bool) -> Json:
    return {"message": {"role": "assistant", "content": word}} if is_chat else {"response": word}


class RawServer(LoopbackServer):
    """Answers each connection's first bytes with `answer`, then closes it; never answers where that is None."""

    def __init__(self, answer: bytes | None) -> None:
        super().__init__()
        self.answer = answer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        if self.answer is None:
            await asyncio.Event().wait()
        else:
            writer.write(self.answer)
            await writer.drain()


def http_answer(body: bytes, status: str = "200 OK", chunked: bool = False) -> bytes:
    """A whole HTTP/1.1 answer; chunked: one chunk, and the end of the body is missing."""
    if chunked:
        head = f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n"
        return head.encode() + body + b"\r\n"
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
