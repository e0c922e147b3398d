"""The PeerLink over HTTP/1.1 and TLS 1.3, with connections that are kept.

Why not a library's client: docs/adr/0011; what it has to know beyond that is here and in peer_pool.py.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final, Self

from ollamamax.adapters.network import tls
from ollamamax.adapters.network.peer_frames import (
    MAX_BODY_BYTES,
    MAX_ERROR_BYTES,
    PATH_PREFIX,
    PROTOCOL_HEADER,
    PROTOCOL_RANGE,
    FrameReader,
    error_of,
)
from ollamamax.adapters.network.peer_pool import Exchange, LinkLimits, PeerPool
from ollamamax.adapters.wire.connection import WireClosed, WireError
from ollamamax.core.errors import (
    BadRequest,
    OllamaMaxError,
    PeerProtocol,
    PeerTimeout,
    PeerUnavailable,
)
from ollamamax.core.types import NodeRecord
from ollamamax.ports import NodeKeys

_OK: Final = 200
_SETTLE_S: Final = 0.2


class TlsPeerLink:
    """Calls other nodes with this node's papers. incoming: closes what a node that is forgotten opened to us."""

    def __init__(
        self,
        keys: NodeKeys,
        incoming: Callable[[str], Awaitable[None]] | None = None,
        limits: LinkLimits | None = None,
    ) -> None:
        self._context = tls.link_context(keys)
        self._incoming = incoming
        self._limits = limits or LinkLimits()
        self._pools: dict[str, PeerPool] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    def replace_keys(self, keys: NodeKeys) -> None:
        """Show the renewed certificate on new connections. Raises: CertificateRefused."""
        self._context = tls.link_context(keys)

    async def call(self, node: NodeRecord, method: str, body: bytes, *, timeout_ms: float) -> bytes:
        """See PeerLink."""
        exchange = self._exchange(node, method, body)
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await exchange.send()
                answer = await exchange.whole(MAX_BODY_BYTES)
                status = exchange.status
        except TimeoutError:
            self._distrust(node)
            raise PeerTimeout(f"node {node.name} did not answer within {timeout_ms:g} ms") from None
        except WireError as error:
            raise _translated(error, node, exchange.has_begun) from None
        finally:
            exchange.close()
        if status != _OK:
            raise _refusal(answer, node)
        if len(answer) > MAX_BODY_BYTES:
            raise PeerProtocol(f"node {node.name} answered with more than {MAX_BODY_BYTES} bytes")
        return answer

    async def stream(
        self, node: NodeRecord, method: str, body: bytes, *, idle_ms: float
    ) -> AsyncGenerator[list[bytes], None]:
        """See PeerLink. A node that is there, but whose handler has nothing to say, gives signs of life by itself."""
        exchange = self._exchange(node, method, body)
        reader = FrameReader()
        with _Silence(exchange, idle_ms / 1000) as silence:
            try:
                await exchange.send()
                while not reader.is_over:
                    silence.begin()
                    data = await exchange.read()
                    if exchange.status != _OK:
                        data += await exchange.whole(MAX_ERROR_BYTES)
                        break
                    silence.end()
                    if not data:
                        raise PeerProtocol("it ended before its last frame")
                    frames = reader.feed(data)
                    if reader.is_over:
                        exchange.settle(_SETTLE_S)
                    if frames:
                        yield frames
            except (WireError, PeerProtocol) as error:
                if silence.has_lasted:
                    self._distrust(node)
                    raise PeerTimeout(f"node {node.name} said nothing for {idle_ms:g} ms") from None
                raise _translated(error, node, exchange.has_begun) from None
            finally:
                exchange.close()
        if not reader.is_over:
            raise _refusal(data, node)
        if reader.error is not None:
            raise reader.error

    async def forget(self, node_id: str) -> None:
        """See PeerLink."""
        pool = self._pools.pop(node_id, None)
        if pool is not None:
            await pool.close()
        if self._incoming is not None:
            await self._incoming(node_id)

    async def close(self) -> None:
        """See PeerLink."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        pools, self._pools = list(self._pools.values()), {}
        await asyncio.gather(*(pool.close() for pool in pools))

    def _exchange(self, node: NodeRecord, method: str, body: bytes) -> Exchange:
        if self._is_closed:
            raise PeerUnavailable("this node is stopping")
        if len(body) > MAX_BODY_BYTES:
            raise BadRequest(f"a request to another node has {len(body)} bytes; {MAX_BODY_BYTES} are allowed")
        pool = self._pools.get(node.node_id)
        if pool is None:
            pool = self._pools[node.node_id] = PeerPool(node.node_id, self._limits)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._limits.keep_s, self._drop_old)
        head = (
            f"POST {PATH_PREFIX}{method} HTTP/1.1\r\nHost: {tls.server_name(node.node_id)}\r\n"
            f"{PROTOCOL_HEADER}: {PROTOCOL_RANGE}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return Exchange(pool, node, self._context, head.encode("ascii") + body)

    def _drop_old(self) -> None:
        """Close what was idle for too long, and look again as long as anything is open."""
        self._sweep = None
        for pool in self._pools.values():
            pool.drop_idle(self._limits.keep_s)
        if any(not pool.is_empty for pool in self._pools.values()):
            self._sweep = asyncio.get_running_loop().call_later(self._limits.keep_s, self._drop_old)

    def _distrust(self, node: NodeRecord) -> None:
        """It was silent: the next call opens a connection, which soon tells whether the node is there at all."""
        pool = self._pools.get(node.node_id)
        if pool is not None:
            pool.drop_idle()


class _Silence:
    """Ends an exchange that says nothing for too long while it is read; one timer for all its reads."""

    __slots__ = ("_exchange", "_limit_s", "_loop", "_since_s", "_timer", "has_lasted")

    def __init__(self, exchange: Exchange, limit_s: float) -> None:
        self._exchange = exchange
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._since_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.has_lasted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def begin(self) -> None:
        """A read begins."""
        self.has_lasted = False
        self._since_s = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._limit_s, self._look)

    def end(self) -> None:
        """Something came."""
        self._since_s = None

    def _look(self) -> None:
        self._timer = None
        if self._since_s is None:
            return
        left_s = self._since_s + self._limit_s - self._loop.time()
        if left_s <= 0:  # watched on: the exchange may just be sending its request once more
            self.has_lasted = True
            self._exchange.abort()
            left_s = self._limit_s
        self._timer = self._loop.call_later(left_s, self._look)


def _refusal(body: bytes, node: NodeRecord) -> OllamaMaxError:
    try:
        return error_of(body)
    except PeerProtocol as error:
        return _translated(error, node, has_begun=True)


def _translated(error: WireError | PeerProtocol, node: NodeRecord, has_begun: bool) -> OllamaMaxError:
    """has_begun: some byte of an answer came. A node that refuses a certificate in the handshake does not say so."""
    if not isinstance(error, WireClosed):
        return PeerProtocol(f"node {node.name} answered with what can't be understood: {error}")
    if has_begun:
        return PeerUnavailable(f"node {node.name} closed the connection before its answer was whole")
    return PeerUnavailable(
        f"node {node.name} closed the connection without an answer: it is stopping, or does not accept this node's "
        "certificate"
    )
