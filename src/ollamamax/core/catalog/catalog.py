"""What the cluster agreed on as of one revision: an immutable view of the state's records.

Invariants C1 to C10: docs/invariants.md. A catalog that grew by `after()` equals one read whole at that revision.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final, Self

from msgspec import Struct, structs

from ollamamax.core.catalog import grammar, records
from ollamamax.core.catalog.records import Instance, Kind, Roster
from ollamamax.core.errors import NodeNotFound
from ollamamax.core.types import (
    ClusterMeta,
    ModelEntry,
    NodeRecord,
    RevokedNode,
    StateBatch,
    StateEntry,
    StateEvent,
    StateRange,
    TokenRecord,
)

_NONE: Final[Mapping[str, Any]] = MappingProxyType({})
_VIEWS: Final = {
    Kind.NODE: "nodes",
    Kind.REVOKED: "revoked",
    Kind.TOKEN: "tokens",
    Kind.MODEL: "models",
    Kind.INSTANCE: "instances",
}
_CLOSE_NAMES: Final = 3


class Catalog(Struct, frozen=True, kw_only=True):
    """Records by id; none can be changed. meta: None before a cluster is founded.  next_sequence: of the next node.

    nodes: in the order of joining.  models: by ModelName.key.  instances: node id -> what its process drew.
    stored: every entry of the state by key, foreign ones too.
    """

    revision: int = 0
    meta: ClusterMeta | None = None
    next_sequence: int = 1
    nodes: Mapping[str, NodeRecord] = _NONE
    revoked: Mapping[str, RevokedNode] = _NONE
    tokens: Mapping[str, TokenRecord] = _NONE
    models: Mapping[str, ModelEntry] = _NONE
    instances: Mapping[str, str] = _NONE
    stored: Mapping[str, StateEntry] = _NONE

    @classmethod
    def empty(cls) -> Self:
        """Of a state in which nothing was ever written."""
        return cls()

    @classmethod
    def from_range(cls, whole: StateRange) -> Self:
        """Of all entries of a state. Raises: StateCorrupt, StateTooNew."""
        return cls()._with(whole.revision, [StateEvent(entry) for entry in whole.entries])

    def after(self, batch: StateBatch) -> Self:
        """The catalog after a batch of a watch of all keys; a batch that it has seen already changes nothing.

        Decodes only what changed. Raises: StateCorrupt, StateTooNew.
        """
        if batch.revision <= self.revision:
            return self
        return self._with(batch.revision, batch.events)

    def _with(self, revision: int, events: Iterable[StateEvent]) -> Self:
        changed: dict[str, Any] = {}
        for event in events:
            key = event.entry.key
            _put(_writable(self, changed, "stored"), key, None if event.is_delete else event.entry)
            found = records.split(key)
            if found is None:
                continue
            kind, own_id = found
            record = None if event.is_delete else records.decode(key, event.entry.value)
            if kind is Kind.META:
                changed["meta"] = record
            elif kind is Kind.ROSTER:
                changed["next_sequence"] = record.next_sequence if isinstance(record, Roster) else 1
            else:
                value = record.instance if isinstance(record, Instance) else record
                _put(_writable(self, changed, _VIEWS[kind]), own_id, value)
        if "nodes" in changed:
            changed["nodes"] = dict(sorted(changed["nodes"].items(), key=lambda item: (item[1].sequence, item[0])))
        frozen = {name: MappingProxyType(it) if isinstance(it, dict) else it for name, it in changed.items()}
        return structs.replace(self, revision=revision, **frozen)

    @property
    def holder(self) -> NodeRecord | None:
        """The node that holds the state; None before a cluster is founded."""
        return self.nodes.get(self.meta.holder_id) if self.meta is not None else None

    def node(self, name_or_id: str) -> NodeRecord:
        """A member by its name or its id, in any case. Raises: NodeNotFound."""
        wanted = name_or_id.lower()
        found = self.nodes.get(wanted)
        if found is not None:
            return found
        for node in self.nodes.values():
            if node.name == wanted:
                return node
        names = [node.name for node in self.nodes.values()]
        close = get_close_matches(wanted[: grammar.MAX_NAME_CHARS], names, _CLOSE_NAMES)
        hint = f"did you mean {' or '.join(close)}?" if close else "`ollamamax nodes` lists those that there are"
        raise NodeNotFound(f"no node {grammar.shown(name_or_id)} is in the cluster: {hint}")

    def revision_of(self, key: str) -> int:
        """When a key was last changed; 0 = there is none. What a compare of a transaction takes."""
        entry = self.stored.get(key)
        return entry.revision if entry is not None else 0

    def entries(self) -> StateRange:
        """The whole state, for a snapshot: `Catalog.from_range` makes the same catalog of it."""
        return StateRange(self.revision, tuple(self.stored[key] for key in sorted(self.stored)))

    def check_invariants(self) -> None:
        """C1 to C10 of docs/invariants.md. Raises: AssertionError."""
        nodes = list(self.nodes.values())
        keys = {node.key_hash for node in nodes}
        if self.meta is None:
            own = [key for key in self.stored if records.split(key) is not None]
            assert not own, "C1: before a cluster is founded there is nothing"
        else:
            assert self.holder is not None, "C2: the holder is a member"
        assert _distinct(node.name for node in nodes), "C3: names are unique"
        sequences = [node.sequence for node in nodes]
        assert _distinct(sequences), "C4: sequence numbers are unique"
        assert all(1 <= number < self.next_sequence for number in sequences), "C4: and given out in order"
        assert len(keys) == len(nodes), "C5: each member has a key of its own"
        assert self.nodes.keys().isdisjoint(self.revoked), "C6: nobody is a member and removed"
        assert keys.isdisjoint(gone.key_hash for gone in self.revoked.values()), "C6: nor is a key"
        assert self.instances.keys() <= self.nodes.keys(), "C7: only members run"
        tokens = self.tokens.values()
        assert all(token.uses_left >= 0 for token in tokens), "C8: no token is used more often than it may"
        assert sequences == sorted(sequences), "C9: nodes stand in the order of joining"
        entries = self.stored.values()
        assert all(0 < entry.created <= entry.revision <= self.revision for entry in entries), "C10: no future"


def _distinct(values: Iterable[object]) -> bool:
    every = list(values)
    return len(set(every)) == len(every)


def _writable(catalog: Catalog, changed: dict[str, Any], name: str) -> dict[str, Any]:
    """The copy of a view that is being changed."""
    if name not in changed:
        changed[name] = dict(getattr(catalog, name))
    view: dict[str, Any] = changed[name]
    return view


def _put(view: dict[str, Any], key: str, value: object) -> None:
    if value is None:
        view.pop(key, None)
    else:
        view[key] = value
