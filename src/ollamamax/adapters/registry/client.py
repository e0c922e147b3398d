"""A registry of models over HTTP: Ollama's protocol, which is OCI distribution and a little more.

A name's host is asked over https; over http if that was allowed as insecure, which the default registry never is.
Uploads of Ollama's registry may send each part elsewhere (307); plain ones take the parts one after the other.
Source: OCI distribution specification 1.1; Ollama `server/download.go`, `server/upload.go`.

Deliberate limits: registries that ask for a name and a password are not supported.
"""

import platform
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode, urljoin

import aiohttp

from ollamamax.adapters.registry.keys import KeyFile
from ollamamax.adapters.registry.tokens import DENIED, Tokens
from ollamamax.adapters.registry.wire import Sent, Wire, WireLimits, check, is_same_site
from ollamamax.core.errors import RangeIgnored, RegistryDenied, RegistryProtocol, RegistryUnavailable
from ollamamax.core.types import DEFAULT_HOST, ModelName
from ollamamax.ports import Body, Clock, Dice, PartReply, Remote

_MANIFEST_TYPES: Final = (
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
)
_MAX_MANIFEST_BYTES: Final = 4 << 20
_BYTES: Final = "application/octet-stream"


class RegistryClient:
    """Implements Registry. version: of this program.  key: a person's private key, as Ollama keeps it."""

    def __init__(self, clock: Clock, dice: Dice, version: str, key: Path, limits: WireLimits | None = None) -> None:
        machine, system = platform.machine(), platform.system().lower()
        agent = f"ollamamax/{version} ({machine} {system}) Python/{platform.python_version()}"
        self._wire = Wire(agent, limits or WireLimits())
        self._tokens = Tokens(self._wire, clock, dice, KeyFile(key))

    async def close(self) -> None:
        """End all connections. Idempotent."""
        await self._wire.close()

    async def manifest(self, remote: Remote) -> bytes:
        """Raises: RegistryNotFound, RegistryError."""
        url = f"{_repository(remote)}/manifests/{remote.name.tag}"
        async with self._ask(remote, "GET", url, {"Accept": _MANIFEST_TYPES}) as response:
            data = bytearray()
            async for piece in response.content.iter_any():
                data += piece
                if len(data) > _MAX_MANIFEST_BYTES:
                    raise RegistryProtocol(f"the manifest has more than {_MAX_MANIFEST_BYTES} bytes")
        return bytes(data)

    async def read_blob(self, remote: Remote, digest: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Raises: RangeIgnored, RegistryNotFound, RegistryError."""
        url = f"{_repository(remote)}/blobs/{digest}"
        async with self._ask(remote, "GET", url, {"Range": f"bytes={start}-{end - 1}"}) as response:
            _check_range(response, start)
            left = end - start
            async for piece in response.content.iter_any():
                yield piece[:left]
                left -= len(piece)
                if left <= 0:
                    return
        raise RegistryUnavailable(f"{remote.name.host} ended {digest} {left} bytes too early")

    async def has_blob(self, remote: Remote, digest: str) -> bool:
        """Raises: RegistryError."""
        async with self._ask(remote, "HEAD", f"{_repository(remote)}/blobs/{digest}", known=(404,)) as response:
            return response.status != 404

    async def begin_upload(self, remote: Remote, digest: str, mount_from: ModelName | None) -> str:
        """Raises: RegistryError."""
        url = f"{_repository(remote)}/blobs/uploads/"
        if mount_from is not None:
            url += "?" + urlencode({"mount": digest, "from": f"{mount_from.namespace}/{mount_from.model}"})
        async with self._ask(remote, "POST", url) as response:
            return "" if response.status == 201 else _session(response)

    async def send_part(self, remote: Remote, session: str, body: Body, start: int, end: int) -> PartReply:
        """Raises: RegistryError, and what `body` raises."""
        headers = {"Content-Range": f"{start}-{end - 1}", "Content-Type": _BYTES, "X-Redirect-Uploads": "1"}
        async with self._ask(remote, "PATCH", session, headers, Sent(body, end - start)) as response:
            if response.status != 307:
                return PartReply(_session(response))
            following = response.headers.get("Docker-Upload-Location", "")
            return PartReply(urljoin(session, following), urljoin(session, _told(response, "Location")))

    async def send_direct(self, remote: Remote, url: str, body: Body, size_bytes: int) -> None:
        """Raises: RegistryError, and what `body` raises."""
        async with self._wire.exchange("PUT", url, {"Content-Type": _BYTES}, Sent(body, size_bytes)) as response:
            await check(response)

    async def arrived(self, remote: Remote, session: str) -> tuple[int, str]:
        """Raises: RegistryNotFound, RegistryError."""
        async with self._ask(remote, "GET", session) as response:
            first, _, last = response.headers.get("Range", "").removeprefix("bytes=").partition("-")
            if first != "0" or not (last.isascii() and last.isdigit()):
                raise RegistryProtocol(f"{remote.name.host} does not say how much of the upload has arrived")
            # "0-0" stands for one byte and, in plain registries, for none.
            return int(last) + 1 if last != "0" else 0, _session(response)

    async def end_upload(self, remote: Remote, session: str, digest: str, etag: str) -> None:
        """Raises: RegistryError."""
        query = f"digest={quote(digest, safe='')}" + (f"&etag={quote(etag, safe='')}" if etag else "")
        url = f"{session}{'&' if '?' in session else '?'}{query}"
        async with self._ask(remote, "PUT", url, is_verdict=True):
            pass

    async def put_manifest(self, remote: Remote, data: bytes, media_type: str) -> None:
        """Raises: RegistryError."""

        async def body() -> AsyncGenerator[bytes, None]:
            yield data

        url = f"{_repository(remote)}/manifests/{remote.name.tag}"
        async with self._ask(remote, "PUT", url, {"Content-Type": media_type}, Sent(body, len(data)), is_verdict=True):
            pass

    @asynccontextmanager
    async def _ask(
        self,
        remote: Remote,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        body: Sent | None = None,
        *,
        known: tuple[int, ...] = (),
        is_verdict: bool = False,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, again with a token where the registry asks for one. known: statuses that are no errors."""
        repository = _repository(remote)
        is_own = is_same_site(repository, url)
        for is_last in (False, True):
            token = self._tokens.of(repository) if is_own else ""
            said = {**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
            async with self._wire.exchange(method, url, said, body, is_verdict) as response:
                is_elsewhere = not is_same_site(repository, str(response.url))
                if response.status != 401 or is_elsewhere:
                    if response.status not in known:
                        await check(response, is_elsewhere)
                    yield response
                    return
                asked = response.headers.getall("WWW-Authenticate", [])
            if is_last:
                raise RegistryDenied(DENIED)
            await self._tokens.renew(repository, token, asked)


def _repository(remote: Remote) -> str:
    name = remote.name
    is_plain = remote.insecure and name.host.lower() != DEFAULT_HOST
    return f"{'http' if is_plain else 'https'}://{name.host}/v2/{name.namespace}/{name.model}"


def _check_range(response: aiohttp.ClientResponse, start: int) -> None:
    """Raises: RangeIgnored, RegistryProtocol."""
    if response.status == 200:
        if start:
            raise RangeIgnored(f"{response.url.host} sends blobs whole or not at all")
    elif response.status != 206 or not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise RegistryProtocol(f"{response.url.host} sent other bytes than were asked for")


def _session(response: aiohttp.ClientResponse) -> str:
    """Raises: RegistryProtocol."""
    return urljoin(str(response.url), _told(response, "Docker-Upload-Location", "Location"))


def _told(response: aiohttp.ClientResponse, *headers: str) -> str:
    """The first of these headers. Raises: RegistryProtocol if there is none."""
    for name in headers:
        if value := response.headers.get(name):
            return value
    raise RegistryProtocol(f"{response.url.host} does not say where the upload goes on")
