"""How a node without papers asks to be let in: a JoinLink over aiohttp, TLS 1.3 with the server name `join.ollamamax`.

One connection per call, and never one that was used before: what an unverified connection said counts for nothing on a
verified one.
"""

import asyncio
import os
import socket
import ssl
from typing import Any, Final

import aiohttp

from ollamamax.adapters.network.peer_frames import (
    MAX_BODY_BYTES,
    MAX_ERROR_BYTES,
    PATH_PREFIX,
    PROTOCOL_HEADER,
    PROTOCOL_RANGE,
    error_of,
)
from ollamamax.adapters.network.tls import JOIN_NAME
from ollamamax.core.errors import CertificateRefused, OllamaMaxError, PeerProtocol, PeerTimeout, PeerUnavailable

_MAX_HELLO_BYTES: Final = 64 << 10
_EXPIRED, _NOT_YET_VALID = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID
_CLOCK: Final = "check the clocks of both machines"


class AiohttpJoinLink:
    """hello_timeout_s, join_timeout_s: for a whole call, connecting included. A joining may go through another node."""

    def __init__(self, hello_timeout_s: float = 5.0, join_timeout_s: float = 30.0) -> None:
        self._hello_timeout_s = hello_timeout_s
        self._join_timeout_s = join_timeout_s

    async def hello(self, address: str) -> bytes:
        """What whoever listens there says of itself. Nothing about it is verified."""
        connector = aiohttp.TCPConnector(ssl=_trusting_anybody(), force_close=True)
        return await _post(connector, address, "cluster.hello", b"", _MAX_HELLO_BYTES, self._hello_timeout_s)

    async def join(self, address: str, ca: bytes, cluster_id: str, body: bytes) -> bytes:
        """Ask a member, over a connection of its own that `ca` (PEM) vouches for, to be let in.

        Nothing of `body` is sent before that. Raises: CertificateRefused if it is no member of that cluster.
        """
        connector = _MemberConnector(address, cluster_id, ssl=_trusting(ca), force_close=True)
        return await _post(connector, address, "cluster.join", body, MAX_BODY_BYTES, self._join_timeout_s)


class _MemberConnector(aiohttp.TCPConnector):
    """Hands out connections to members of one cluster only: looked at between the handshake and the request."""

    def __init__(self, address: str, cluster_id: str, **options: Any) -> None:
        super().__init__(**options)
        self._address = address
        self._cluster_id = cluster_id

    async def connect(self, *args: Any, **options: Any) -> Any:
        """As the base class. Raises: CertificateRefused."""
        connection = await super().connect(*args, **options)
        shown = connection.transport.get_extra_info("peercert") if connection.transport is not None else None
        if ("organizationName", self._cluster_id) not in (
            pair for names in (shown or {}).get("subject", ()) for pair in names
        ):
            connection.close()
            raise CertificateRefused(
                f"{self._address} shows a certificate that is not one of cluster {self._cluster_id}"
            )
        return connection


def _trusting_anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _trusting(ca: bytes) -> ssl.SSLContext:
    """Whoever that authority vouches for: its name is not known yet. Raises: CertificateRefused."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    try:
        context.load_verify_locations(cadata=ca.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise CertificateRefused(f"the cluster's authority can't be used for TLS: {error}") from None
    return context


async def _post(
    connector: aiohttp.BaseConnector, address: str, method: str, body: bytes, limit_bytes: int, timeout_s: float
) -> bytes:
    """Raises: PeerUnavailable, PeerTimeout, PeerProtocol, CertificateRefused, and the other side's own errors."""
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),
        auto_decompress=False,
    ) as session:
        try:
            async with (
                asyncio.timeout(timeout_s),
                session.post(
                    f"https://{address}{PATH_PREFIX}{method}",
                    data=body,
                    headers={PROTOCOL_HEADER: PROTOCOL_RANGE},
                    server_hostname=JOIN_NAME,
                    allow_redirects=False,
                ) as response,
            ):
                is_answer = response.status == 200
                data = await _read(address, response, limit_bytes if is_answer else MAX_ERROR_BYTES)
        except TimeoutError:
            raise PeerTimeout(f"{address} did not answer within {timeout_s:g} s") from None
        except (aiohttp.ClientError, ssl.SSLError, OSError, ValueError) as error:
            raise _told(address, error) from None
        if not is_answer:
            raise error_of(data)
        return data


async def _read(address: str, response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """The whole body. Raises: PeerProtocol if it is larger; aiohttp's errors."""
    parts, size_bytes = [], 0
    async for part in response.content.iter_any():
        size_bytes += len(part)
        if size_bytes > limit_bytes:
            raise PeerProtocol(f"{address} answered with more than {limit_bytes} bytes")
        parts.append(part)
    return b"".join(parts)


def _told(address: str, error: Exception) -> OllamaMaxError:
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=cause):
            return CertificateRefused(f"{address} {_reason(cause)}")
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return PeerProtocol(f"{address} is no OllamaMax peer listener: it does not speak TLS 1.3")
        case aiohttp.ClientConnectorError():
            return PeerUnavailable(f"can't reach {address}: {_cause(error.os_error)}")
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | OSError():
            return PeerUnavailable(f"{address} closed the connection before it had answered")
    return PeerProtocol(f"{address} gave an answer that can't be understood: is that an OllamaMax peer listener?")


def _cause(error: OSError) -> str:
    if error.errno is None:
        return "it closed the connection"
    return (error.strerror or "") if isinstance(error, socket.gaierror) else os.strerror(error.errno)


def _reason(cause: Exception) -> str:
    code = getattr(cause, "verify_code", 0)
    if code == _EXPIRED:
        return f"shows a certificate that has expired: {_CLOCK}"
    if code == _NOT_YET_VALID:
        return f"shows a certificate that is not valid yet: {_CLOCK}"
    return "shows a certificate that the cluster's authority did not sign"
