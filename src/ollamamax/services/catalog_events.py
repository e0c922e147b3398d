"""What a change of the catalog means to people."""

from collections.abc import Iterator

from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.types import ClusterEvent


def changes(old: Catalog, new: Catalog, at_ns: int) -> Iterator[ClusterEvent]:
    """The events between two states, nodes in the order of joining."""
    if old.nodes is not new.nodes:
        for node_id, record in new.nodes.items():
            before = old.nodes.get(node_id)
            if before is None:
                where = f" from {record.addresses[0]}" if record.addresses else ""
                yield _event(at_ns, "joined", record.name, f"{record.name} joined{where}")
                continue
            if before.name != record.name:
                yield _event(at_ns, "renamed", record.name, f"{before.name} is called {record.name} now")
            if before.cordoned != record.cordoned:
                kind = "cordoned" if record.cordoned else "uncordoned"
                yield _event(at_ns, kind, record.name, f"{record.name} was {kind}")
            if before.labels != record.labels:
                labels = ", ".join(f"{key}={value}" for key, value in sorted(record.labels.items())) or "none"
                yield _event(at_ns, "labelled", record.name, f"labels of {record.name}: {labels}")
            if before.addresses != record.addresses:
                where = ", ".join(record.addresses)
                yield _event(at_ns, "moved", record.name, f"{record.name} is found at {where}")
            if before.version != record.version:
                text = f"{record.name} runs version {record.version} now, and ran {before.version}"
                yield _event(at_ns, "version", record.name, text)
    yield from _drains(old, new, at_ns)
    yield from _placements(old, new, at_ns)
    for node_id in new.revoked.keys() - old.revoked.keys():
        name = new.revoked[node_id].name
        yield _event(at_ns, "removed", name, f"{name} was removed: its certificate is refused")
    if new.settings.version != old.settings.version:
        text = f"settings, version {new.settings.version}: {new.settings.change}"
        yield _event(at_ns, "settings", "", text)
    for key in sorted(new.models.keys() - old.models.keys()):
        yield _event(at_ns, "model_added", "", f"model {new.models[key].name} is known")
    for key in sorted(old.models.keys() - new.models.keys()):
        yield _event(at_ns, "model_removed", "", f"model {old.models[key].name} was deleted")


def _drains(old: Catalog, new: Catalog, at_ns: int) -> Iterator[ClusterEvent]:
    for node_id in sorted(new.drains.keys() - old.drains.keys()):
        name = new.nodes[node_id].name
        yield _event(at_ns, "drained", name, f"{name} is being emptied")
    for node_id in sorted(old.drains.keys() - new.drains.keys()):
        if node_id in new.nodes:
            name = new.nodes[node_id].name
            yield _event(at_ns, "undrained", name, f"{name} is not emptied any more")


def _placements(old: Catalog, new: Catalog, at_ns: int) -> Iterator[ClusterEvent]:
    if old.placements is not new.placements:
        for key, wish in sorted(new.placements.items()):
            if old.placements.get(key) != wish:
                yield _event(at_ns, "placed", "", f"model {wish.name} is to have {wish.replicas} replicas")
        for key in sorted(old.placements.keys() - new.placements.keys()):
            yield _event(at_ns, "unplaced", "", f"model {old.placements[key].name} is not placed any more")
    if old.assignments is not new.assignments:
        for key, decided in sorted(new.assignments.items()):
            before = old.assignments.get(key)
            if before is None or (before.nodes, before.missing) != (decided.nodes, decided.missing):
                where = ", ".join(new.nodes[node_id].name for node_id in decided.nodes)
                where = f"on {where}" if where else "nowhere"
                missing = f", {decided.missing} without a place" if decided.missing else ""
                yield _event(at_ns, "assigned", "", f"model {decided.name} runs {where}{missing}")


def _event(at_ns: int, kind: str, node: str, text: str) -> ClusterEvent:
    return ClusterEvent(at_ns=at_ns, kind=kind, node=node, text=text)
