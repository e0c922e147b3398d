"""A tiny store for tests of the catalog, and records and commands of few words."""

import hashlib

import pytest

from ollamamax.core.catalog import apply as applying
from ollamamax.core.catalog import join_token
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import (
    AddNode,
    AddToken,
    BeginMove,
    Command,
    FinishMove,
    FoundCluster,
    SetAssignment,
    SetPlacement,
)
from ollamamax.core.catalog.records import LEVEL, assignment_key, placement_key
from ollamamax.core.errors import OllamaMaxError
from ollamamax.core.types import (
    Assignment,
    ClusterMeta,
    Delete,
    NodeRecord,
    Placement,
    StateBatch,
    StateEntry,
    StateEvent,
    StateHome,
    StateRange,
    StateTxn,
    TokenRecord,
)

CLUSTER = "c" * 16
SECRETS = ("5" * 32, "6" * 32)
FOREVER_NS = 10**18


def id_of(number: int) -> str:
    return f"{number:016x}"


def key_of(number: int) -> str:
    return hashlib.sha256(f"key {number}".encode()).hexdigest()


class Store:
    """All entries of a state, and the rules of transactions; nothing else."""

    def __init__(self) -> None:
        self.revision = 0
        self.entries: dict[str, StateEntry] = {}

    def txn(self, txn: StateTxn) -> StateBatch | None:
        """What changed; None if a compare did not hold."""
        touched = [write.key for write in txn.writes]
        assert len(set(touched)) == len(touched), "no key is written twice"
        assert len({compare.key for compare in txn.compares}) == len(txn.compares)
        assert max(len(touched), len(txn.compares)) <= 128, "etcd takes no more"
        for compare in txn.compares:
            entry = self.entries.get(compare.key)
            if (entry.revision if entry else 0) != compare.revision:
                return None
        if not txn.writes:
            return StateBatch(self.revision, ())
        self.revision += 1
        events = []
        for write in txn.writes:
            old = self.entries.pop(write.key, None)
            created = old.created if old else self.revision
            if not isinstance(write, Delete):
                entry = StateEntry(write.key, write.value, created, self.revision, write.lease_id)
                self.entries[write.key] = entry
                events.append(StateEvent(entry))
            elif old:
                events.append(StateEvent(StateEntry(write.key, b"", created, self.revision), is_delete=True))
        return StateBatch(self.revision, tuple(events))

    def range(self) -> StateRange:
        return StateRange(self.revision, tuple(self.entries[key] for key in sorted(self.entries)))


class World:
    """A store and the catalog that follows it."""

    def __init__(self) -> None:
        self.store = Store()
        self.catalog = Catalog.empty()

    def run(self, command: Command) -> StateTxn:
        """Carry a command out on the newest catalog."""
        txn = applying.apply(self.catalog, command)
        assert self.try_txn(txn)
        return txn

    def try_txn(self, txn: StateTxn) -> bool:
        batch = self.store.txn(txn)
        if batch is not None:
            self.catalog = self.catalog.after(batch)
            self.catalog.check_invariants()
            assert self.catalog == Catalog.from_range(self.store.range())
        return batch is not None


def founder(**changed: object) -> NodeRecord:
    fields: dict[str, object] = {
        "node_id": id_of(1),
        "name": "ada",
        "addresses": ("10.0.0.1:11435",),
        "sequence": 1,
        "joined_ns": 1,
        "key_hash": key_of(1),
        "version": "1.0",
        "level": LEVEL,
    }
    return NodeRecord(**{**fields, **changed})  # type: ignore[arg-type]


def meta(**changed: object) -> ClusterMeta:
    fields: dict[str, object] = {"cluster_id": CLUSTER, "name": "home", "created_ns": 1, "holder_id": id_of(1)}
    return ClusterMeta(**{**fields, **changed})  # type: ignore[arg-type]


def founding() -> FoundCluster:
    return FoundCluster(meta(), founder())


def token(number: int = 1, uses: int = 1, expires_ns: int = FOREVER_NS, secret: str = SECRETS[0]) -> AddToken:
    return AddToken(
        TokenRecord(
            token_id=id_of(number),
            secret_hash=join_token.secret_hash(secret),
            created_ns=0,
            expires_ns=expires_ns,
            uses_left=uses,
        )
    )


def joining(
    number: int,
    name: str = "bob",
    *,
    key: int | None = None,
    token_number: int = 1,
    secret: str = SECRETS[0],
    at_ns: int = 100,
    addresses: tuple[str, ...] = ("10.0.0.2:11435",),
    version: str = "1.0",
    level: int = LEVEL,
) -> AddNode:
    return AddNode(
        node_id=id_of(number),
        name=name,
        addresses=addresses,
        key_hash=key_of(number if key is None else key),
        version=version,
        token_id=id_of(token_number),
        secret_hash=join_token.secret_hash(secret),
        at_ns=at_ns,
        level=level,
    )


def founded(*commands: Command) -> World:
    """A world with a cluster of one, after some commands."""
    world = World()
    for command in (founding(), *commands):
        world.run(command)
    return world


MODEL_NAME = "Tiny:latest"


def placing(replicas: int = 1, pins: tuple[str, ...] = (), **changed: object) -> SetPlacement:
    fields: dict[str, object] = {"name": MODEL_NAME, "replicas": replicas, "pins": pins, "changed_ns": 1}
    return SetPlacement(Placement(**{**fields, **changed}))  # type: ignore[arg-type]


def assigning(catalog: Catalog, nodes: dict[str, int], planner: int = 1, **changed: object) -> SetAssignment:
    """By a planner that sees this catalog."""
    fields: dict[str, object] = {"name": MODEL_NAME, "nodes": nodes, "decided_ns": 1}
    record = Assignment(**{**fields, **changed})  # type: ignore[arg-type]
    wish, own = placement_key(record.name), assignment_key(record.name)
    return SetAssignment(record, id_of(planner), catalog.revision_of(wish), catalog.revision_of(own))


def moved(world: World, kind: str, *numbers: int) -> StateHome:
    """The state lives elsewhere."""
    endpoints = ("etcd:2379",) if kind == "external" else ()
    target = StateHome(kind=kind, hosts=tuple(map(id_of, numbers)), endpoints=endpoints)
    world.run(BeginMove(target, id_of(1)))
    assert world.catalog.home.target is not None
    world.run(FinishMove(world.catalog.home.target))
    return world.catalog.home


def refusal(world: World, command: Command, kind: type[OllamaMaxError]) -> str:
    with pytest.raises(kind) as caught:
        applying.apply(world.catalog, command)
    assert type(caught.value) is kind
    return str(caught.value)


def does_nothing(world: World, command: Command) -> None:
    before = world.catalog
    txn = world.run(command)
    assert txn.writes == ()
    assert txn.compares, "that it is done can be tried"
    assert world.catalog == before
