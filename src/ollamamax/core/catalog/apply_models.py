"""Which manifests model names stand for, and which were deleted, so that nobody brings them back by mistake."""

from msgspec import structs

from ollamamax.core.catalog import grammar, records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import DropModel, SetModel
from ollamamax.core.catalog.transactions import put, txn
from ollamamax.core.errors import BadRequest, Conflict, NotFound
from ollamamax.core.types import Delete, DeletedModel, Put, StateTxn


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
    gone = catalog.deleted.get(grammar.model_key(entry.name))
    is_gone = gone is not None and entry.digest in gone.digests
    if expected == "" and standing is None and is_gone:
        raise Conflict(f"this version of the model {grammar.shown(entry.name)} was deleted: pull or create it anew")
    is_known = standing is not None and structs.replace(standing, changed_ns=entry.changed_ns) == entry
    writes = () if is_known else (put(key, entry), *_forgotten(gone, entry.digest))
    return txn(catalog, (key, records.deleted_key(entry.name)), *writes)


def _forgotten(gone: DeletedModel | None, digest: str) -> tuple[Put | Delete, ...]:
    """The deletion without a manifest that the name stands for again."""
    if gone is None or digest not in gone.digests:
        return ()
    digests = tuple(it for it in gone.digests if it != digest)
    key = records.deleted_key(gone.name)
    return (put(key, structs.replace(gone, digests=digests)) if digests else Delete(key),)


def drop_model(catalog: Catalog, command: DropModel) -> StateTxn:
    """Raises: BadRequest, NotFound."""
    key, deleted = records.model_key(command.name), records.deleted_key(command.name)
    own_key = grammar.model_key(command.name)
    standing = catalog.models.get(own_key)
    if standing is None:
        raise NotFound(f"the cluster knows no model {grammar.shown(command.name)}")
    before = catalog.deleted.get(own_key)
    digests = (*(before.digests if before is not None else ()), standing.digest)
    gone = DeletedModel(
        name=standing.name,
        digests=digests[-records.DIGESTS_KEPT :],
        deleted_ns=command.at_ns,
        next_sequence=catalog.next_sequence,
    )
    read = [key, deleted, records.ROSTER_KEY]
    writes: list[Put | Delete] = [Delete(key), put(deleted, gone)]
    if before is None and len(catalog.deleted) >= records.DELETIONS_KEPT:
        oldest = min(catalog.deleted.values(), key=lambda it: (it.deleted_ns, it.name))
        read.append(records.deleted_key(oldest.name))
        writes.append(Delete(records.deleted_key(oldest.name)))
    return txn(catalog, read, *writes)
