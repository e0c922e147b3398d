"""The keys of the replicated state and the bytes of its records.

::

    cluster/meta          ClusterMeta
    cluster/roster        Roster: next sequence number; written by all that adds, renames or removes a node
    nodes/<node id>       NodeRecord
    revoked/<node id>     RevokedNode
    tokens/<token id>     TokenRecord
    models/<model key>    ModelEntry; the key is ModelName.key: lower case, of a-z 0-9 _ . : / -
    instances/<node id>   Instance; under a lease of the node's process

since level 2:

    placements/<model key>    Placement
    assignments/<model key>   Assignment
    drains/<node id>          Drain
    deleted/<model key>       DeletedModel; the newest 1000 are kept
    settings/head             ClusterSettings, the newest
    settings/v/<10 digits>    ClusterSettings, each version by its number; the newest 100 are kept
    planner                   Planner; under a lease of the node that plans
    state/home                StateHome; without it the state lives with ClusterMeta.holder_id

Other keys are left alone: a newer program may have written them. Form of the values: core/catalog/versioned.py.
What is new comes under new keys, so that older programs leave it alone, and raises LEVEL: commands that need it are
refused until every member's program knows it.
"""

import re
from enum import Enum
from typing import Final

import msgspec
from msgspec import Struct

from ollamamax.core.catalog import grammar, versioned
from ollamamax.core.errors import BadRequest, StateCorrupt, StateTooNew
from ollamamax.core.types import (
    Assignment,
    ClusterMeta,
    ClusterSettings,
    DeletedModel,
    Drain,
    ModelEntry,
    NodeRecord,
    Placement,
    RevokedNode,
    StateHome,
    TokenRecord,
)

RECORD_VERSION: Final = 1
"""The newest form of records that this program understands, and the one that it writes."""
STATE_FORMAT: Final = 1
"""The newest ClusterMeta.format that this program understands."""
LEVEL: Final = 2
"""What this program knows of the catalog: what NodeRecord.level tells. 1: all before placements.

In words: levels.NEW_AT.
"""
PLACED_LEVEL: Final = 2
"""What a program needs to run what was assigned to it."""
HOME_LEVEL: Final = 2
"""What a program needs to find the state when it lives elsewhere than with ClusterMeta.holder_id."""

HOME_KINDS: Final = ("sqlite", "etcd", "external")
SETTINGS_KEPT: Final = 100
"""Versions of the settings."""
DELETIONS_KEPT: Final = 1_000
"""Names of models that are remembered as deleted."""
DIGESTS_KEPT: Final = 32
"""Manifests of one such name."""

META_KEY: Final = "cluster/meta"
ROSTER_KEY: Final = "cluster/roster"
SETTINGS_KEY: Final = "settings/head"
PLANNER_KEY: Final = "planner"
HOME_KEY: Final = "state/home"


class Roster(Struct, frozen=True):
    """What a joining takes its number from. Written by all who take or free a name, so that names stay unique, and
    when a member's level changes: while it stands, so do the members, their names and levels.
    """

    next_sequence: int


class Instance(Struct, frozen=True):
    """The process that runs as a node now."""

    instance: str


class Planner(Struct, frozen=True):
    """The node that decides where models run."""

    node_id: str


Record = (
    ClusterMeta
    | Roster
    | NodeRecord
    | RevokedNode
    | TokenRecord
    | ModelEntry
    | Instance
    | Placement
    | Assignment
    | Drain
    | DeletedModel
    | ClusterSettings
    | Planner
    | StateHome
)


class Kind(Enum):
    """What a key is of, by its prefix."""

    META = META_KEY
    ROSTER = ROSTER_KEY
    NODE = "nodes/"
    REVOKED = "revoked/"
    TOKEN = "tokens/"  # noqa: S105
    MODEL = "models/"
    INSTANCE = "instances/"
    PLACEMENT = "placements/"
    ASSIGNMENT = "assignments/"
    DRAIN = "drains/"
    DELETED = "deleted/"
    SETTINGS = SETTINGS_KEY
    SETTINGS_VERSION = "settings/v/"
    PLANNER = PLANNER_KEY
    HOME = HOME_KEY


_SINGLE: Final = {kind.value: kind for kind in (Kind.META, Kind.ROSTER, Kind.SETTINGS, Kind.PLANNER, Kind.HOME)}
_BY_PREFIX: Final = {kind.value: kind for kind in Kind if kind.value.endswith("/")}
_VERSION_ID: Final = re.compile(r"[0-9]{10}")
_DECODERS: Final[dict[Kind, msgspec.json.Decoder[Record]]] = {
    Kind.META: msgspec.json.Decoder(ClusterMeta),
    Kind.ROSTER: msgspec.json.Decoder(Roster),
    Kind.NODE: msgspec.json.Decoder(NodeRecord),
    Kind.REVOKED: msgspec.json.Decoder(RevokedNode),
    Kind.TOKEN: msgspec.json.Decoder(TokenRecord),
    Kind.MODEL: msgspec.json.Decoder(ModelEntry),
    Kind.INSTANCE: msgspec.json.Decoder(Instance),
    Kind.PLACEMENT: msgspec.json.Decoder(Placement),
    Kind.ASSIGNMENT: msgspec.json.Decoder(Assignment),
    Kind.DRAIN: msgspec.json.Decoder(Drain),
    Kind.DELETED: msgspec.json.Decoder(DeletedModel),
    Kind.SETTINGS: msgspec.json.Decoder(ClusterSettings),
    Kind.SETTINGS_VERSION: msgspec.json.Decoder(ClusterSettings),
    Kind.PLANNER: msgspec.json.Decoder(Planner),
    Kind.HOME: msgspec.json.Decoder(StateHome),
}


def node_key(node_id: str) -> str:
    """Where a member's record is."""
    return f"nodes/{node_id}"


def revoked_key(node_id: str) -> str:
    """Where it is told that a node was removed."""
    return f"revoked/{node_id}"


def token_key(token_id: str) -> str:
    """Where a join token's record is."""
    return f"tokens/{token_id}"


def model_key(name: str) -> str:
    """Where a model's entry is, from its short name with its tag. Raises: BadRequest."""
    return f"models/{grammar.model_key(name)}"


def instance_key(node_id: str) -> str:
    """Where it is told which process runs as a node."""
    return f"instances/{node_id}"


def placement_key(name: str) -> str:
    """Where it is told how a model is to be placed, from its short name with its tag. Raises: BadRequest."""
    return f"placements/{grammar.model_key(name)}"


def assignment_key(name: str) -> str:
    """Where it is told which nodes run a model, from its short name with its tag. Raises: BadRequest."""
    return f"assignments/{grammar.model_key(name)}"


def drain_key(node_id: str) -> str:
    """Where it is told that a node is being emptied."""
    return f"drains/{node_id}"


def deleted_key(name: str) -> str:
    """Where it is told that a model was deleted, from its short name with its tag. Raises: BadRequest."""
    return f"deleted/{grammar.model_key(name)}"


def settings_key(version: int) -> str:
    """Where a version of the settings is."""
    return f"settings/v/{version:010}"


def split(key: str) -> tuple[Kind, str] | None:
    """What a key is of, and its id below the prefix ("" of the single ones); None for a foreign key."""
    single = _SINGLE.get(key)
    if single is not None:
        return single, ""
    prefix, slash, own_id = key.partition("/")
    kind = _BY_PREFIX.get(prefix + slash)
    if kind is not None:
        return kind, own_id
    version = key.removeprefix(Kind.SETTINGS_VERSION.value)
    return (Kind.SETTINGS_VERSION, version) if version != key and _VERSION_ID.fullmatch(version) else None


def encode(record: Record) -> bytes:
    """A record's bytes; the same for the same record, always."""
    return versioned.encode(record, RECORD_VERSION)


def decode(key: str, value: bytes) -> Record:
    """The record below a key that `split` knows.

    Raises: StateTooNew (a newer program wrote it), StateCorrupt (nobody did, or it belongs under another key).
    """
    found = split(key)
    assert found is not None, "only keys of records are decoded"
    kind, own_id = found
    try:
        record = versioned.decode(value, _DECODERS[kind], RECORD_VERSION, f"the record {grammar.shown(key)}")
        _check_place(record, own_id)
    except (ValueError, BadRequest) as error:
        raise StateCorrupt(
            f"the record {grammar.shown(key)} of the cluster's state can't be read ({error}): "
            "restore the state from a snapshot"
        ) from None
    if isinstance(record, ClusterMeta) and record.format > STATE_FORMAT:
        raise StateTooNew(
            f"the cluster's state has format {record.format}, this program knows up to {STATE_FORMAT}: "
            "upgrade this node"
        )
    if isinstance(record, StateHome) and record.kind not in HOME_KINDS:
        raise StateTooNew(
            f"the cluster's state lives in {grammar.shown(record.kind)}, which this program does not know: "
            "upgrade this node"
        )
    return record


def _check_place(record: Record, own_id: str) -> None:
    """Raises: BadRequest, ValueError if the record does not belong under that id."""
    match record:
        case NodeRecord(node_id=named) | RevokedNode(node_id=named) | Drain(node_id=named):
            grammar.node_id(own_id)
        case TokenRecord(token_id=named):
            grammar.token_id(own_id)
        case ModelEntry(name=name) | Placement(name=name) | Assignment(name=name) | DeletedModel(name=name):
            named = grammar.model_key(name)
        case Instance():
            named = grammar.node_id(own_id)
        case ClusterSettings(version=version):
            if version < 1:
                raise ValueError(f"version {version}")
            named = f"{version:010}" if own_id else own_id
        case StateHome(hosts=hosts, phase=phase, target=target):
            if not hosts or (phase == "moving") != (target is not None):
                raise ValueError("it leads nowhere")
            named = own_id
        case _:
            named = own_id
    if named != own_id:
        raise ValueError(f"it is that of {grammar.shown(named)}")
