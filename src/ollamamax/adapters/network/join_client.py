"""How a node without papers asks to be let in: a JoinLink over TLS 1.3 with the server name `join.ollamamax`.

One connection per call, and never one that was used before: what an unverified connection said counts for nothing on a
verified one.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final

from ollamamax.adapters.network.peer_frames import (
    MAX_BODY_BYTES,
    MAX_ERROR_BYTES,
    PATH_PREFIX,
    PROTOCOL_HEADER,
    PROTOCOL_RANGE,
    error_of,
)
from ollamamax.adapters.network.tls import JOIN_NAME
from ollamamax.adapters.wire.connection import Connection, WireClosed, WireError, WireLimits, whole
from ollamamax.core.catalog import grammar
from ollamamax.core.errors import CertificateRefused, OllamaMaxError, PeerProtocol, PeerTimeout, PeerUnavailable

_MAX_HELLO_BYTES: Final = 64 << 10
_EXPIRED, _NOT_YET_VALID = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID
_CLOCK: Final = "check the clocks of both machines"

_Look = Callable[[asyncio.BaseTransport], None]
"""Looks at a connection before anything is said on it. Raises: CertificateRefused."""


class TlsJoinLink:
    """hello_timeout_s, join_timeout_s: for a whole call, connecting included. A joining may go through another node."""

    def __init__(self, hello_timeout_s: float = 5.0, join_timeout_s: float = 30.0) -> None:
        self._hello_timeout_s = hello_timeout_s
        self._join_timeout_s = join_timeout_s

    async def hello(self, address: str) -> bytes:
        """What whoever listens there says of itself. Nothing about it is verified."""
        request = _request(address, "cluster.hello", b"")
        return await _ask(address, _trusting_anybody(), _nothing, request, _MAX_HELLO_BYTES, self._hello_timeout_s)

    async def join(self, address: str, ca: bytes, cluster_id: str, body: bytes) -> bytes:
        """Ask a member, over a connection of its own that `ca` (PEM) vouches for, to be let in.

        Nothing of `body` is sent before that. Raises: CertificateRefused if it is no member of that cluster.
        """

        def is_member(transport: asyncio.BaseTransport) -> None:
            shown = transport.get_extra_info("peercert") or {}
            if ("organizationName", cluster_id) not in (pair for names in shown.get("subject", ()) for pair in names):
                raise CertificateRefused(f"{address} shows a certificate that is not one of cluster {cluster_id}")

        request = _request(address, "cluster.join", body)
        return await _ask(address, _trusting(ca), is_member, request, MAX_BODY_BYTES, self._join_timeout_s)


def _nothing(_: asyncio.BaseTransport) -> None:
    """To be looked at."""


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


def _request(address: str, method: str, body: bytes) -> bytes:
    return (
        f"POST {PATH_PREFIX}{method} HTTP/1.1\r\nHost: {address}\r\n{PROTOCOL_HEADER}: {PROTOCOL_RANGE}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body


async def _ask(
    address: str, context: ssl.SSLContext, look: _Look, request: bytes, limit_bytes: int, timeout_s: float
) -> bytes:
    """Raises: PeerUnavailable, PeerTimeout, PeerProtocol, CertificateRefused, and the other side's own errors."""
    connection: Connection | None = None
    try:
        async with asyncio.timeout(timeout_s):
            transport, connection = await _connected(address, context, WireLimits(idle_s=2 * timeout_s))
            look(transport)
            connection.begin(request, keeps=False)
            await connection.head()
            is_answer = connection.status == 200
            limit_bytes = limit_bytes if is_answer else MAX_ERROR_BYTES
            data = await whole(connection.read, limit_bytes)
    except TimeoutError:
        raise PeerTimeout(f"{address} did not answer within {timeout_s:g} s") from None
    except (WireError, OSError) as error:
        raise _told(address, error) from None
    finally:
        if connection is not None:
            connection.abort()
    if len(data) > limit_bytes:
        raise PeerProtocol(f"{address} answered with more than {limit_bytes} bytes")
    if not is_answer:
        raise error_of(data)
    return data


async def _connected(
    address: str, context: ssl.SSLContext, limits: WireLimits
) -> tuple[asyncio.BaseTransport, Connection]:
    loop = asyncio.get_running_loop()
    host, port = grammar.split_address(address)
    return await loop.create_connection(
        lambda: Connection(loop, limits), host, port, ssl=context, server_hostname=JOIN_NAME
    )


def _told(address: str, error: Exception) -> OllamaMaxError:
    match error:
        case ssl.SSLCertVerificationError():
            return CertificateRefused(f"{address} {_reason(error)}")
        case ssl.SSLError():
            return PeerProtocol(f"{address} is no OllamaMax peer listener: it does not speak TLS 1.3")
        case OSError():
            return PeerUnavailable(f"can't reach {address}: {_cause(error)}")
        case WireClosed():
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
