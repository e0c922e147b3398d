"""Reads and transactions on a cluster's keys in etcd. All of them hold only by the base that revisions count from."""

from collections.abc import Sequence
from typing import Any, Final

from ollamamax.adapters.state.etcd_client import EtcdClient
from ollamamax.adapters.state.etcd_wire import Origin, Wire
from ollamamax.core.errors import StateCompacted, StateUnavailable
from ollamamax.core.types import Compare, StateEntry, StateRange, StateTxn, TxnResult

_PAGE: Final = 200
"""Entries per answer: even the largest fit into one message."""
_TRIES: Final = 3
_AGAIN: Final = "the cluster's state in etcd is begun anew again and again; try again later"


class EtcdKeys:
    """known: the base, as soon as one answer told it; asked for again when it was replaced."""

    def __init__(self, client: EtcdClient, wire: Wire) -> None:
        self.wire = wire
        self._client = client
        self.known: Origin | None = None

    async def origin(self, *, linearizable: bool = True) -> tuple[Origin, int]:
        """The base, and the revision now: as a majority of the members has it, or as the one that answers knows it."""
        answer = await self._range(self.wire.read_origin(linearizable=linearizable), linearizable)
        self.known = self.wire.origin(answer.kvs)
        return self.known, int(answer.header.revision) + self.known.base

    async def check(self, revision: int) -> None:
        """Whether all changes after etcd's `revision` are kept. Raises: StateCompacted if not, or if it lies ahead."""
        await self._range(self.wire.read_origin(max(revision, 1)), True)

    async def get(self, key: str, *, linearizable: bool) -> StateEntry | None:
        """The entry of a key, or None."""
        read = self.wire.reading(self.wire.read(key, linearizable))
        origin, answer = await self._run((), [read], may_repeat=True, linearizable=linearizable)
        kvs = answer.responses[0].response_range.kvs
        return self.wire.entry(kvs[0], origin) if kvs else None

    async def range(self, prefix: str, *, linearizable: bool) -> tuple[Origin, StateRange]:
        """All entries below a prefix as of one revision, and what it counts from."""
        for _ in range(_TRIES):
            try:
                return await self._pages(prefix, linearizable)
            except StateCompacted:  # between two pages
                continue
        raise StateUnavailable("etcd forgets changes faster than the state can be read; try again later")

    async def txn(self, txn: StateTxn) -> TxnResult:
        """Carry it out. One that writes nothing is a linearizable read."""
        parts = [self.wire.write(write) for write in txn.writes] or [self.wire.reading(self.wire.read_origin())]
        origin, answer = await self._run(txn.compares, parts, may_repeat=not txn.writes)
        return TxnResult(answer.succeeded, answer.header.revision + origin.base)

    async def begin(self, after_revision: int) -> int:
        """Remove all keys, and count on after a revision. Returns: the revision now."""
        for _ in range(_TRIES):
            origin, revision = await self.origin()
            base = after_revision - (revision - origin.base)
            request = self._request(origin, (), self.wire.beginning(base))
            answer = await self._client.call("KV", "Txn", request, may_repeat=False)
            if answer.succeeded:
                self.known = Origin(answer.header.revision, base)
                return int(answer.header.revision) + base
        raise StateUnavailable(_AGAIN)

    async def _pages(self, prefix: str, linearizable: bool) -> tuple[Origin, StateRange]:
        page = self.wire.page(prefix, b"", _PAGE, 0, linearizable)
        origin, answer = await self._run((), [self.wire.reading(page)], may_repeat=True, linearizable=linearizable)
        revision = answer.header.revision
        answer = answer.responses[0].response_range
        entries = [self.wire.entry(kv, origin) for kv in answer.kvs]
        while answer.more:
            page = self.wire.page(prefix, answer.kvs[-1].key, _PAGE, revision, linearizable)
            answer = await self._range(page, linearizable)
            entries += [self.wire.entry(kv, origin) for kv in answer.kvs]
        return origin, StateRange(revision + origin.base, tuple(entries))

    async def _range(self, request: Any, linearizable: bool) -> Any:
        return await self._client.call("KV", "Range", request, may_repeat=True, needs_leader=linearizable)

    async def _run(
        self, compares: Sequence[Compare], parts: list[Any], *, may_repeat: bool, linearizable: bool = True
    ) -> tuple[Origin, Any]:
        """A transaction by the base that is known, and by the newest one if that was replaced."""
        for _ in range(_TRIES):
            origin = self.known or (await self.origin(linearizable=linearizable))[0]
            request = self._request(origin, compares, parts, linearizable)
            answer = await self._client.call("KV", "Txn", request, may_repeat=may_repeat, needs_leader=linearizable)
            if answer.succeeded or self.wire.origin(answer.responses[0].response_range.kvs) == origin:
                return origin, answer
            self.known = None
        raise StateUnavailable(_AGAIN)

    def _request(self, origin: Origin, compares: Sequence[Compare], parts: list[Any], linearizable: bool = True) -> Any:
        return self.wire.pb.TxnRequest(
            compare=[self.wire.compare_origin(origin), *(self.wire.compare(one, origin) for one in compares)],
            success=parts,
            failure=[self.wire.reading(self.wire.read_origin(linearizable=linearizable))],
        )
