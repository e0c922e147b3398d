"""The HTTP client under all engines: deadlines, bounded bodies, and failures of the wire as our own."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from ollamamax.adapters.wire.client import WireClient, WireReply
from ollamamax.adapters.wire.connection import WireClosed, WireError, WireLimits, WireUnreachable
from ollamamax.core.errors import EngineError, EngineProtocol, EngineRefused, EngineTimeout, EngineUnavailable

MAX_BODY_BYTES: Final = 64 << 20
"""The largest whole answer that is read: embeddings of a large batch."""
_MAX_ERROR_BYTES: Final = 64 << 10
# Below the 5 s after which llama.cpp's and uvicorn's servers close idle connections: reusing one at the moment
# that its server closes it would send a request twice.
_KEEPALIVE_S: Final = 3.0

_FAILURES: Final = (TimeoutError, WireError)

T = TypeVar("T")


class Deadlines(msgspec.Struct, frozen=True):
    """How long an engine may be silent. connect_ms: to open a connection.  idle_ms: between two reads of an answer.

    probe_ms: for the whole of a short question (models, health).  The first-token deadline is the dispatcher's.
    """

    connect_ms: float = 5_000.0
    idle_ms: float = 300_000.0
    probe_ms: float = 5_000.0


class EngineHttp:
    """Talks to one base URL. Close it to end its connections.

    name: how errors call the engine.  api_key: sent as a bearer token where not "".  keeps_streams: whether a
    connection serves again after a streamed answer.  Raises: ValueError for a url or a key that can't be sent; all
    methods raise EngineError.
    """

    def __init__(
        self,
        base_url: str,
        name: str,
        api_key: str = "",
        deadlines: Deadlines | None = None,
        keeps_streams: bool = True,
    ) -> None:
        limits = deadlines or Deadlines()
        headers = {
            "User-Agent": "ollamamax",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        }
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        waits = WireLimits(limits.connect_ms / 1000, limits.idle_ms / 1000, _KEEPALIVE_S)
        self._wire = WireClient(base_url, headers, waits)
        self._name = name
        self._keeps_streams = keeps_streams
        self._probe_s = limits.probe_ms / 1000

    async def close(self) -> None:
        """End all connections; answers under way break off. Idempotent."""
        await self._wire.aclose()

    async def get(self, path: str, decoder: "msgspec.json.Decoder[T]") -> T:
        """A short question, under the probe's deadline."""
        return self._decoded(await self._whole("GET", path, b"", self._probe_s), decoder)

    async def post(self, path: str, body: Any, decoder: "msgspec.json.Decoder[T]", is_brisk: bool = False) -> T:
        """A question whose answer is one JSON document. is_brisk: under the probe's deadline."""
        limit_s = self._probe_s if is_brisk else None
        return self._decoded(await self._whole("POST", path, msgspec.json.encode(body), limit_s), decoder)

    def stream(self, ask: Callable[[], tuple[str, Any]]) -> "Reply":
        """An answer that is read as it comes; `open` sends the request. ask: makes path and body, then."""
        return Reply(self, ask)

    async def _whole(self, method: str, path: str, data: bytes, limit_s: float | None) -> bytes:
        try:
            async with asyncio.timeout(limit_s):
                with await self._wire.send(method, path, data) as reply:
                    if await reply.head() != 200:
                        raise await self._refusal(reply)
                    body = await reply.whole(MAX_BODY_BYTES)
        except _FAILURES as error:
            raise self._translated(error) from None
        if len(body) > MAX_BODY_BYTES:
            raise EngineProtocol(f"engine {self._name} answered with more than {MAX_BODY_BYTES} bytes")
        return body

    async def _refusal(self, reply: WireReply, begun: bytes = b"") -> Exception:
        if 300 <= reply.status < 400:
            target = reply.header(b"location") or "another place"
            return EngineProtocol(f"engine {self._name} redirects to {target}; attach that address instead")
        body = (begun + await reply.whole(_MAX_ERROR_BYTES))[:_MAX_ERROR_BYTES]
        return refusal(body, reply.status, self._name)

    def _decoded(self, body: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
        try:
            return decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise garbage(self._name, body, error) from None

    def _translated(self, error: Exception) -> EngineError:
        """One of _FAILURES as ours."""
        match error:
            case TimeoutError():
                return EngineTimeout(f"engine {self._name} did not answer in time")
            case WireUnreachable():
                return EngineUnavailable(f"engine {self._name} can't be reached: {error}")
            case WireClosed() if not str(error):
                return closed_early(self._name)
            case WireClosed():
                return EngineUnavailable(f"the connection to engine {self._name} failed: {error}")
        return EngineProtocol(f"engine {self._name} does not speak HTTP as expected: {error}")


class Reply:
    """A streamed answer. Use as a context, and `open` it there; leaving it before the end closes the connection.

    All raise EngineError.
    """

    __slots__ = ("_ask", "_http", "_wire")

    def __init__(self, http: EngineHttp, ask: Callable[[], tuple[str, Any]]) -> None:
        self._http = http
        self._ask = ask
        self._wire: WireReply | None = None

    def __enter__(self) -> "Reply":
        return self

    def __exit__(self, *_: object) -> None:
        if self._wire is not None:
            self._wire.close()

    async def open(self) -> None:
        """Send the request."""
        path, body = self._ask()
        http = self._http
        try:
            self._wire = await http._wire.send("POST", path, msgspec.json.encode(body), http._keeps_streams)
        except _FAILURES as error:
            raise http._translated(error) from None

    async def read(self) -> bytes:
        """What has come since the last time, or the next that comes; b"" at the end."""
        wire = self._wire
        assert wire is not None, "a reply is opened first"
        try:
            data = await wire.read()
            if wire.status != 200:
                raise await self._http._refusal(wire, data)
        except _FAILURES as error:
            raise self._http._translated(error) from None
        return data

    def settle(self) -> None:
        """All that matters was read. If the end follows within a moment, the connection is used again."""
        assert self._wire is not None, "a reply is opened first"
        self._wire.settle()


def closed_early(name: str) -> EngineUnavailable:
    """What a stream without an end raises."""
    return EngineUnavailable(f"engine {name} closed mid-stream")


def garbage(name: str, piece: bytes, error: Exception) -> EngineProtocol:
    """What an answer raises that can't be understood; its beginning is shown."""
    shown = piece[:80].decode("utf-8", "replace")
    return EngineProtocol(f"engine {name} answered with what can't be understood ({error}): {shown!r}")


def refusal(body: bytes, status: int, name: str) -> EngineRefused:
    """The engine's own error: `{"error": "text"}`, `{"error": {"message": "text"}}`, or the body itself."""
    text = ""
    try:
        text = error_text(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = body[:200].decode("utf-8", "replace").strip()
    return EngineRefused(text or f"engine {name} answered with status {status}", status)


def error_text(document: Any) -> str:
    """The message in an error document of Ollama's or OpenAI's form, or ""."""
    inner = document.get("error", document) if isinstance(document, dict) else document
    if isinstance(inner, dict):
        inner = inner.get("message", "")
    return inner if isinstance(inner, str) else ""
