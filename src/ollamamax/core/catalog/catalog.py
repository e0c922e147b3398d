"""What the cluster agreed on as of one revision: an immutable view of the state's records.

Invariants C1 to C15: docs/invariants.md. A catalog that grew by `after()` equals one read whole at that revision.

Where a record names a node that is no member (any more), the catalog does not show that part: so a node can be removed
by one small transaction, whatever names it. Its id never comes back.
"""

from collections.abc import Iterable, Mapping, Set
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar

from msgspec import Struct, structs

from ollamamax.core.catalog import grammar, invariants, records
from ollamamax.core.catalog.records import Instance, Kind, Planner, Record, Roster
from ollamamax.core.errors import NodeNotFound
from ollamamax.core.types import (
    Assignment,
    ClusterMeta,
    ClusterSettings,
    DeletedModel,
    Drain,
    ModelEntry,
    NodeRecord,
    Placement,
    RevokedNode,
    StateBatch,
    StateEntry,
    StateEvent,
    StateHome,
    StateRange,
    TokenRecord,
)

T = TypeVar("T")

_NONE: Final[Mapping[Any, Any]] = MappingProxyType({})
_VIEWS: Final = {
    Kind.NODE: "nodes",
    Kind.REVOKED: "revoked",
    Kind.TOKEN: "tokens",
    Kind.MODEL: "models",
    Kind.INSTANCE: "instances",
    Kind.PLACEMENT: "placements",
    Kind.ASSIGNMENT: "assignments",
    Kind.DRAIN: "drains",
    Kind.DELETED: "deleted",
}
_SINGLES: Final[dict[Kind, tuple[str, Any]]] = {
    Kind.META: ("meta", None),
    Kind.ROSTER: ("next_sequence", 1),
    Kind.SETTINGS: ("settings", ClusterSettings()),
    Kind.PLANNER: ("planner", ""),
    Kind.HOME: ("told_home", None),
}
"""Each with what stands for a record that is not there."""
_NAMING: Final = (Kind.PLACEMENT, Kind.ASSIGNMENT, Kind.DRAIN, Kind.SETTINGS, Kind.PLANNER)
"""Records that name members, and are shown without those who are none."""
_CLOSE_NAMES: Final = 3


class Catalog(Struct, frozen=True, kw_only=True):
    """Records by id; none can be changed. meta: None before a cluster is founded.  next_sequence: of the next node.

    nodes: in the order of joining.  models, placements, assignments, deleted: by ModelName.key.  instances: node id ->
    what its process drew.  drains: by node id.  settings: the newest version.  history: by version, oldest first, the
    newest too.  planner: node id of who decides where models run, "" = nobody.  told_home: as stored; read `home`.
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
    placements: Mapping[str, Placement] = _NONE
    assignments: Mapping[str, Assignment] = _NONE
    drains: Mapping[str, Drain] = _NONE
    deleted: Mapping[str, DeletedModel] = _NONE
    settings: ClusterSettings = ClusterSettings()
    history: Mapping[int, ClusterSettings] = _NONE
    planner: str = ""
    told_home: StateHome | None = None
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
        touched: dict[str, tuple[Kind, str]] = {}
        for event in events:
            key = event.entry.key
            _put(_writable(self, changed, "stored"), key, None if event.is_delete else event.entry)
            found = records.split(key)
            if found is not None:
                touched[key] = found
        # Members first: what others name is shown by who they are.
        for key, found in touched.items():
            if found[0] is Kind.NODE:
                self._show(changed, key, found, self.nodes.keys())
        members = changed.get("nodes", self.nodes).keys()
        if members != self.nodes.keys():
            touched |= {
                key: found for key in changed["stored"] if (found := records.split(key)) and found[0] in _NAMING
            }
        for key, found in touched.items():
            if found[0] is not Kind.NODE:
                self._show(changed, key, found, members)
        if "nodes" in changed:
            changed["nodes"] = dict(sorted(changed["nodes"].items(), key=lambda item: (item[1].sequence, item[0])))
        if "history" in changed:
            changed["history"] = dict(sorted(changed["history"].items()))
        frozen = {name: MappingProxyType(it) if isinstance(it, dict) else it for name, it in changed.items()}
        return structs.replace(self, revision=revision, **frozen)

    def _show(self, changed: dict[str, Any], key: str, found: tuple[Kind, str], members: Set[str]) -> None:
        """Put what is stored under a key into its view. Raises: StateCorrupt, StateTooNew."""
        kind, own_id = found
        entry = changed["stored"].get(key)
        record = records.decode(key, entry.value) if entry is not None else None
        if kind is Kind.SETTINGS_VERSION:  # what was, was
            _put(_writable(self, changed, "history"), int(own_id), record)
            return
        value = _seen(record, members)
        if kind in _SINGLES:
            name, missing = _SINGLES[kind]
            changed[name] = missing if value is None else value
        else:
            _put(_writable(self, changed, _VIEWS[kind]), own_id, value)

    @property
    def home(self) -> StateHome:
        """Where the state lives; without hosts before a cluster is founded."""
        if self.told_home is not None:
            return self.told_home
        return StateHome(hosts=(self.meta.holder_id,)) if self.meta is not None else StateHome()

    @property
    def hosts(self) -> tuple[NodeRecord, ...]:
        """The nodes through which the others reach the state."""
        return tuple(self.nodes[node_id] for node_id in self.home.hosts if node_id in self.nodes)

    @property
    def holder(self) -> NodeRecord | None:
        """The first of the hosts, the only one while one node alone holds the state; None if there is none."""
        return next(iter(self.hosts), None)

    @property
    def min_level(self) -> int:
        """The level of the catalog that every member's program knows."""
        return min((node.level for node in self.nodes.values()), default=records.LEVEL)

    def takes_work(self, node_id: str) -> bool:
        """Whether a node is a member and may get new work: neither cordoned nor being emptied."""
        node = self.nodes.get(node_id)
        return node is not None and not node.cordoned and node_id not in self.drains

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
        """C1 to C15 of docs/invariants.md. Raises: AssertionError."""
        invariants.check(self)


def _seen(record: Record | None, members: Set[str]) -> object:
    """What the catalog shows of a record; None if nothing."""
    match record:
        case Roster():
            return record.next_sequence
        case Instance():
            return record.instance
        case Planner(node_id):
            return node_id if node_id in members else None
        case Drain():
            return record if record.node_id in members else None
        case Placement() if not members >= set(record.pins):
            return structs.replace(record, pins=tuple(pin for pin in record.pins if pin in members))
        case Assignment() if not members >= record.nodes.keys():
            return structs.replace(record, nodes=_only(record.nodes, members))
        case ClusterSettings() if not members >= record.node_values.keys():
            return structs.replace(record, node_values=_only(record.node_values, members))
        case _:
            return record


def _only(values: Mapping[str, T], members: Set[str]) -> dict[str, T]:
    return {node_id: value for node_id, value in values.items() if node_id in members}


def _writable(catalog: Catalog, changed: dict[str, Any], name: str) -> dict[str, Any]:
    """The copy of a view that is being changed."""
    if name not in changed:
        changed[name] = dict(getattr(catalog, name))
    view: dict[str, Any] = changed[name]
    return view


def _put(view: dict[Any, Any], key: str | int, value: object) -> None:
    if value is None:
        view.pop(key, None)
    else:
        view[key] = value
