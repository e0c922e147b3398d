"""What people are told of a change of the catalog."""

from msgspec.structs import replace

from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.records import (
    SETTINGS_KEY,
    assignment_key,
    drain_key,
    encode,
    model_key,
    node_key,
    placement_key,
    revoked_key,
)
from ollamamax.core.types import (
    Assignment,
    ClusterSettings,
    Drain,
    ModelEntry,
    NodeRecord,
    Placement,
    RevokedNode,
    StateEntry,
    StateRange,
)
from ollamamax.services.catalog_events import changes

A, B = "a" * 16, "b" * 16
NODE = NodeRecord(
    node_id=A,
    name="attic",
    addresses=("10.0.0.1:11435",),
    sequence=1,
    joined_ns=1,
    key_hash="c" * 64,
    version="0.1.0",
)
GONE = RevokedNode(node_id=B, name="lost", key_hash="d" * 64, removed_ns=1)
MODEL = ModelEntry(name="tiny:latest", digest="e" * 64, size_bytes=1, changed_ns=1)


def catalog(
    *records: NodeRecord | RevokedNode | ModelEntry | ClusterSettings | Placement | Assignment | Drain,
) -> Catalog:
    entries = []
    for number, record in enumerate(records, 1):
        match record:
            case NodeRecord():
                key = node_key(record.node_id)
            case RevokedNode():
                key = revoked_key(record.node_id)
            case ModelEntry():
                key = model_key(record.name)
            case ClusterSettings():
                key = SETTINGS_KEY
            case Placement():
                key = placement_key(record.name)
            case Assignment():
                key = assignment_key(record.name)
            case Drain():
                key = drain_key(record.node_id)
        entries.append(StateEntry(key, encode(record), number, number))
    return Catalog.from_range(StateRange(len(entries), tuple(sorted(entries, key=lambda entry: entry.key))))


def told(old: Catalog, new: Catalog) -> list[tuple[str, str]]:
    events = list(changes(old, new, 7))
    assert all(event.at_ns == 7 for event in events)
    return [(event.kind, event.text) for event in events]


def test_who_comes_and_who_goes() -> None:
    empty = catalog()
    assert told(empty, catalog(NODE)) == [("joined", "attic joined from 10.0.0.1:11435")]
    assert told(empty, catalog(replace(NODE, addresses=()))) == [("joined", "attic joined")]
    assert told(catalog(NODE), catalog(GONE)) == [("removed", "lost was removed: its certificate is refused")]


def test_what_changes_of_a_node() -> None:
    old = catalog(NODE)
    for changed, expected in (
        (replace(NODE, name="cellar"), ("renamed", "attic is called cellar now")),
        (replace(NODE, cordoned=True), ("cordoned", "attic was cordoned")),
        (replace(NODE, labels={"b": "2", "a": "1"}), ("labelled", "labels of attic: a=1, b=2")),
        (replace(NODE, addresses=("h:1", "h:2")), ("moved", "attic is found at h:1, h:2")),
        (replace(NODE, version="0.2.0"), ("version", "attic runs version 0.2.0 now, and ran 0.1.0")),
    ):
        assert told(old, catalog(changed)) == [expected]
    assert told(catalog(replace(NODE, cordoned=True)), old) == [("uncordoned", "attic was uncordoned")]
    assert told(catalog(replace(NODE, labels={"a": "1"})), old) == [("labelled", "labels of attic: none")]


def test_models() -> None:
    assert told(catalog(), catalog(MODEL)) == [("model_added", "model tiny:latest is known")]
    assert told(catalog(MODEL), catalog()) == [("model_removed", "model tiny:latest was deleted")]


def test_nothing() -> None:
    assert told(catalog(NODE, MODEL), catalog(NODE, MODEL)) == []


def test_what_the_cluster_sets() -> None:
    first = ClusterSettings(version=1, values={"log.level": "debug"}, change="log.level: unset -> debug")
    second = ClusterSettings(version=2, change="log.level: debug -> unset")
    assert told(catalog(), catalog(first)) == [("settings", "settings, version 1: log.level: unset -> debug")]
    assert told(catalog(first), catalog(second)) == [("settings", "settings, version 2: log.level: debug -> unset")]
    assert told(catalog(second), catalog(second)) == []


def test_placements_and_drains() -> None:
    drain = Drain(node_id=A, since_ns=1)
    assert told(catalog(NODE), catalog(NODE, drain)) == [("drained", "attic is being emptied")]
    assert told(catalog(NODE, drain), catalog(NODE)) == [("undrained", "attic is not emptied any more")]
    removed = told(catalog(NODE, drain), catalog(GONE))
    assert removed == [("removed", "lost was removed: its certificate is refused")]
    wish = Placement(name="tiny:latest", replicas=2, changed_ns=1)
    assert told(catalog(NODE), catalog(NODE, wish)) == [("placed", "model tiny:latest is to have 2 replicas")]
    assert told(catalog(NODE, wish), catalog(NODE)) == [("unplaced", "model tiny:latest is not placed any more")]
    decided = Assignment(name="tiny:latest", nodes={A: 1}, decided_ns=1, missing=1)
    new = catalog(NODE, wish, decided)
    assert told(catalog(NODE, wish), new) == [("assigned", "model tiny:latest runs on attic, 1 without a place")]
    assert told(new, catalog(NODE, wish, replace(decided, decided_ns=9))) == []
    nowhere = catalog(NODE, wish, replace(decided, nodes={}, missing=2))
    assert told(new, nowhere) == [("assigned", "model tiny:latest runs nowhere, 2 without a place")]
