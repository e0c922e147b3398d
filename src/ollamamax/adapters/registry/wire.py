"""HTTP with registries and what stands behind them: redirects, proxies, deadlines, and failures as our own errors."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Final
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from msgspec import Struct
from yarl import URL

from ollamamax.adapters.registry.proxies import proxy_for
from ollamamax.core.errors import (
    OllamaMaxError,
    RegistryDenied,
    RegistryError,
    RegistryNotFound,
    RegistryProtocol,
    RegistryUnavailable,
)
from ollamamax.ports import Body

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS: Final = 10
_BUSY: Final = frozenset({408, 425, 429})
_DENIED: Final = frozenset({401, 403})
_MAX_ERROR_BYTES: Final = 4 << 10
_MAX_WAIT_S: Final = 60.0
# The connection's buffer: a piece that is read holds at most about twice as much.
_BUFFER_BYTES: Final = 256 << 10


class WireLimits(Struct, frozen=True):
    """connect_s: to open a connection.  stall_s: between two pieces, in either direction.

    verdict_s: for the answer to the end of an upload, before which a registry reads all of it again.
    """

    connect_s: float = 15.0
    stall_s: float = 30.0
    verdict_s: float = 900.0


class Sent(Struct, frozen=True):
    """A body to be sent, and its length."""

    open: Body
    size_bytes: int


class _Sending(aiohttp.payload.Payload):
    """A body on its way, read as it is taken. The exchange ends when nothing of it is taken for `stall_s`."""

    def __init__(self, body: Sent, stall: asyncio.Timeout, stall_s: float) -> None:
        super().__init__(body)
        self._size = body.size_bytes
        self._body = body
        self._stall = stall
        self._stall_s = stall_s

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Nobody asks for it as text."""
        raise TypeError("a blob is no text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """All of it."""
        now = asyncio.get_running_loop().time
        async with aclosing(self._body.open()) as pieces:
            async for piece in pieces:
                self._stall.reschedule(now() + self._stall_s)
                await writer.write(piece)
        self._stall.reschedule(None)


class Wire:
    """Connections to any host. Close it. user_agent: what they are told."""

    def __init__(self, user_agent: str, limits: WireLimits) -> None:
        self._user_agent = user_agent
        self._limits = limits
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """End all connections. Idempotent."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Sent | None = None,
        is_verdict: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A request and its reply, whatever its status. Redirects are followed where there is no body to send.

        Where one leads to another host, no credentials go along. Raises: RegistryError, and what `body` raises.
        """
        try:
            async with asyncio.timeout(None) as stall:
                response = await self._follow(method, url, dict(headers), body, stall, is_verdict)
                try:
                    yield response
                finally:
                    response.release()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _translated(error, url) from error

    async def _follow(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: Sent | None,
        stall: asyncio.Timeout,
        is_verdict: bool,
    ) -> aiohttp.ClientResponse:
        for _ in range(_MAX_REDIRECTS):
            response = await self._send(method, url, headers, body, stall, is_verdict)
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or method not in ("GET", "HEAD") or target is None:
                return response
            response.release()
            following = urljoin(url, target)
            if not following.startswith(("http://", "https://")):
                raise ValueError(following)
            if not is_same_site(url, following):
                headers.pop("Authorization", None)
            if url.startswith("https:") and not following.startswith("https:"):
                raise RegistryProtocol(f"{host_of(url)} redirects to where nothing is encrypted: {host_of(following)}")
            url = following
        raise RegistryProtocol(f"{host_of(url)} redirects without end")

    async def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: Sent | None,
        stall: asyncio.Timeout,
        is_verdict: bool,
    ) -> aiohttp.ClientResponse:
        limits = self._limits
        read_s = limits.verdict_s if is_verdict else limits.stall_s
        response = await self._opened().request(
            method,
            URL(url, encoded=True),
            headers=headers,
            data=None if body is None else _Sending(body, stall, limits.stall_s),
            allow_redirects=False,
            proxy=proxy_for(url),
            timeout=aiohttp.ClientTimeout(sock_connect=limits.connect_s, sock_read=read_s),
        )
        stall.reschedule(None)
        return response

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity"},
                connector=aiohttp.TCPConnector(limit=0),  # bounded by those who ask
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=_BUFFER_BYTES,
            )
        return self._session


async def check(response: aiohttp.ClientResponse, is_elsewhere: bool = False) -> None:
    """Raises: RegistryError for a status from 400 up, in Ollama's words: the status and the body.

    is_elsewhere: the registry had pointed there, and may point somewhere else when it is asked again.
    """
    status = response.status
    if status < 400:
        return
    body = await response.content.read(_MAX_ERROR_BYTES)
    text = f"{status}: {body.decode('utf-8', 'replace').strip()}"
    if status == 404:
        raise RegistryNotFound(text)
    if status in _DENIED and not is_elsewhere:
        raise RegistryDenied(text)
    if status >= 500 or status in _BUSY or status in _DENIED:
        raise RegistryUnavailable(text, _wait_s(response))
    raise RegistryError(text)


def host_of(url: str) -> str:
    """Host and port, as they stand in the URL."""
    return urlsplit(url).netloc.rpartition("@")[2].lower()


def is_same_site(url: str, other: str) -> bool:
    """Whether what is meant for one may be told the other: the same host and port, or the same host over TLS."""
    one, two = _site(url), _site(other)
    return one == two or (one[0] == two[0] and (one[1:], two[1:]) == (("http", 80), ("https", 443)))


def _site(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.scheme, parts.port or (443 if parts.scheme == "https" else 80)


def _wait_s(response: aiohttp.ClientResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), _MAX_WAIT_S) if text.isascii() and text.isdigit() else 0.0


def _translated(error: Exception, url: str) -> Exception:
    """As one of ours; an error of a body that was to be sent is told as it is."""
    cause = error.__cause__
    host = host_of(url)
    match error:
        case _ if isinstance(cause, OllamaMaxError):
            return cause
        case TimeoutError():
            return RegistryUnavailable(f"{host} said nothing for too long")
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return RegistryError(f"no safe connection to {host}: {error}")
        case aiohttp.InvalidURL() | ValueError():
            return RegistryProtocol(f"{host} points to a URL that can't be used: {error}")
    return RegistryUnavailable(f"the connection to {host} failed: {error or type(error).__name__}")
