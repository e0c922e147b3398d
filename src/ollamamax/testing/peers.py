"""The links between nodes in memory: calls go straight to the methods, and break where a test breaks them.

Unlike over a wire, a stream whose reader does not read just then notices a break, or its reader's end, when it is read
or closed next.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

from ollamamax.core.errors import (
    BadRequest,
    CertificateRefused,
    EngineRefused,
    OllamaMaxError,
    PeerError,
    PeerProtocol,
    PeerTimeout,
    PeerUnavailable,
    PeerUnreachable,
    PeerVersion,
)
from ollamamax.core.types import PROTOCOL_MAX, PROTOCOL_MIN, NodeRecord
from ollamamax.ports import Caller, PeerMethods
from ollamamax.ports.cluster import Stream, Unary

MAX_BODY_BYTES: Final = 64 << 20
_T = TypeVar("_T")


class _Node:
    """One that listens. gate: cleared while it is silent."""

    def __init__(self, methods: Sequence[PeerMethods]) -> None:
        self.unary: dict[str, Unary] = {}
        self.streams: dict[str, Stream] = {}
        for one in methods:
            self.unary |= {**one.unary, **one.open}
            self.streams |= one.streams
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_garbling = False
        self.versions = (PROTOCOL_MIN, PROTOCOL_MAX)


class MemoryPeers:
    """A network of nodes. calls: (caller's id, node's id, method) of each call that arrived, in order.

    revoked: ids that every node refuses.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.revoked: set[str] = set()
        self._nodes: dict[str, _Node] = {}
        self._cut: set[frozenset[str]] = set()
        self._under_way: set[_Connection] = set()

    def listen(self, node_id: str, methods: Sequence[PeerMethods]) -> None:
        """A node answers from now on."""
        self._nodes[node_id] = _Node(methods)

    def leave(self, node_id: str) -> None:
        """It answers no more, and what it is answering breaks: as if it were killed."""
        self._nodes.pop(node_id, None)
        self._break(lambda one: node_id in (one.caller_id, one.node_id))

    def link(self, node_id: str) -> "MemoryLink":
        """How that node calls others."""
        return MemoryLink(self, node_id)

    def cut(self, one: str, other: str) -> None:
        """Neither reaches the other: what is under way breaks, calls fail at once."""
        self._cut.add(frozenset((one, other)))
        self._break(lambda connection: {connection.caller_id, connection.node_id} == {one, other})

    def heal(self, one: str, other: str) -> None:
        """They reach each other again."""
        self._cut.discard(frozenset((one, other)))

    def hold(self, node_id: str) -> None:
        """It says nothing any more, but its connections stay: as if it were stopped, or its cable pulled."""
        self._nodes[node_id].gate.clear()

    def release(self, node_id: str) -> None:
        """It goes on where it was held."""
        self._nodes[node_id].gate.set()

    def garble(self, node_id: str) -> None:
        """All it answers from now on is garbage."""
        self._nodes[node_id].is_garbling = True

    def speak(self, node_id: str, low: int, high: int) -> None:
        """The versions of the talk between nodes that it understands."""
        self._nodes[node_id].versions = (low, high)

    def reach(self, caller_id: str, node: NodeRecord, method: str) -> _Node:
        """The node that is called, if it takes the call. Raises: what stands in PeerLink."""
        found = self._nodes.get(node.node_id)
        if found is None or frozenset((caller_id, node.node_id)) in self._cut:
            raise PeerUnreachable(f"node {node.name} can't be reached")
        if caller_id in self.revoked:
            raise CertificateRefused("this node was removed from the cluster")
        low, high = found.versions
        if low > PROTOCOL_MAX or high < PROTOCOL_MIN:
            raise PeerVersion(f"node {node.name} speaks versions {low} to {high}, this one {PROTOCOL_MAX}")
        self.calls.append((caller_id, node.node_id, method))
        return found

    def opened(self, connection: "_Connection") -> None:
        """For links."""
        self._under_way.add(connection)

    def closed(self, connection: "_Connection") -> None:
        """For links."""
        self._under_way.discard(connection)

    def forget(self, one: str, other: str) -> None:
        """For links: break what is under way between two nodes, in both directions."""
        self._break(lambda connection: {connection.caller_id, connection.node_id} == {one, other})

    def close(self, caller_id: str) -> None:
        """For links: break what a node has under way."""
        self._break(lambda connection: connection.caller_id == caller_id)

    def _break(self, concerns: "Callable[[_Connection], bool]") -> None:
        for connection in [one for one in self._under_way if concerns(one)]:
            connection.broken.set()


class _Connection:
    """One call under way."""

    def __init__(self, caller_id: str, node: NodeRecord, target: _Node) -> None:
        self.caller_id = caller_id
        self.node_id = node.node_id
        self.broken = asyncio.Event()
        self._name = node.name
        self._target = target

    async def carry(self, work: Awaitable[_T], limit_ms: float, signs_of_life: bool) -> _T:
        """What `work` gives, if the connection holds so long. Whatever happens, `work` has ended then.

        signs_of_life: only a node that is held is late.
        """
        working = asyncio.ensure_future(self._through_gate(work))
        breaking = asyncio.ensure_future(self.broken.wait())
        try:
            while True:
                done, _ = await asyncio.wait(
                    (working, breaking), timeout=limit_ms / 1000, return_when=asyncio.FIRST_COMPLETED
                )
                if breaking in done:
                    raise PeerUnavailable(f"node {self._name} closed the connection")
                if done:
                    return working.result()
                if not signs_of_life or not self._target.gate.is_set():
                    raise PeerTimeout(f"node {self._name} said nothing for {limit_ms:g} ms")
        finally:
            working.cancel()
            breaking.cancel()
            await asyncio.gather(working, breaking, return_exceptions=True)

    async def _through_gate(self, work: Awaitable[_T]) -> _T:
        try:
            result = await work
        except Exception:
            await self._target.gate.wait()
            raise
        await self._target.gate.wait()
        return result


class MemoryLink:
    """A PeerLink of a node in MemoryPeers."""

    def __init__(self, peers: MemoryPeers, node_id: str) -> None:
        self._peers = peers
        self._node_id = node_id
        self._is_closed = False

    async def call(self, node: NodeRecord, method: str, body: bytes, *, timeout_ms: float) -> bytes:
        """See PeerLink."""
        target = self._reach(node, method, body)
        handler = target.unary.get(method)
        if handler is None:
            raise PeerProtocol(f"node {node.name} knows no method {method!r}")
        connection = _Connection(self._node_id, node, target)
        self._peers.opened(connection)
        try:
            answer = await connection.carry(_sent(handler(Caller(self._node_id, "memory"), body)), timeout_ms, False)
        finally:
            self._peers.closed(connection)
        if target.is_garbling or len(answer) > MAX_BODY_BYTES:
            raise PeerProtocol(f"node {node.name} answered with what can't be understood")
        return answer

    async def stream(
        self, node: NodeRecord, method: str, body: bytes, *, idle_ms: float
    ) -> AsyncGenerator[list[bytes], None]:
        """See PeerLink."""
        target = self._reach(node, method, body)
        handler = target.streams.get(method)
        if handler is None:
            raise PeerProtocol(f"node {node.name} knows no method {method!r}")
        connection = _Connection(self._node_id, node, target)
        self._peers.opened(connection)
        try:
            async with aclosing(handler(Caller(self._node_id, "memory"), body)) as batches:
                while True:
                    batch = await connection.carry(_sent(anext(batches, None)), idle_ms, True)
                    if batch is None:
                        return
                    if target.is_garbling:
                        raise PeerProtocol(f"node {node.name} answered with what can't be understood")
                    if batch:
                        yield batch
        finally:
            self._peers.closed(connection)

    async def forget(self, node_id: str) -> None:
        """See PeerLink."""
        self._peers.forget(self._node_id, node_id)

    async def close(self) -> None:
        """See PeerLink."""
        self._is_closed = True
        self._peers.close(self._node_id)

    def _reach(self, node: NodeRecord, method: str, body: bytes) -> _Node:
        if self._is_closed:
            raise PeerUnavailable("this node is stopping")
        if len(body) > MAX_BODY_BYTES:
            raise BadRequest(f"a request to another node has {len(body)} bytes; {MAX_BODY_BYTES} are allowed")
        return self._peers.reach(self._node_id, node, method)


async def _sent(work: Awaitable[_T]) -> _T:
    """What `work` gives; an error as it arrives at the other side: its class and its text, nothing else of it."""
    try:
        return await work
    except EngineRefused as error:
        raise EngineRefused(str(error), error.status) from None
    except OllamaMaxError as error:
        raise type(error)(str(error)) from None
    except Exception:  # noqa: BLE001 - as the listener does
        raise PeerError("internal error; the log of that node tells more") from None
