"""The replicated state that another node holds, reached through its peer listener (methods: services/state_host.py)."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final, TypeVar

import msgspec

from ollamamax.core.errors import CertificateRefused, PeerError, StateUnavailable
from ollamamax.core.types import (
    LeaseCall,
    NodeRecord,
    StateBatch,
    StateEntry,
    StateFollow,
    StateQuery,
    StateRange,
    StateTxn,
    TxnResult,
)
from ollamamax.core.types.state import check_ttl, check_txn
from ollamamax.ports import PeerLink

_T = TypeVar("_T")
_TIMEOUT_MS: Final = 5_000.0
_SILENCE_MS: Final = 5_000.0
_ENCODER: Final = msgspec.msgpack.Encoder()


class RemoteState:
    """A StateStore. Reads are not cached: all go to the holder, so all are linearizable.

    holder: who holds the state now; None = not known yet.  timeout_ms: for a call as a whole.
    silence_ms: a watch that hears nothing for so long is lost; several heartbeats of a store.
    """

    def __init__(
        self,
        link: PeerLink,
        holder: Callable[[], NodeRecord | None],
        *,
        timeout_ms: float = _TIMEOUT_MS,
        silence_ms: float = _SILENCE_MS,
    ) -> None:
        self._link = link
        self._holder = holder
        self._timeout_ms = timeout_ms
        self._silence_ms = silence_ms
        self._is_closed = False

    async def get(self, key: str, *, linearizable: bool = False) -> StateEntry | None:
        """The entry of a key, or None."""
        answer = await self._call("state.get", StateQuery(key, linearizable))
        return self._decoded(answer, StateEntry | None)  # type: ignore[arg-type]  # a union is no type

    async def range(self, prefix: str, *, linearizable: bool = False) -> StateRange:
        """All entries below a prefix, in key order."""
        return self._decoded(await self._call("state.range", StateQuery(prefix, linearizable)), StateRange)

    async def txn(self, txn: StateTxn) -> TxnResult:
        """Apply it; on return it is on the holder's disk.

        Raises: BadRequest, LeaseNotFound, DiskFull, StateError; StateUnavailable, and then it may have been applied.
        """
        check_txn(txn)
        return self._decoded(await self._call("state.txn", txn), TxnResult)

    async def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[StateBatch, None]:
        """Changes from there on. Raises: StateCompacted; StateUnavailable once the holder is lost."""
        node = self._node()
        body = _ENCODER.encode(StateFollow(prefix, after_revision))
        stream = self._link.stream(node, "state.watch", body, idle_ms=self._silence_ms)
        try:
            async with aclosing(stream) as frames:
                async for group in frames:
                    for frame in group:
                        if self._is_closed:
                            raise StateUnavailable("the cluster's state is closed")
                        yield self._decoded(frame, StateBatch)
        except (PeerError, CertificateRefused) as error:
            raise _unavailable(node, str(error)) from error
        raise _unavailable(node, "it stopped telling of changes")

    async def grant_lease(self, ttl_ms: int) -> int:
        """A new lease. Raises: BadRequest, DiskFull, StateError."""
        check_ttl(ttl_ms)
        return self._decoded(await self._call("state.grant", LeaseCall(0, ttl_ms)), LeaseCall).lease_id

    async def renew_lease(self, lease_id: int) -> None:
        """Start its time anew. Raises: LeaseNotFound."""
        await self._call("state.renew", LeaseCall(lease_id))

    async def revoke_lease(self, lease_id: int) -> None:
        """End it now, and its keys with it."""
        await self._call("state.revoke", LeaseCall(lease_id))

    async def close(self) -> None:
        """No more calls; the link stays open, it is somebody else's."""
        self._is_closed = True

    def _node(self) -> NodeRecord:
        if self._is_closed:
            raise StateUnavailable("the cluster's state is closed")
        node = self._holder()
        if node is None:
            raise StateUnavailable("it is not known yet which node holds the cluster's state")
        return node

    async def _call(self, method: str, ask: msgspec.Struct) -> bytes:
        node = self._node()
        try:
            return await self._link.call(node, method, _ENCODER.encode(ask), timeout_ms=self._timeout_ms)
        except (PeerError, CertificateRefused) as error:
            raise _unavailable(node, str(error)) from error

    def _decoded(self, data: bytes, kind: type[_T]) -> _T:
        try:
            return msgspec.msgpack.decode(data, type=kind)
        except msgspec.MsgspecError as error:
            raise StateUnavailable(
                f"the node that holds the cluster's state answers what makes no sense: {error}"
            ) from error


def _unavailable(node: NodeRecord, reason: str) -> StateUnavailable:
    return StateUnavailable(
        f"the cluster's state is on node {node.name}, which can't be reached ({reason}). "
        "What is running goes on; changes have to wait until it is back."
    )
