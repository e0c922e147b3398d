"""Which manifests model names stand for."""

from msgspec import structs

from ollamamax.core.catalog import grammar, records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import DropModel, SetModel
from ollamamax.core.catalog.transactions import put, txn
from ollamamax.core.errors import BadRequest, Conflict, NotFound
from ollamamax.core.types import Delete, StateTxn


def set_model(catalog: Catalog, command: SetModel) -> StateTxn:
    """Raises: BadRequest, Conflict if it stands for something else than was expected."""
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
    return txn(catalog, (key,), *(() if is_known else (put(key, entry),)))


def drop_model(catalog: Catalog, command: DropModel) -> StateTxn:
    """Raises: BadRequest, NotFound."""
    key = records.model_key(command.name)
    if key not in catalog.stored:
        raise NotFound(f"the cluster knows no model {grammar.shown(command.name)}")
    return StateTxn((), (Delete(key),))
