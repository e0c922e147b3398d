"""The HTTP client under all engines: deadlines, bounded bodies, and aiohttp's failures as our own."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import aiohttp
import msgspec

from ollamamax.core.errors import EngineError, EngineProtocol, EngineRefused, EngineTimeout, EngineUnavailable

MAX_BODY_BYTES: Final = 64 << 20
"""The largest whole answer that is read: embeddings of a large batch."""
_MAX_ERROR_BYTES: Final = 64 << 10
# Below the 5 s after which llama.cpp's and uvicorn's servers close idle connections: reusing one at the moment
# that its server closes it would fail a request for nothing.
_KEEPALIVE_S: Final = 3.0

FAILURES: Final = (TimeoutError, aiohttp.ClientError, ValueError, OSError)
"""What aiohttp raises."""

T = TypeVar("T")


class Deadlines(msgspec.Struct, frozen=True):
    """How long an engine may be silent. connect_ms: to open a connection.  idle_ms: between two reads of an answer.

    probe_ms: for the whole of a short question (models, health).  The first-token deadline is the dispatcher's.
    """

    connect_ms: float = 5_000.0
    idle_ms: float = 300_000.0
    probe_ms: float = 5_000.0


def new_session() -> aiohttp.ClientSession:
    """A session for any number of engines of one event loop; whoever made it closes it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=True,
    )


class EngineHttp:
    """Talks to one base URL.

    name: how errors call the engine.  api_key: sent as a bearer token where not "".  keeps_streams: whether a
    connection serves again after a streamed answer.  All methods raise EngineError.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        name: str,
        api_key: str = "",
        deadlines: Deadlines | None = None,
        keeps_streams: bool = True,
    ) -> None:
        limits = deadlines or Deadlines()
        self._session = session
        self._base_url = base_url
        self._name = name
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._stream_headers = self._headers if keeps_streams else {**self._headers, "Connection": "close"}
        connect_s = limits.connect_ms / 1000
        self._patient = aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=limits.idle_ms / 1000)
        self._brisk = aiohttp.ClientTimeout(total=limits.probe_ms / 1000, sock_connect=connect_s)

    async def get(self, path: str, decoder: "msgspec.json.Decoder[T]") -> T:
        """A short question, under the probe's deadline."""
        return self._decoded(await self._whole("GET", path, None, self._brisk), decoder)

    async def post(self, path: str, body: Any, decoder: "msgspec.json.Decoder[T]", is_brisk: bool = False) -> T:
        """A question whose answer is one JSON document. is_brisk: under the probe's deadline."""
        timeout = self._brisk if is_brisk else self._patient
        return self._decoded(await self._whole("POST", path, msgspec.json.encode(body), timeout), decoder)

    def stream(self, ask: Callable[[], tuple[str, Any]]) -> "Reply":
        """An answer that is read as it comes; entering it sends the request. ask: makes path and body, then."""
        return Reply(self, ask)

    async def open(self, path: str, body: Any) -> aiohttp.ClientResponse:
        """The head of a streamed answer; the caller releases it."""
        try:
            response = await self._session.post(
                self._base_url + path,
                data=msgspec.json.encode(body),
                headers=self._stream_headers,
                timeout=self._patient,
                allow_redirects=False,
            )
            if response.status != 200:
                async with response:
                    raise await self._refusal(response)
        except FAILURES as error:
            raise self.translated(error) from None
        return response

    async def _whole(self, method: str, path: str, data: bytes | None, timeout: aiohttp.ClientTimeout) -> bytes:
        try:
            async with self._session.request(
                method,
                self._base_url + path,
                data=data,
                headers=self._headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    raise await self._refusal(response)
                body = await _read(response, MAX_BODY_BYTES)
                if len(body) > MAX_BODY_BYTES:
                    raise EngineProtocol(f"engine {self._name} answered with more than {MAX_BODY_BYTES} bytes")
                return body
        except FAILURES as error:
            raise self.translated(error) from None

    async def _refusal(self, response: aiohttp.ClientResponse) -> Exception:
        if 300 <= response.status < 400:
            target = response.headers.get("Location", "another place")
            return EngineProtocol(f"engine {self._name} redirects to {target}; attach that address instead")
        body = (await _read(response, _MAX_ERROR_BYTES))[:_MAX_ERROR_BYTES]
        return refusal(body, response.status, self._name)

    def _decoded(self, body: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
        try:
            return decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise garbage(self._name, body, error) from None

    def translated(self, error: Exception) -> EngineError:
        """One of FAILURES as ours."""
        match error:
            case TimeoutError():
                return EngineTimeout(f"engine {self._name} did not answer in time")
            case aiohttp.ClientConnectorError():
                return EngineUnavailable(f"engine {self._name} can't be reached: {error.strerror or error}")
            case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError():
                return closed_early(self._name)
            case aiohttp.ClientResponseError() | ValueError():
                return EngineProtocol(f"engine {self._name} does not speak HTTP as expected: {error}")
        return EngineUnavailable(f"the connection to engine {self._name} failed: {error}")


class Reply:
    """A streamed answer. Use as a context; leaving it before the end closes the connection. All raise EngineError."""

    __slots__ = ("_ask", "_http", "_response")

    def __init__(self, http: EngineHttp, ask: Callable[[], tuple[str, Any]]) -> None:
        self._http = http
        self._ask = ask
        self._response: aiohttp.ClientResponse

    async def __aenter__(self) -> "Reply":
        path, body = self._ask()
        self._response = await self._http.open(path, body)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._response.release()

    @property
    def is_over(self) -> bool:
        """Whether all has been read, the end too."""
        return self._response.content.at_eof()

    async def read(self) -> bytes:
        """What has come since the last time, or the next that comes; b"" at the end."""
        try:
            return await self._response.content.readany()
        except FAILURES as error:
            raise self._http.translated(error) from None


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


async def _read(response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """The body, or the first bytes beyond the limit."""
    parts: list[bytes] = []
    size = 0
    while size <= limit_bytes and (data := await response.content.readany()):
        parts.append(data)
        size += len(data)
    return b"".join(parts)
