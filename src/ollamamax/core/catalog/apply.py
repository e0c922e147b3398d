"""From a command to the transaction that carries it out. Pure: the same catalog and command, the same transaction.

A transaction compares every key whose change would make it wrong: if its compares hold, it does what one computed
from the newest catalog would do. In particular

- who takes or frees a name (founding, joining, renaming, removing) compares and writes `cluster/roster`, where the
  next sequence number is too;
- who uses a token compares and writes the token: its last use is used once;
- who changes a node compares its record: nobody brings a removed node back, nor starts as one;
- DropToken and DropModel compare nothing: gone is gone. SweepTokens leaves tokens alone that its catalog lacks.

A command that finds its work done is a transaction with compares and no writes: after a lost answer it may be sent
again, and where the compares are tried it is known to be done. Only DropToken and DropModel then say NotFound, which
is as good.

A joining is judged token first: nobody without one learns who is a member. A member that joins again with the key
that it has keeps its name, number and labels and uses nothing up; so a joining whose answer was lost can be repeated
with a used-up token.
"""

import hmac
from collections.abc import Iterable
from typing import Final

from msgspec import structs

from ollamamax.core.catalog import grammar, records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import (
    AddNode,
    AddToken,
    Command,
    DropToken,
    FoundCluster,
    RemoveNode,
    RenameNode,
    SetAddresses,
    SetCordon,
    SetInstance,
    SetLabels,
    SetModel,
    SweepTokens,
)
from ollamamax.core.catalog.records import Instance, Record, Roster
from ollamamax.core.errors import BadRequest, Conflict, NodeConflict, NodeNotFound, NotFound, TokenRefused
from ollamamax.core.types import Compare, Delete, NodeRecord, Put, RevokedNode, StateTxn, TokenRecord

MAX_SWEPT: Final = 100
"""Tokens forgotten by one command: etcd takes 128 operations per transaction."""


def apply(catalog: Catalog, command: Command) -> StateTxn:
    """The transaction; without writes if there is nothing to do.

    Raises: BadRequest (a part outside its grammar), TokenRefused, NodeNotFound, NotFound, NodeConflict,
    Conflict (no cluster yet, or another one; the holder would be removed; a model stands for something else).
    """
    if isinstance(command, FoundCluster):
        return _found(catalog, command)
    if catalog.meta is None:
        raise Conflict("there is no cluster here yet: found one or join one first")
    match command:
        case AddNode():
            return _add_node(catalog, command)
        case RemoveNode():
            return _remove_node(catalog, command)
        case RenameNode():
            return _rename(catalog, command)
        case SetAddresses() | SetLabels() | SetCordon():
            return _change_node(catalog, command)
        case SetInstance():
            return _set_instance(catalog, command)
        case AddToken(record):
            return _add_token(catalog, record)
        case DropToken(token_id):
            return _drop_token(catalog, token_id)
        case SweepTokens(at_ns):
            return _sweep_tokens(catalog, at_ns)
        case SetModel():
            return _set_model(catalog, command)
        case _:
            return _drop_model(catalog, command.name)


def _txn(catalog: Catalog, read: Iterable[str], *writes: Put | Delete) -> StateTxn:
    return StateTxn(tuple(Compare(key, catalog.revision_of(key)) for key in read), writes)


def _put(key: str, record: Record, lease_id: int = 0) -> Put:
    return Put(key, records.encode(record), lease_id)


def _changes(key: str, before: Record, after: Record) -> tuple[Put, ...]:
    return () if after == before else (_put(key, after),)


# --- nodes ---------------------------------------------------------------------------------------------------------


def _found(catalog: Catalog, command: FoundCluster) -> StateTxn:
    meta, node = command.meta, _checked(structs.replace(command.node, sequence=1))
    grammar.cluster_id(meta.cluster_id)
    grammar.cluster_name(meta.name)
    if meta.holder_id != node.node_id:
        raise BadRequest(f"the founder {node.node_id} has to hold the state, not {grammar.shown(meta.holder_id)}")
    if catalog.meta is not None:
        if (catalog.meta.cluster_id, catalog.meta.holder_id) == (meta.cluster_id, meta.holder_id):
            return _txn(catalog, (records.META_KEY,))
        raise Conflict(
            f"this state is that of cluster {catalog.meta.cluster_id} already: a second one can't be founded in it"
        )
    key = records.node_key(node.node_id)
    return _txn(
        catalog,
        (records.META_KEY, records.ROSTER_KEY, key),
        _put(records.META_KEY, meta),
        _put(records.ROSTER_KEY, Roster(2)),
        _put(key, node),
    )


def _add_node(catalog: Catalog, command: AddNode) -> StateTxn:
    node = _checked(
        NodeRecord(
            node_id=command.node_id,
            name=command.name,
            addresses=command.addresses,
            sequence=catalog.next_sequence,
            joined_ns=command.at_ns,
            key_hash=command.key_hash,
            version=command.version,
        )
    )
    token = _accepted_token(catalog, command)
    key, token_key = records.node_key(node.node_id), records.token_key(token.token_id)
    _check_identity(catalog, node)
    member = catalog.nodes.get(node.node_id)
    if member is not None:
        again = structs.replace(member, addresses=node.addresses, version=node.version)
        return _txn(catalog, (key, token_key), *_changes(key, member, again))
    if token.uses_left < 1:
        raise TokenRefused("the join token is used up: make a new one with `ollamamax token create`")
    node = structs.replace(node, name=_free_name(catalog, node.name))
    return _txn(
        catalog,
        (records.ROSTER_KEY, key, records.revoked_key(node.node_id), token_key),
        _put(records.ROSTER_KEY, Roster(catalog.next_sequence + 1)),
        _put(key, node),
        _put(token_key, structs.replace(token, uses_left=token.uses_left - 1)),
    )


def _accepted_token(catalog: Catalog, command: AddNode) -> TokenRecord:
    """The token of a joining. Raises: BadRequest; TokenRefused, which does not tell unknown from wrong secret."""
    grammar.token_id(command.token_id)
    grammar.sha256_hex(command.secret_hash)
    token = catalog.tokens.get(command.token_id)
    # An unknown token costs the same time as a wrong secret.
    expected = token.secret_hash if token is not None else "0" * 64
    is_known = hmac.compare_digest(expected.encode(), command.secret_hash.encode())
    if token is None or not is_known:
        raise TokenRefused("the join token is not known to this cluster: make a new one with `ollamamax token create`")
    if command.at_ns >= token.expires_ns:
        raise TokenRefused(
            "the join token has expired: make a new one with `ollamamax token create` "
            "(if it is new, a node's clock is wrong)"
        )
    return token


def _check_identity(catalog: Catalog, node: NodeRecord) -> None:
    """Raises: NodeConflict if the id or the key is another node's, or a removed one's."""
    for gone in catalog.revoked.values():
        if node.node_id == gone.node_id or node.key_hash == gone.key_hash:
            raise NodeConflict(
                f"node {gone.node_id} ({gone.name}) was removed from the cluster: let the machine join with a new "
                "identity"
            )
    for member in catalog.nodes.values():
        if (member.node_id == node.node_id) != (member.key_hash == node.key_hash):
            thing = "id" if member.node_id == node.node_id else "key"
            raise NodeConflict(
                f"the {thing} of node {node.node_id} is that of the member {member.name} ({member.node_id}): let the "
                "machine join with a new identity, or remove that member first"
            )


def _free_name(catalog: Catalog, name: str) -> str:
    """The name, or the first of name-2, name-3, ... that is free, cut to the length of names."""
    taken = {node.name for node in catalog.nodes.values()}
    free, number = name, 1
    while free in taken:
        number += 1
        suffix = f"-{number}"
        free = name[: grammar.MAX_NAME_CHARS - len(suffix)].rstrip("-") + suffix
    return free


def _remove_node(catalog: Catalog, command: RemoveNode) -> StateTxn:
    if command.node_id in catalog.revoked:
        return _txn(catalog, (records.revoked_key(command.node_id),))
    node = _member(catalog, command.node_id)
    if node is catalog.holder:
        raise Conflict(f"node {node.name} can't be removed: the cluster's state lives there")
    gone = RevokedNode(node_id=node.node_id, name=node.name, key_hash=node.key_hash, removed_ns=command.at_ns)
    key = records.node_key(node.node_id)
    return _txn(
        catalog,
        (records.META_KEY, records.ROSTER_KEY, key),
        _put(records.ROSTER_KEY, Roster(catalog.next_sequence)),
        Delete(key),
        _put(records.revoked_key(node.node_id), gone),
        Delete(records.instance_key(node.node_id)),
    )


def _rename(catalog: Catalog, command: RenameNode) -> StateTxn:
    node = _member(catalog, command.node_id)
    grammar.node_name(command.name)
    key = records.node_key(node.node_id)
    if node.name == command.name:
        return _txn(catalog, (key,))
    if any(other.name == command.name for other in catalog.nodes.values()):
        raise NodeConflict(f"the name {command.name} is taken by another node: choose another one")
    return _txn(
        catalog,
        (records.ROSTER_KEY, key),
        _put(records.ROSTER_KEY, Roster(catalog.next_sequence)),
        _put(key, structs.replace(node, name=command.name)),
    )


def _change_node(catalog: Catalog, command: SetAddresses | SetLabels | SetCordon) -> StateTxn:
    node = _member(catalog, command.node_id)
    match command:
        case SetAddresses():
            changed = structs.replace(node, addresses=command.addresses, version=command.version)
        case SetLabels():
            kept = {key: value for key, value in node.labels.items() if key not in command.unset}
            changed = structs.replace(node, labels={**kept, **command.set})
        case _:
            changed = structs.replace(node, cordoned=command.cordoned)
    changed = _checked(changed)
    key = records.node_key(node.node_id)
    return _txn(catalog, (key,), *_changes(key, node, changed))


def _set_instance(catalog: Catalog, command: SetInstance) -> StateTxn:
    node = _member(catalog, command.node_id)
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
    told = () if is_told else (_put(key, Instance(command.instance), command.lease_id),)
    return _txn(catalog, (records.node_key(node.node_id), key), *told)


def _member(catalog: Catalog, node_id: str) -> NodeRecord:
    """Raises: NodeNotFound."""
    node = catalog.nodes.get(node_id)
    if node is None:
        raise NodeNotFound(
            f"no node with the id {grammar.shown(node_id)} is in the cluster: `ollamamax nodes` lists those that are"
        )
    return node


def _checked(node: NodeRecord) -> NodeRecord:
    """The record with its addresses in their one spelling. Raises: BadRequest."""
    grammar.node_id(node.node_id)
    grammar.node_name(node.name)
    grammar.sha256_hex(node.key_hash)
    grammar.version(node.version)
    if len(node.addresses) > grammar.MAX_ADDRESSES:
        raise BadRequest(f"a node has {grammar.MAX_ADDRESSES} addresses at most, not {len(node.addresses)}")
    if len(node.labels) > grammar.MAX_LABELS:
        raise BadRequest(f"a node has {grammar.MAX_LABELS} labels at most, not {len(node.labels)}")
    for key, value in node.labels.items():
        grammar.label_key(key)
        grammar.label_value(value)
    addresses = dict.fromkeys(grammar.peer_address(address) for address in node.addresses)
    return structs.replace(node, addresses=tuple(addresses))


# --- join tokens ---------------------------------------------------------------------------------------------------


def _add_token(catalog: Catalog, record: TokenRecord) -> StateTxn:
    key = records.token_key(grammar.token_id(record.token_id))
    grammar.sha256_hex(record.secret_hash)
    if record.uses_left < 1:
        raise BadRequest(f"a join token has one use at least, not {record.uses_left}")
    if record.expires_ns <= record.created_ns:
        raise BadRequest("a join token expires after it was made: give it a time to live above 0")
    standing = catalog.tokens.get(record.token_id)
    if standing is not None and standing.secret_hash != record.secret_hash:
        raise Conflict(f"a join token {record.token_id} exists already: draw another id")
    # One of the same secret may have been used since it was added: it stays as it is.
    added = (_put(key, record),) if standing is None else ()
    return _txn(catalog, (key,), *added)


def _drop_token(catalog: Catalog, token_id: str) -> StateTxn:
    if token_id not in catalog.tokens:
        raise NotFound(f"no join token {grammar.shown(token_id)} is known: it expired, or was taken back")
    return StateTxn((), (Delete(records.token_key(token_id)),))


def _sweep_tokens(catalog: Catalog, at_ns: int) -> StateTxn:
    expired = (token_id for token_id, token in sorted(catalog.tokens.items()) if token.expires_ns <= at_ns)
    keys = [records.token_key(token_id) for token_id in expired][:MAX_SWEPT]
    return _txn(catalog, keys, *map(Delete, keys))


# --- models --------------------------------------------------------------------------------------------------------


def _set_model(catalog: Catalog, command: SetModel) -> StateTxn:
    entry, expected = command.entry, command.replaces_digest
    key = records.model_key(entry.name)
    grammar.sha256_hex(entry.digest)
    if entry.size_bytes < 0:
        raise BadRequest(f"a model has no size of {entry.size_bytes} bytes")
    standing = catalog.models.get(grammar.model_key(entry.name))
    digest = standing.digest if standing is not None else ""
    if expected is not None and digest not in (expected, entry.digest):
        raise Conflict(f"the model {grammar.shown(entry.name)} was changed meanwhile: look at it and try again")
    is_known = standing is not None and structs.replace(standing, changed_ns=entry.changed_ns) == entry
    return _txn(catalog, (key,), *(() if is_known else (_put(key, entry),)))


def _drop_model(catalog: Catalog, name: str) -> StateTxn:
    key = records.model_key(name)
    if key not in catalog.stored:
        raise NotFound(f"the cluster knows no model {grammar.shown(name)}")
    return StateTxn((), (Delete(key),))
