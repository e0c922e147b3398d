"""The replicated state's data model: keys with revisions, transactions, events. Shaped as etcd's v3 API is.

One revision counts all changes of the store; every transaction that writes raises it by one.
"""

from msgspec import Struct


class StateEntry(Struct, frozen=True):
    """A key and its value. created, revision: when the key was made, and last changed.  lease_id: 0 = none."""

    key: str
    value: bytes
    created: int
    revision: int
    lease_id: int = 0


class StateRange(Struct, frozen=True):
    """The entries below a prefix in key order, as of one revision of the store."""

    revision: int
    entries: tuple[StateEntry, ...]


class Compare(Struct, frozen=True):
    """Holds if the key was last changed at `revision`; 0 = the key must not exist."""

    key: str
    revision: int


class Put(Struct, frozen=True, tag=True):
    """Write a key. lease_id: it goes when that lease ends, 0 = it stays."""

    key: str
    value: bytes
    lease_id: int = 0


class Delete(Struct, frozen=True, tag=True):
    """Remove a key; nothing happens if there is none."""

    key: str


class StateTxn(Struct, frozen=True):
    """All writes if all compares hold, else none. No key is written twice."""

    compares: tuple[Compare, ...]
    writes: tuple[Put | Delete, ...]


class TxnResult(Struct, frozen=True):
    """ok: whether the compares held.  revision: of the store, after the writes."""

    ok: bool
    revision: int


class StateEvent(Struct, frozen=True):
    """One change. Of a deletion the value is empty and `entry.revision` is that of the deletion."""

    entry: StateEntry
    is_delete: bool = False


class StateBatch(Struct, frozen=True):
    """All changes of one revision that a watch asked for, whole. No events: nothing changed up to `revision`."""

    revision: int
    events: tuple[StateEvent, ...]
