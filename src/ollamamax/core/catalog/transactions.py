"""Parts of transactions that all commands share."""

from collections.abc import Iterable

from ollamamax.core.catalog import grammar, levels, records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.records import Record, Roster
from ollamamax.core.errors import Conflict, NodeNotFound
from ollamamax.core.types import Compare, Delete, NodeRecord, Put, StateTxn


def txn(catalog: Catalog, read: Iterable[str], *writes: Put | Delete) -> StateTxn:
    """These writes, if those keys are as the catalog has them."""
    return StateTxn(tuple(Compare(key, catalog.revision_of(key)) for key in dict.fromkeys(read)), writes)


def guarded(catalog: Catalog, inner: StateTxn, read: Iterable[str]) -> StateTxn:
    """The same transaction, if those keys are as the catalog has them, too."""
    keys = (*(compare.key for compare in inner.compares), *read)
    return txn(catalog, keys, *inner.writes)


def put(key: str, record: Record, lease_id: int = 0) -> Put:
    """Write a record. lease_id: as of Put."""
    return Put(key, records.encode(record), lease_id)


def changes(key: str, before: Record | None, after: Record) -> tuple[Put, ...]:
    """Write it if it is another one."""
    return () if after == before else (put(key, after),)


def same_roster(catalog: Catalog) -> Put:
    """Write the roster as it is, so that who counts on the members, their names and levels looks again."""
    return put(records.ROSTER_KEY, Roster(catalog.next_sequence))


def member(catalog: Catalog, node_id: str) -> NodeRecord:
    """A member by its id. Raises: NodeNotFound."""
    node = catalog.nodes.get(node_id)
    if node is None:
        raise NodeNotFound(
            f"no node with the id {grammar.shown(node_id)} is in the cluster: `ollamamax nodes` lists those that are"
        )
    return node


def name_of(catalog: Catalog, node_id: str) -> str:
    """What people call a node; its id if it is no member (any more)."""
    node = catalog.nodes.get(node_id)
    return node.name if node is not None else node_id


def require_level(nodes: Iterable[NodeRecord], level: int) -> None:
    """Raises: Conflict, naming those whose program is too old. Who asks compares the roster."""
    if old := levels.older(nodes, level):
        raise Conflict(f"that needs a newer OllamaMax on every node it concerns: upgrade {old} first")
