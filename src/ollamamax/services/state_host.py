"""Lets the other nodes reach the state that this one holds: its StateStore as peer methods.

Requests and answers are msgpack of core/types/state.py: `state.get`, `.range` (StateQuery), `.txn` (StateTxn), `.watch`
(StateFollow; frames are StateBatches), `.grant`, `.renew`, `.revoke` (LeaseCall). A watch is read at its reader's pace
and keeps no queue: a reader that falls behind what the store keeps gets StateCompacted, and reads the whole anew.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, TypeVar

import msgspec

from ollamamax.core.errors import BadRequest, StateUnavailable
from ollamamax.core.types import LeaseCall, StateFollow, StateQuery, StateTxn
from ollamamax.ports import Caller, PeerMethods, StateStore

_T = TypeVar("_T")
_MAX_BODY_BYTES: Final = 4 << 20
_MAX_WATCHES: Final = 8
"""Of one node at once: one for its replica, and some that are just ending."""
_ENCODER: Final = msgspec.msgpack.Encoder()


class StateHost:
    """Answers for this node's store; decides nothing. here: that store. Raises: StateElsewhere if it has none."""

    def __init__(self, here: Callable[[], StateStore]) -> None:
        self._here = here
        self._watches: Counter[str] = Counter()
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End all watches, which never end by themselves, so that the listener can close. Idempotent."""
        self._closing.set()

    def methods(self) -> PeerMethods:
        """For the peer listener. Every node has them: the state may move to it."""
        return PeerMethods(
            unary={
                "state.get": self._get,
                "state.range": self._range,
                "state.txn": self._txn,
                "state.grant": self._grant,
                "state.renew": self._renew,
                "state.revoke": self._revoke,
            },
            streams={"state.watch": self._watch},
        )

    async def _get(self, caller: Caller, body: bytes) -> bytes:
        ask = _decoded(body, StateQuery)
        return _ENCODER.encode(await self._here().get(ask.key, linearizable=ask.linearizable))

    async def _range(self, caller: Caller, body: bytes) -> bytes:
        ask = _decoded(body, StateQuery)
        return _ENCODER.encode(await self._here().range(ask.key, linearizable=ask.linearizable))

    async def _txn(self, caller: Caller, body: bytes) -> bytes:
        return _ENCODER.encode(await self._here().txn(_decoded(body, StateTxn)))

    async def _grant(self, caller: Caller, body: bytes) -> bytes:
        ask = _decoded(body, LeaseCall)
        return _ENCODER.encode(LeaseCall(await self._here().grant_lease(ask.ttl_ms), ask.ttl_ms))

    async def _renew(self, caller: Caller, body: bytes) -> bytes:
        await self._here().renew_lease(_decoded(body, LeaseCall).lease_id)
        return b""

    async def _revoke(self, caller: Caller, body: bytes) -> bytes:
        await self._here().revoke_lease(_decoded(body, LeaseCall).lease_id)
        return b""

    async def _watch(self, caller: Caller, body: bytes) -> AsyncGenerator[list[bytes], None]:
        ask = _decoded(body, StateFollow)
        if self._watches[caller.node_id] >= _MAX_WATCHES:
            raise StateUnavailable(f"this node follows the cluster's state {_MAX_WATCHES} times already")
        self._watches[caller.node_id] += 1
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            async with aclosing(self._here().watch(ask.prefix, ask.after_revision)) as batches:
                while True:
                    yield [_ENCODER.encode(await _before(closing, anext(batches)))]
        finally:
            closing.cancel()
            self._watches[caller.node_id] -= 1
            if not self._watches[caller.node_id]:
                del self._watches[caller.node_id]


async def _before(closing: asyncio.Future[Any], coming: Awaitable[_T]) -> _T:
    """What comes, unless this node stops first. Raises: StateUnavailable then, and what `coming` raises."""
    waiting = asyncio.ensure_future(coming)
    try:
        await asyncio.wait((waiting, closing), return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        raise StateUnavailable("the node that holds the cluster's state is stopping")
    finally:
        if not waiting.done():
            waiting.cancel()
            await asyncio.wait((waiting,))
        if not waiting.cancelled():
            waiting.exception()  # seen: the reader may have gone at the same moment


def _decoded(body: bytes, kind: type[_T]) -> _T:
    if len(body) > _MAX_BODY_BYTES:
        raise BadRequest(f"a call about the cluster's state has more than {_MAX_BODY_BYTES} bytes")
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"a call about the cluster's state that can't be read: {error}") from error
