"""Keys and revisions of the port as etcd's, and back.

All keys of a cluster lie below `ollamamax/<cluster id>/`. A revision that is shown is etcd's plus a base, which lies in
etcd itself at `ollamamax/<cluster id>~base`: so a state that moves here from elsewhere goes on counting. Every
transaction compares the base, so nobody goes by one that has been replaced.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from ollamamax.core.errors import StateCompacted, StateCorrupt
from ollamamax.core.types import Compare, Delete, Put, StateBatch, StateEntry, StateEvent

_NEVER: Final = -1
"""No key was ever changed at this revision."""


class Origin(NamedTuple):
    """Where revisions count from. changed: etcd's revision when the base was written, 0 = there is none."""

    changed: int = 0
    base: int = 0


class Wire:
    """pb: etcd's generated messages."""

    def __init__(self, pb: Any, cluster_id: str) -> None:
        self.pb = pb
        self._prefix = f"ollamamax/{cluster_id}/".encode()
        self._base = f"ollamamax/{cluster_id}~base".encode()

    def key(self, key: str) -> bytes:
        """As it lies in etcd."""
        return self._prefix + key.encode()

    def origin(self, kvs: Any) -> Origin:
        """Of the answer to read_origin(). Raises: StateCorrupt."""
        if not kvs:
            return Origin()
        try:
            return Origin(kvs[0].mod_revision, int(kvs[0].value))
        except ValueError:
            raise StateCorrupt(f"{self._base.decode()} in etcd is no number; somebody else wrote it") from None

    def read_origin(self, revision: int = 0, *, linearizable: bool = True) -> Any:
        """The request for the base. revision: etcd's, 0 = the newest."""
        return self.pb.RangeRequest(key=self._base, revision=revision, serializable=not linearizable)

    def read(self, key: str, linearizable: bool) -> Any:
        """The request for one key."""
        return self.pb.RangeRequest(key=self.key(key), serializable=not linearizable)

    def page(self, prefix: str, after: bytes, limit: int, revision: int, linearizable: bool) -> Any:
        """The request for `limit` entries below a prefix. after: the last key of the page before.

        revision: etcd's, 0 = the newest.
        """
        begin = self.key(prefix)
        return self.pb.RangeRequest(
            key=after + b"\0" if after else begin,
            range_end=_end(begin),
            limit=limit,
            revision=revision,
            serializable=not linearizable,
        )

    def reading(self, request: Any) -> Any:
        """As a part of a transaction."""
        return self.pb.RequestOp(request_range=request)

    def write(self, write: Put | Delete) -> Any:
        """As a part of a transaction."""
        if isinstance(write, Put):
            put = self.pb.PutRequest(key=self.key(write.key), value=write.value, lease=write.lease_id)
            return self.pb.RequestOp(request_put=put)
        return self.pb.RequestOp(request_delete_range=self.pb.DeleteRangeRequest(key=self.key(write.key)))

    def beginning(self, base: int) -> list[Any]:
        """The parts that remove all keys and write a new base."""
        everything = self.pb.DeleteRangeRequest(key=self._prefix, range_end=_end(self._prefix))
        put = self.pb.PutRequest(key=self._base, value=b"%d" % base)
        return [self.pb.RequestOp(request_delete_range=everything), self.pb.RequestOp(request_put=put)]

    def compare(self, compare: Compare, origin: Origin) -> Any:
        """As a part of a transaction."""
        revision = compare.revision - origin.base if compare.revision else 0
        return self._compare(self.key(compare.key), revision if revision > 0 or not compare.revision else _NEVER)

    def compare_origin(self, origin: Origin) -> Any:
        """Holds if that is still the base."""
        return self._compare(self._base, origin.changed)

    def follow(self, revision: int) -> Any:
        """The request for all changes from etcd's `revision` on, those of the base too."""
        create = self.pb.WatchCreateRequest(
            key=self._prefix, range_end=self._base + b"\0", start_revision=revision, fragment=True
        )
        return self.pb.WatchRequest(create_request=create)

    def ask_sign(self) -> Any:
        """The request for a sign of life of a watch."""
        return self.pb.WatchRequest(progress_request=self.pb.WatchProgressRequest())

    def entry(self, kv: Any, origin: Origin) -> StateEntry:
        """What a key and its value stand for."""
        created = kv.create_revision + origin.base if kv.create_revision else 0
        key = kv.key[len(self._prefix) :].decode("utf-8", "replace")
        return StateEntry(key, kv.value, created, kv.mod_revision + origin.base, kv.lease)

    def batches(self, events: Iterable[Any], origin: Origin) -> list[StateBatch]:
        """Changes of whole revisions, as a watch tells them. Raises: StateCompacted when the base was replaced."""
        by_revision: dict[int, list[StateEvent]] = {}
        for event in events:
            if event.kv.key == self._base:
                raise StateCompacted("the cluster's state in etcd was begun anew")
            if event.kv.key.startswith(self._prefix):
                entry = self.entry(event.kv, origin)
                is_delete = event.type == self.pb.Event.DELETE
                by_revision.setdefault(entry.revision, []).append(StateEvent(entry, is_delete))
        return [StateBatch(revision, tuple(told)) for revision, told in by_revision.items()]

    def _compare(self, key: bytes, revision: int) -> Any:
        kind = self.pb.Compare
        return kind(result=kind.EQUAL, target=kind.MOD, key=key, mod_revision=revision)


def _end(prefix: bytes) -> bytes:
    """The first key behind all that begin so. UTF-8 has no byte 0xff, so the last one can be raised."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
