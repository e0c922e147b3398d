"""The peer listener: who may speak to this node, and that nobody who may not costs it anything.

Only holders of a certificate of the cluster get to HTTP, and those who come to join, by the name `join.ollamamax`,
to the few methods that are open. What every stranger can do is bounded: handshakes at once, and how long each takes.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import structlog
from msgspec import Struct

from ollamamax.adapters.network import tls
from ollamamax.adapters.network.peer_answers import AnswerLimits, PeerAnswers
from ollamamax.adapters.network.peer_frames import error_body
from ollamamax.adapters.network.peer_guard import Entry, GuardLimits, PeerGuard
from ollamamax.adapters.network.peer_requests import PeerRequest, PeerRequests
from ollamamax.adapters.network.sockets import listening, watch_over
from ollamamax.core.errors import CertificateRefused
from ollamamax.ports import Caller, NodeKeys, PeerMethods

_LOG: Final = structlog.get_logger(__name__)
_ROUND_S: Final = 1.0
_ACCEPT_PAUSE_S: Final = 0.2
_LAST_WORDS_S: Final = 1.0
_SHUTDOWN_S: Final = 1.0
_SILENT_S: Final = 5.0
"""Between two lines of the log about who was refused."""
_REMOVED: Final = error_body(CertificateRefused("this node was removed from the cluster"))
_FAREWELL: Final = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (
    len(_REMOVED),
    _REMOVED,
)


class ListenerLimits(Struct, frozen=True, kw_only=True):
    """handshake_s: for TLS.  handshakes: at once; more wait in the system's queue.  per_peer: connections of one node.

    joining: connections without a certificate, of all together.
    """

    handshake_s: float = 5.0
    handshakes: int = 256
    per_peer: int = 512
    joining: int = 64
    guard: GuardLimits = GuardLimits()
    answers: AnswerLimits = AnswerLimits()


class PeerServer:
    """Answers `methods` to other nodes; `start`, then `close`.

    is_revoked: whether a node id, or the hash of its key, was removed from the cluster; asked for each request.
    """

    def __init__(
        self,
        methods: Sequence[PeerMethods],
        keys: NodeKeys,
        is_revoked: Callable[[str, str], bool],
        limits: ListenerLimits | None = None,
    ) -> None:
        self._limits = limits or ListenerLimits()
        self._keys = keys
        self._context = tls.listener_context(keys)
        self._is_revoked = is_revoked
        self._answers = PeerAnswers(methods, f"node {keys.node_id}", self._limits.answers)
        self._guards: dict[PeerGuard, str] = {}
        """Each open connection, and the hash of its key."""
        self._count: Counter[str] = Counter()
        self._listening: list[socket.socket] = []
        self._accepting: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusals = 0
        self._silent_until_s = 0.0
        self._handshakes = asyncio.Semaphore(self._limits.handshakes)

    # --- life -------------------------------------------------------------------------------------------------

    async def start(self, host: str, port: int) -> int:
        """Listen on all addresses of `host` ("" = every interface; port 0 = any free one). The port.

        Raises: Conflict if the port is in use, SettingsError if the address is not this machine's or not allowed.
        """
        self._listening = await listening(host, port, "--peer-listen")
        for one in self._listening:
            self._own(self._accept(one), self._accepting)
        self._own(self._go_rounds(), self._tasks)
        return int(self._listening[0].getsockname()[1])

    def replace_keys(self, keys: NodeKeys) -> None:
        """Show the renewed certificate on new connections. Raises: CertificateRefused."""
        self._context = tls.listener_context(keys)
        self._keys = keys

    async def drop(self, node_id: str) -> None:
        """Cut the connections of a node that was removed."""
        await self._cut([guard for guard in self._guards if guard.caller.node_id == node_id])

    async def close(self, grace_ms: float) -> None:
        """Accept no more, let answers finish for `grace_ms`, then end them with an error. Idempotent.

        Watches never finish: whoever answers them should end them first.
        """
        self._answers.is_closing = True
        await _cancelled(self._accepting)
        for one in self._listening:
            one.close()
        self._listening = []
        await _cancelled(self._tasks)
        await self._cut([guard for guard in self._guards if guard.is_idle])
        await self._finish(grace_ms / 1000)
        for guard in self._guards:
            if guard.task is not None:
                guard.task.cancel()
        await self._finish(_LAST_WORDS_S)
        await self._cut(list(self._guards))

    async def _finish(self, limit_s: float) -> None:
        answering = [guard.task for guard in self._guards if guard.task is not None]
        if answering:
            await asyncio.wait(answering, timeout=limit_s)

    async def _cut(self, guards: list[PeerGuard]) -> None:
        for guard in guards:
            guard.transport.abort()
        if guards:
            await asyncio.wait([guard.lost for guard in guards], timeout=_LAST_WORDS_S)

    def _own(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    # --- accepting --------------------------------------------------------------------------------------------

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._handshakes.acquire()
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:  # out of file descriptors, or the caller is gone again
                self._handshakes.release()
                _LOG.warning("a peer can't be let in", reason=error.strerror)
                await asyncio.sleep(_ACCEPT_PAUSE_S)
            except BaseException:
                self._handshakes.release()
                raise
            else:
                self._own(self._greet(loop, accepted), self._tasks)

    async def _greet(self, loop: asyncio.AbstractEventLoop, accepted: socket.socket) -> None:
        try:
            with suppress(OSError):  # gone again: the handshake will tell
                watch_over(accepted)
            await loop.connect_accepted_socket(
                partial(PeerGuard, self, self._limits.guard, loop),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.handshake_s,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except OSError as error:  # ssl's are among them: no TLS, a foreign or expired certificate, silence, gone
            _LOG.debug("no handshake with a peer", reason=str(error))
        finally:
            self._handshakes.release()

    async def _go_rounds(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_ROUND_S)
            now_s = loop.time()
            for guard in tuple(self._guards):
                guard.look(now_s)

    # --- the door ---------------------------------------------------------------------------------------------

    def enter(self, guard: PeerGuard) -> Entry | None:
        """For PeerGuard."""
        encrypted = guard.transport.get_extra_info("ssl_object")
        peer = guard.transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        papers = tls.papers_of(encrypted)
        if papers is None or papers.cluster_id != self._keys.cluster_id:
            if papers is not None or not tls.is_joining(encrypted):
                self._refused("it shows no certificate of this cluster", address)
                return None
            papers = tls.Papers("", "", "")
        if self._count[papers.node_id] >= (self._limits.per_peer if papers.node_id else self._limits.joining):
            self._refused("it has too many connections", address, papers.node_id)
            return None
        self._count[papers.node_id] += 1
        self._guards[guard] = papers.key_hash
        if papers.node_id and self._is_revoked(papers.node_id, papers.key_hash):
            self._refused("it was removed", address, papers.node_id)
            return Entry(Caller(papers.node_id, address), _FAREWELL)
        return Entry(Caller(papers.node_id, address))

    def speaker(self, guard: PeerGuard) -> PeerRequests:
        """For PeerGuard."""
        return PeerRequests(guard.transport, partial(self._answer, guard), asyncio.get_running_loop())

    def left(self, guard: PeerGuard) -> None:
        """For PeerGuard."""
        if self._guards.pop(guard, None) is not None:
            node_id = guard.caller.node_id
            self._count[node_id] -= 1
            if not self._count[node_id]:
                del self._count[node_id]

    def _refused(self, reason: str, address: str, node_id: str = "") -> None:
        """Say so, but let nobody fill the log."""
        self._refusals += 1
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._silent_until_s:
            _LOG.warning("a peer is refused", reason=reason, address=address, node=node_id, refusals=self._refusals)
            self._refusals, self._silent_until_s = 0, now_s + _SILENT_S

    async def _answer(self, guard: PeerGuard, request: PeerRequest) -> None:
        node_id = guard.caller.node_id
        if node_id and self._is_revoked(node_id, self._guards.get(guard, "")):
            guard.transport.abort()
        else:
            await self._answers.answer(guard, request)


async def _cancelled(tasks: set[asyncio.Task[None]]) -> None:
    """All of them, and their end awaited."""
    ending = tuple(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)
