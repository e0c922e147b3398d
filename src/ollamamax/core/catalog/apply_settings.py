"""The settings that all share: each change is a version of its own, and the newest ones are kept."""

from collections.abc import Mapping
from typing import Final

from msgspec import structs

from ollamamax.core.catalog import grammar, records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import ChangeSettings, RollbackSettings
from ollamamax.core.catalog.records import SETTINGS_KEPT
from ollamamax.core.catalog.transactions import member, put, txn
from ollamamax.core.errors import BadRequest, Conflict, NotFound
from ollamamax.core.types import ClusterSettings, Delete, StateTxn

_TOLD_CHARS: Final = 400


def change_settings(catalog: Catalog, command: ChangeSettings) -> StateTxn:
    """Raises: BadRequest, NodeNotFound, Conflict if another version was expected."""
    for key in (*command.set, *command.unset):
        grammar.setting(key)
    for value in command.set.values():
        grammar.setting_value(value)
    head = catalog.settings
    if not command.node_id:
        values = _changed(head.values, command)
        after = structs.replace(head, values=values, change=_told(head.values, values))
        return _next(catalog, after, command)
    name = member(catalog, command.node_id).name
    before = head.node_values.get(command.node_id, {})
    values = _changed(before, command)
    others = {node_id: its for node_id, its in head.node_values.items() if node_id != command.node_id}
    node_values = {**others, command.node_id: values} if values else others
    after = structs.replace(head, node_values=node_values, change=f"{name}: {_told(before, values)}")
    return _next(catalog, after, command)


def rollback_settings(catalog: Catalog, command: RollbackSettings) -> StateTxn:
    """Raises: BadRequest, NotFound for a version that is not kept, Conflict if another one was expected."""
    old = catalog.history.get(command.version) if command.version else ClusterSettings()
    if old is None:
        kept = (
            f"{min(catalog.history)} to {max(catalog.history)} are kept" if catalog.history else "nothing was set yet"
        )
        raise NotFound(
            f"there is no version {command.version} of the cluster's settings: {kept} "
            "(`ollamamax config history`), and 0 is before anything was set"
        )
    node_values = {node_id: its for node_id, its in old.node_values.items() if node_id in catalog.nodes}
    after = ClusterSettings(
        values=old.values, node_values=node_values, change=f"as they were in version {command.version}"
    )
    return _next(catalog, after, command)


def _changed(before: Mapping[str, str], command: ChangeSettings) -> dict[str, str]:
    kept = {key: value for key, value in before.items() if key not in command.unset}
    return {**kept, **command.set}


def _next(catalog: Catalog, after: ClusterSettings, command: ChangeSettings | RollbackSettings) -> StateTxn:
    """The next version, if it differs in what it sets. Raises: BadRequest, Conflict."""
    head = catalog.settings
    if (after.values, after.node_values) == (head.values, head.node_values):
        return txn(catalog, (records.SETTINGS_KEY,))
    if command.expected is not None and command.expected != head.version:
        raise Conflict(
            f"the cluster's settings were changed meanwhile: they have version {head.version}, not {command.expected}; "
            "look at them and try again"
        )
    version = head.version + 1
    after = structs.replace(after, version=version, changed_ns=command.at_ns, by=grammar.author(command.by))
    written = put(records.SETTINGS_KEY, after)
    if len(written.value) > grammar.MAX_SETTINGS_BYTES:
        raise BadRequest(f"the cluster's settings take {grammar.MAX_SETTINGS_BYTES} bytes at most: unset some")
    oldest = (Delete(records.settings_key(version - SETTINGS_KEPT)),) if version > SETTINGS_KEPT else ()
    return txn(catalog, (records.SETTINGS_KEY,), written, put(records.settings_key(version), after), *oldest)


def _told(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """What is different, for people, cut to a line."""
    parts = [
        f"{key}: {before.get(key, 'unset')} -> {after.get(key, 'unset')}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]
    text = ", ".join(parts)
    return text if len(text) <= _TOLD_CHARS else text[: _TOLD_CHARS - 3] + "..."
