"""Connections to one node: opened at the address that answers first as that node, kept for the next call."""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from msgspec import Struct

from ollamamax.adapters.network import tls
from ollamamax.adapters.network.racing import first_of
from ollamamax.adapters.network.sockets import watch_over
from ollamamax.adapters.wire.connection import Connection, WireClosed, WireLimits, whole
from ollamamax.adapters.wire.idle import IdleConnections
from ollamamax.core.catalog import grammar
from ollamamax.core.errors import CertificateRefused, OllamaMaxError, PeerUnavailable, PeerUnreachable
from ollamamax.core.types import NodeRecord

_CLOSE_S: Final = 1.0
_MOMENT_S: Final = 1.0
# Silence is watched by the calls: each has limits of its own.
_NO_IDLE_LIMIT: Final = WireLimits(idle_s=1e6)


class LinkLimits(Struct, frozen=True, kw_only=True):
    """connect_s: to open a connection at one address, TLS included.  stagger_s: before the next address is tried too.

    keep_s: a connection idle for longer is not used again; below the listener's own limit.
    """

    connect_s: float = 1.0
    stagger_s: float = 0.2
    keep_s: float = 20.0


class PeerPool:
    """One node's connections. address: where it answered last, "" before it ever did."""

    def __init__(self, node_id: str, limits: LinkLimits) -> None:
        self._node_id = node_id
        self._limits = limits
        self._open: dict[Connection, str] = {}
        self._idle = IdleConnections(limits.keep_s)
        self._opening = 0
        self._is_closed = False
        self.address = ""

    def idle(self, addresses: Sequence[str]) -> Connection | None:
        """A connection to one of the addresses that waits for a request, if there is one."""
        return self._idle.take(lambda connection: self._open.get(connection) in addresses)

    def give_back(self, connection: Connection) -> None:
        """Its answer has come whole: keep it for the next call, if it is good for one."""
        if self._is_closed:
            connection.abort()
        else:
            self._idle.give_back(connection)

    def drop_idle(self, older_than_s: float = 0.0) -> None:
        """Close connections that nobody has used for so long."""
        self._idle.drop(older_than_s)

    @property
    def is_empty(self) -> bool:
        """No connection is open, or being opened."""
        return not self._open and not self._opening

    async def close(self) -> None:
        """Close all connections; answers under way break off. None will be opened after it."""
        self._is_closed = True
        open_ones = list(self._open)
        for connection in open_ones:
            connection.abort()
        if open_ones:
            await asyncio.wait([connection.lost for connection in open_ones], timeout=_CLOSE_S)

    async def connect(self, node: NodeRecord, context: ssl.SSLContext) -> Connection:
        """A new connection. Raises: PeerUnreachable, CertificateRefused."""
        if not node.addresses:
            raise PeerUnreachable(f"node {node.name} has no address")
        best_first = sorted(node.addresses, key=lambda address: address != self.address)
        attempts = [partial(self._open_at, address, context) for address in best_first]
        self._opening += 1
        try:
            found = await first_of(attempts, self._limits.stagger_s, lambda late: late[1].abort())
        finally:
            self._opening -= 1
        if isinstance(found, list):
            raise _unreachable(node, found)
        self.address, connection = found
        if self._is_closed:
            connection.abort()
            raise PeerUnreachable(f"the connections to node {node.name} were closed")
        self._open[connection] = self.address
        connection.lost.add_done_callback(lambda _: self._open.pop(connection, None))
        return connection

    async def _open_at(self, address: str, context: ssl.SSLContext) -> tuple[str, Connection]:
        loop = asyncio.get_running_loop()
        host, port = grammar.split_address(address)
        try:
            async with asyncio.timeout(self._limits.connect_s):
                transport, connection = await loop.create_connection(
                    lambda: Connection(loop, _NO_IDLE_LIMIT),
                    host,
                    port,
                    ssl=context,
                    server_hostname=tls.server_name(self._node_id),
                )
        except ssl.SSLCertVerificationError as error:
            raise CertificateRefused(f"at {address} answers somebody else: {error.verify_message}") from None
        except TimeoutError:
            raise PeerUnreachable(f"{address}: no answer within {self._limits.connect_s:g} s") from None
        except OSError as error:
            raise PeerUnreachable(f"{address}: {error.strerror or error}") from None
        with suppress(OSError, AttributeError):  # gone again: the first read will tell
            watch_over(transport.get_extra_info("socket"))
        return address, connection


class Exchange:
    """One request and its answer. `close` it in any case: before the end that closes the connection.

    A node may close an idle connection just as a request is sent on it, and one that was restarted has forgotten it. So
    a request on a used connection that ends within a moment, without a byte of an answer, is sent once more, on a new
    one.
    """

    __slots__ = ("_connection", "_context", "_is_closed", "_node", "_pool", "_request", "_sent_s")

    def __init__(self, pool: PeerPool, node: NodeRecord, context: ssl.SSLContext, request: bytes) -> None:
        self._pool = pool
        self._node = node
        self._context = context
        self._request = request
        self._connection: Connection | None = None
        self._is_closed = False
        self._sent_s = 0.0

    async def send(self) -> None:
        """Raises: PeerUnreachable, CertificateRefused."""
        used = self._pool.idle(self._node.addresses)
        if used is None:
            await self._send_anew()
        else:
            self._connection = used
            self._sent_s = asyncio.get_running_loop().time()
            used.begin(self._request, keeps=True)

    @property
    def status(self) -> int:
        """Known after the first read."""
        return self._now.status

    @property
    def has_begun(self) -> bool:
        """Whether a byte of the answer came."""
        return self._connection is not None and self._connection.has_begun

    async def read(self) -> bytes:
        """The next bytes of the body, b"" at its end. Raises: WireClosed, WireMalformed; as send()."""
        try:
            data = await self._now.read()
        except WireClosed:
            if not self._request or self.has_begun or asyncio.get_running_loop().time() > self._sent_s + _MOMENT_S:
                raise
            try:
                await self._send_anew()
            except PeerUnreachable as error:  # the first one may have been heard
                raise PeerUnavailable(str(error)) from None
            data = await self._now.read()
        self._request = b""
        return data

    async def whole(self, limit_bytes: int) -> bytes:
        """The body to its end, or what came until there was more than the limit. Raises: as read()."""
        return await whole(self.read, limit_bytes)

    def abort(self) -> None:
        """Whoever reads is told WireClosed; nothing is sent once more."""
        self._request = b""
        if self._connection is not None:
            self._connection.abort()

    def settle(self, limit_s: float) -> None:
        """All that matters was read: if the end comes within that time, the connection is kept."""
        if not self._is_closed:
            self._is_closed = True
            self._now.settle(limit_s, self._pool.give_back)

    def close(self) -> None:
        """Idempotent."""
        if self._is_closed or self._connection is None:
            return
        self._is_closed = True
        if self._connection.is_over:
            self._pool.give_back(self._connection)
        else:
            self._connection.abort()

    @property
    def _now(self) -> Connection:
        assert self._connection is not None, "send() comes first"
        return self._connection

    async def _send_anew(self) -> None:
        request, self._request = self._request, b""
        self._connection = await self._pool.connect(self._node, self._context)
        self._connection.begin(request, keeps=True)


def _unreachable(node: NodeRecord, failures: Sequence[OllamaMaxError]) -> OllamaMaxError:
    """If somebody else answered somewhere, that is worth more than that nobody did elsewhere."""
    reasons = "; ".join(str(failure) for failure in failures)
    if any(isinstance(failure, CertificateRefused) for failure in failures):
        return CertificateRefused(f"node {node.name}: {reasons}")
    return PeerUnreachable(f"node {node.name} can't be reached: {reasons}")
