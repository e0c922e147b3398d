"""A node joins by a token."""

import hmac

from msgspec import structs

from ollamamax.core.catalog import grammar, records
from ollamamax.core.catalog.apply_nodes import changed, checked
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import AddNode
from ollamamax.core.catalog.records import HOME_LEVEL, Roster
from ollamamax.core.catalog.transactions import guarded, put, require_level, txn
from ollamamax.core.errors import NodeConflict, TokenRefused
from ollamamax.core.types import NodeRecord, StateTxn, TokenRecord


def add_node(catalog: Catalog, command: AddNode) -> StateTxn:
    """Raises: BadRequest, TokenRefused, NodeConflict, Conflict if its program is too old for the state's home."""
    node = checked(
        NodeRecord(
            node_id=command.node_id,
            name=command.name,
            addresses=command.addresses,
            sequence=catalog.next_sequence,
            joined_ns=command.at_ns,
            key_hash=command.key_hash,
            version=command.version,
            level=command.level,
        )
    )
    token = _accepted_token(catalog, command)
    key, token_key = records.node_key(node.node_id), records.token_key(token.token_id)
    _check_identity(catalog, node)
    if catalog.home.kind != "sqlite":
        require_level((node,), HOME_LEVEL)
    standing = catalog.nodes.get(node.node_id)
    if standing is not None:
        again = structs.replace(standing, addresses=node.addresses, version=node.version, level=node.level)
        return guarded(catalog, changed(catalog, standing, again), (token_key,))
    if token.uses_left < 1:
        raise TokenRefused("the join token is used up: make a new one with `ollamamax token create`")
    node = structs.replace(node, name=_free_name(catalog, node.name))
    return txn(
        catalog,
        (records.ROSTER_KEY, key, records.revoked_key(node.node_id), token_key),
        put(records.ROSTER_KEY, Roster(catalog.next_sequence + 1)),
        put(key, node),
        put(token_key, structs.replace(token, uses_left=token.uses_left - 1)),
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
