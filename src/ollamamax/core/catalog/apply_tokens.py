"""Join tokens: made, taken back, forgotten."""

from typing import Final

from ollamamax.core.catalog import grammar, records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import AddToken, DropToken, SweepTokens
from ollamamax.core.catalog.transactions import put, txn
from ollamamax.core.errors import BadRequest, Conflict, NotFound
from ollamamax.core.types import Delete, StateTxn

MAX_SWEPT: Final = 100
"""Tokens forgotten by one command: etcd takes 128 operations per transaction."""


def add_token(catalog: Catalog, command: AddToken) -> StateTxn:
    """Raises: BadRequest, Conflict if the id is taken."""
    record = command.record
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
    added = (put(key, record),) if standing is None else ()
    return txn(catalog, (key,), *added)


def drop_token(catalog: Catalog, command: DropToken) -> StateTxn:
    """Raises: NotFound."""
    token_id = command.token_id
    if token_id not in catalog.tokens:
        raise NotFound(f"no join token {grammar.shown(token_id)} is known: it expired, or was taken back")
    return StateTxn((), (Delete(records.token_key(token_id)),))


def sweep_tokens(catalog: Catalog, command: SweepTokens) -> StateTxn:
    """Some of the expired ones go."""
    expired = (token_id for token_id, token in sorted(catalog.tokens.items()) if token.expires_ns <= command.at_ns)
    keys = [records.token_key(token_id) for token_id in expired][:MAX_SWEPT]
    return txn(catalog, keys, *map(Delete, keys))
