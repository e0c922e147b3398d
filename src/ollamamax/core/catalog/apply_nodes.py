"""The members of the cluster: the first one, and what changes about those that are there."""

from typing import Final

from msgspec import structs

from ollamamax.core.catalog import grammar, records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import (
    FoundCluster,
    RemoveNode,
    RenameNode,
    SetAddresses,
    SetCordon,
    SetInstance,
    SetLabels,
)
from ollamamax.core.catalog.records import Instance, Roster
from ollamamax.core.catalog.transactions import changes, member, put, same_roster, txn
from ollamamax.core.errors import BadRequest, Conflict, NodeConflict
from ollamamax.core.types import Delete, NodeRecord, RevokedNode, StateHome, StateTxn

_MAX_LEVEL: Final = 1_000


def found(catalog: Catalog, command: FoundCluster) -> StateTxn:
    """Raises: BadRequest, Conflict if the state is another cluster's."""
    meta, node = command.meta, checked(structs.replace(command.node, sequence=1))
    grammar.cluster_id(meta.cluster_id)
    grammar.cluster_name(meta.name)
    if meta.holder_id != node.node_id:
        raise BadRequest(f"the founder {node.node_id} has to hold the state, not {grammar.shown(meta.holder_id)}")
    if catalog.meta is not None:
        if (catalog.meta.cluster_id, catalog.meta.holder_id) == (meta.cluster_id, meta.holder_id):
            return txn(catalog, (records.META_KEY,))
        raise Conflict(
            f"this state is that of cluster {catalog.meta.cluster_id} already: a second one can't be founded in it"
        )
    key = records.node_key(node.node_id)
    return txn(
        catalog,
        (records.META_KEY, records.ROSTER_KEY, key),
        put(records.META_KEY, meta),
        put(records.ROSTER_KEY, Roster(2)),
        put(key, node),
    )


def remove_node(catalog: Catalog, command: RemoveNode) -> StateTxn:
    """What names the node elsewhere is left: a removed id never comes back, and the catalog does not show it.

    Raises: NodeNotFound, Conflict if the state needs it.
    """
    if command.node_id in catalog.revoked:
        return txn(catalog, (records.revoked_key(command.node_id),))
    node = member(catalog, command.node_id)
    gone = RevokedNode(node_id=node.node_id, name=node.name, key_hash=node.key_hash, removed_ns=command.at_ns)
    key = records.node_key(node.node_id)
    return txn(
        catalog,
        (records.META_KEY, records.ROSTER_KEY, key),
        same_roster(catalog),
        Delete(key),
        put(records.revoked_key(node.node_id), gone),
        Delete(records.instance_key(node.node_id)),
        Delete(records.drain_key(node.node_id)),
        *changes(records.HOME_KEY, catalog.home, _home_without(catalog.home, node)),
    )


def _home_without(home: StateHome, node: NodeRecord) -> StateHome:
    """Raises: Conflict if that can't be."""
    if node.node_id not in home.hosts:
        return home
    if home.kind == "sqlite":
        raise Conflict(f"node {node.name} can't be removed: the cluster's state lives there")
    if home.kind == "etcd" or len(home.hosts) == 1:
        raise Conflict(
            f"node {node.name} can't be removed: it is one of those that hold the cluster's state; let another one "
            f"take its place first: `ollamamax cluster ha replace {node.name}`"
        )
    return structs.replace(home, hosts=tuple(host for host in home.hosts if host != node.node_id))


def rename(catalog: Catalog, command: RenameNode) -> StateTxn:
    """Raises: NodeNotFound, BadRequest, NodeConflict if the name is taken."""
    node = member(catalog, command.node_id)
    grammar.node_name(command.name)
    key = records.node_key(node.node_id)
    if node.name == command.name:
        return txn(catalog, (key,))
    if any(other.name == command.name for other in catalog.nodes.values()):
        raise NodeConflict(f"the name {command.name} is taken by another node: choose another one")
    return txn(
        catalog,
        (records.ROSTER_KEY, key),
        same_roster(catalog),
        put(key, structs.replace(node, name=command.name)),
    )


def change_node(catalog: Catalog, command: SetAddresses | SetLabels | SetCordon) -> StateTxn:
    """Raises: NodeNotFound, BadRequest."""
    node = member(catalog, command.node_id)
    match command:
        case SetAddresses():
            after = structs.replace(node, addresses=command.addresses, version=command.version, level=command.level)
        case SetLabels():
            kept = {key: value for key, value in node.labels.items() if key not in command.unset}
            after = structs.replace(node, labels={**kept, **command.set})
        case _:
            after = structs.replace(node, cordoned=command.cordoned)
    return changed(catalog, node, checked(after))


def changed(catalog: Catalog, before: NodeRecord, after: NodeRecord) -> StateTxn:
    """A member's record becomes another one, of the same name."""
    key = records.node_key(before.node_id)
    if before.level == after.level:
        return txn(catalog, (key,), *changes(key, before, after))
    return txn(catalog, (records.ROSTER_KEY, key), same_roster(catalog), put(key, after))


def set_instance(catalog: Catalog, command: SetInstance) -> StateTxn:
    """Raises: NodeNotFound, BadRequest, NodeConflict if another process runs as the node."""
    node = member(catalog, command.node_id)
    grammar.instance(command.instance)
    if command.lease_id < 1:
        raise BadRequest("an instance is told under a lease: grant one first")
    key = records.instance_key(node.node_id)
    running = catalog.instances.get(node.node_id)
    if running not in (None, command.instance, command.expected):
        raise NodeConflict(
            f"node {node.name} ({node.node_id}) runs as another process already: stop that one, or give this machine "
            "a data directory and an identity of its own"
        )
    is_told = running == command.instance and catalog.stored[key].lease_id == command.lease_id
    told = () if is_told else (put(key, Instance(command.instance), command.lease_id),)
    return txn(catalog, (records.node_key(node.node_id), key), *told)


def checked(node: NodeRecord) -> NodeRecord:
    """The record with its addresses in their one spelling. Raises: BadRequest."""
    grammar.node_id(node.node_id)
    grammar.node_name(node.name)
    grammar.sha256_hex(node.key_hash)
    grammar.version(node.version)
    if len(node.addresses) > grammar.MAX_ADDRESSES:
        raise BadRequest(f"a node has {grammar.MAX_ADDRESSES} addresses at most, not {len(node.addresses)}")
    if not 1 <= node.level <= _MAX_LEVEL:
        raise BadRequest(f"a node's level is 1 to {_MAX_LEVEL}, not {node.level}")
    grammar.labels(node.labels)
    addresses = dict.fromkeys(grammar.peer_address(address) for address in node.addresses)
    return structs.replace(node, addresses=tuple(addresses))
