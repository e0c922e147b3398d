"""What holds of every catalog: C1 to C15 of docs/invariants.md."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ollamamax.core.catalog import records

if TYPE_CHECKING:
    from ollamamax.core.catalog.catalog import Catalog


def check(catalog: "Catalog") -> None:
    """Raises: AssertionError, with the number."""
    _check_members(catalog)
    _check_named(catalog)
    _check_settings(catalog)
    _check_home(catalog)
    _check_deleted(catalog)
    tokens, entries = catalog.tokens.values(), catalog.stored.values()
    assert all(token.uses_left >= 0 for token in tokens), "C8: no token is used more often than it may"
    assert all(0 < entry.created <= entry.revision <= catalog.revision for entry in entries), "C10: no future"


def _check_members(catalog: "Catalog") -> None:
    nodes = list(catalog.nodes.values())
    keys = {node.key_hash for node in nodes}
    if catalog.meta is None:
        own = [key for key in catalog.stored if records.split(key) is not None]
        assert not own, "C1: before a cluster is founded there is nothing"
    else:
        hosts = set(catalog.home.hosts)
        assert set() < hosts <= catalog.nodes.keys(), "C2: those who hold the state are members"
    assert _distinct(node.name for node in nodes), "C3: names are unique"
    sequences = [node.sequence for node in nodes]
    assert _distinct(sequences), "C4: sequence numbers are unique"
    assert all(1 <= number < catalog.next_sequence for number in sequences), "C4: and given out in order"
    assert len(keys) == len(nodes), "C5: each member has a key of its own"
    assert catalog.nodes.keys().isdisjoint(catalog.revoked), "C6: nobody is a member and removed"
    assert keys.isdisjoint(gone.key_hash for gone in catalog.revoked.values()), "C6: nor is a key"
    assert catalog.instances.keys() <= catalog.nodes.keys(), "C7: only members run"
    assert sequences == sorted(sequences), "C9: nodes stand in the order of joining"


def _check_named(catalog: "Catalog") -> None:
    named = {pin for placement in catalog.placements.values() for pin in placement.pins}
    named.update(node_id for assignment in catalog.assignments.values() for node_id in assignment.nodes)
    named.update(catalog.drains, catalog.settings.node_values, {catalog.planner} - {""})
    assert named <= catalog.nodes.keys(), "C11: only members are placed on, emptied, set up, or plan"
    for wish in catalog.placements.values():
        assert len(wish.pins) <= wish.replicas, "C12: there is a replica for each pin"
    for decided in catalog.assignments.values():
        assert all(replicas > 0 for replicas in decided.nodes.values()), "C12: who is chosen runs a replica"


def _check_settings(catalog: "Catalog") -> None:
    history, head = catalog.history, catalog.settings
    versions = list(range(max(0, head.version - records.SETTINGS_KEPT) + 1, head.version + 1))
    assert list(history) == versions, "C13: the newest versions of the settings are kept, without gaps"
    assert not history or history[head.version].values == head.values, "C13: up to the one that is in force"


def _check_deleted(catalog: "Catalog") -> None:
    assert len(catalog.deleted) <= records.DELETIONS_KEPT, "C15: so many deletions are remembered"
    for key, gone in catalog.deleted.items():
        assert 1 <= len(gone.digests) <= records.DIGESTS_KEPT, "C15: each of so many manifests"
        stands = catalog.models.get(key)
        assert stands is None or stands.digest not in gone.digests, "C15: what a name stands for is not deleted"


def _check_home(catalog: "Catalog") -> None:
    home = catalog.home
    assert (home.phase == "moving") == (home.target is not None) == (home.mover != ""), "C14: a move has an aim"
    if home.target is not None:
        assert home.target.generation == home.generation + 1, "C14: and a generation of its own"
    assert home.kind != "sqlite" or len(home.hosts) <= 1, "C14: one node alone has a state in SQLite"


def _distinct(values: Iterable[object]) -> bool:
    every = list(values)
    return len(set(every)) == len(every)
