"""The replicated state that other nodes hold, through their peer listeners (methods: services/state_host.py)."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

import msgspec

from ollamamax.core.errors import (
    CertificateRefused,
    OllamaMaxError,
    PeerError,
    PeerUnreachable,
    StateElsewhere,
    StateUnavailable,
)
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
_NOTHING_DONE: Final = (PeerUnreachable, CertificateRefused, StateElsewhere)
"""After these any call may be made anew, elsewhere."""


class RemoteState:
    """A StateStore. Nothing is cached: every read is a host's own.

    hosts: the nodes through which the state is reached now, best first; none = not known yet. The one that answered
    last is asked first; another one is asked where that can't do harm: after a failed read, or if nothing was sent.
    timeout_ms: for one host's answer.  silence_ms: a watch that hears nothing for so long is lost; several heartbeats.
    """

    def __init__(
        self,
        link: PeerLink,
        hosts: Callable[[], Sequence[NodeRecord]],
        *,
        timeout_ms: float = _TIMEOUT_MS,
        silence_ms: float = _SILENCE_MS,
    ) -> None:
        self._link = link
        self._hosts = hosts
        self._timeout_ms = timeout_ms
        self._silence_ms = silence_ms
        self._last_good = ""
        self._is_closed = False

    async def get(self, key: str, *, linearizable: bool = False) -> StateEntry | None:
        """The entry of a key, or None."""
        answer = await self._call("state.get", StateQuery(key, linearizable), is_read=True)
        return self._decoded(answer, StateEntry | None)  # type: ignore[arg-type]  # a union is no type

    async def range(self, prefix: str, *, linearizable: bool = False) -> StateRange:
        """All entries below a prefix, in key order."""
        answer = await self._call("state.range", StateQuery(prefix, linearizable), is_read=True)
        return self._decoded(answer, StateRange)

    async def txn(self, txn: StateTxn) -> TxnResult:
        """Apply it; on return it is on disk there.

        Raises: BadRequest, LeaseNotFound, DiskFull, StateError; StateUnavailable, and then it may have been applied.
        """
        check_txn(txn)
        return self._decoded(await self._call("state.txn", txn), TxnResult)

    async def watch(self, prefix: str, after_revision: int) -> AsyncGenerator[StateBatch, None]:
        """Changes from there on, of one host.

        Raises: StateCompacted; StateUnavailable once that host is lost, StateElsewhere once the state has left it.
        """
        body = _ENCODER.encode(StateFollow(prefix, after_revision))
        failures: list[tuple[NodeRecord, OllamaMaxError]] = []
        for node in self._in_turn():
            has_begun = False
            try:
                async with aclosing(self._link.stream(node, "state.watch", body, idle_ms=self._silence_ms)) as frames:
                    async for group in frames:
                        for frame in group:
                            if self._is_closed:
                                raise _closed()
                            has_begun = True
                            self._last_good = node.node_id
                            yield self._decoded(frame, StateBatch)
                raise _unavailable([(node, StateUnavailable("it stopped telling of changes"))])
            except (PeerError, CertificateRefused, StateElsewhere) as error:
                if has_begun and isinstance(error, StateElsewhere):
                    raise
                failures.append((node, error))
                if has_begun:
                    break
        raise _unavailable(failures) from failures[-1][1]

    async def grant_lease(self, ttl_ms: int) -> int:
        """A new lease. Raises: BadRequest, DiskFull, StateError."""
        check_ttl(ttl_ms)
        return self._decoded(await self._call("state.grant", LeaseCall(0, ttl_ms)), LeaseCall).lease_id

    async def renew_lease(self, lease_id: int) -> None:
        """Start its time anew. Raises: LeaseNotFound."""
        await self._call("state.renew", LeaseCall(lease_id), is_read=True)

    async def revoke_lease(self, lease_id: int) -> None:
        """End it now, and its keys with it."""
        await self._call("state.revoke", LeaseCall(lease_id), is_read=True)

    async def close(self) -> None:
        """No more calls; the link stays open, it is somebody else's."""
        self._is_closed = True

    def _in_turn(self) -> list[NodeRecord]:
        """Raises: StateUnavailable."""
        if self._is_closed:
            raise _closed()
        hosts = sorted(self._hosts(), key=lambda node: node.node_id != self._last_good)
        if not hosts:
            raise StateUnavailable("it is not known yet which node holds the cluster's state")
        return hosts

    async def _call(self, method: str, ask: msgspec.Struct, is_read: bool = False) -> bytes:
        """is_read: as harmless when it is done twice."""
        body = _ENCODER.encode(ask)
        failures: list[tuple[NodeRecord, OllamaMaxError]] = []
        for node in self._in_turn():
            try:
                answer = await self._link.call(node, method, body, timeout_ms=self._timeout_ms)
            except (PeerError, CertificateRefused, StateUnavailable) as error:
                failures.append((node, error))
                if not is_read and not isinstance(error, _NOTHING_DONE):
                    break
            else:
                self._last_good = node.node_id
                return answer
        raise _unavailable(failures) from failures[-1][1]

    def _decoded(self, data: bytes, kind: type[_T]) -> _T:
        try:
            return msgspec.msgpack.decode(data, type=kind)
        except msgspec.MsgspecError as error:
            raise StateUnavailable(
                f"the node that holds the cluster's state answers what makes no sense: {error}"
            ) from error


def _closed() -> StateUnavailable:
    return StateUnavailable("the cluster's state is closed")


def _unavailable(failures: Sequence[tuple[NodeRecord, OllamaMaxError]]) -> StateUnavailable:
    """What all hosts that were asked said."""
    if len(failures) == 1:
        ((node, error),) = failures
        if isinstance(error, StateUnavailable) and not isinstance(error, StateElsewhere):
            return StateUnavailable(f"the cluster's state is on node {node.name}: {error}")
        return StateUnavailable(
            f"the cluster's state is on node {node.name}, which can't be reached ({error}). "
            "What is running goes on; changes have to wait until it is back."
        )
    reasons = "; ".join(f"{node.name}: {error}" for node, error in failures)
    return StateUnavailable(
        f"the cluster's state can't be reached through any of its {len(failures)} nodes ({reasons}). "
        "What is running goes on; changes have to wait until most of them are back."
    )
