"""The keys of the replicated state and the bytes of its records.

::

    cluster/meta          ClusterMeta
    cluster/roster        Roster: next sequence number; written by all that adds, renames or removes a node
    nodes/<node id>       NodeRecord
    revoked/<node id>     RevokedNode
    tokens/<token id>     TokenRecord
    models/<model key>    ModelEntry; the key is ModelName.key: lower case, of a-z 0-9 _ . : / -
    instances/<node id>   Instance; under a lease of the node's process

Other keys are left alone: a newer program may have written them. Form of the values: core/catalog/versioned.py.
"""

from enum import Enum
from typing import Final

import msgspec
from msgspec import Struct

from ollamamax.core.catalog import grammar, versioned
from ollamamax.core.errors import BadRequest, StateCorrupt, StateTooNew
from ollamamax.core.types import ClusterMeta, ModelEntry, NodeRecord, RevokedNode, TokenRecord

RECORD_VERSION: Final = 1
"""The newest form of records that this program understands, and the one that it writes."""
STATE_FORMAT: Final = 1
"""The newest ClusterMeta.format that this program understands."""

META_KEY: Final = "cluster/meta"
ROSTER_KEY: Final = "cluster/roster"


class Roster(Struct, frozen=True):
    """What a joining takes its number from. Written by all who take or free a name: so names stay unique."""

    next_sequence: int


class Instance(Struct, frozen=True):
    """The process that runs as a node now."""

    instance: str


Record = ClusterMeta | Roster | NodeRecord | RevokedNode | TokenRecord | ModelEntry | Instance


class Kind(Enum):
    """What a key is of, by its prefix."""

    META = META_KEY
    ROSTER = ROSTER_KEY
    NODE = "nodes/"
    REVOKED = "revoked/"
    TOKEN = "tokens/"  # noqa: S105
    MODEL = "models/"
    INSTANCE = "instances/"


_BY_PREFIX: Final = {kind.value: kind for kind in Kind}
_DECODERS: Final[dict[Kind, msgspec.json.Decoder[Record]]] = {
    Kind.META: msgspec.json.Decoder(ClusterMeta),
    Kind.ROSTER: msgspec.json.Decoder(Roster),
    Kind.NODE: msgspec.json.Decoder(NodeRecord),
    Kind.REVOKED: msgspec.json.Decoder(RevokedNode),
    Kind.TOKEN: msgspec.json.Decoder(TokenRecord),
    Kind.MODEL: msgspec.json.Decoder(ModelEntry),
    Kind.INSTANCE: msgspec.json.Decoder(Instance),
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


def split(key: str) -> tuple[Kind, str] | None:
    """What a key is of, and its id below the prefix ("" of the single ones); None for a foreign key."""
    prefix, slash, own_id = key.partition("/")
    kind = _BY_PREFIX.get(key) or _BY_PREFIX.get(prefix + slash)
    if kind is None:
        return None
    return kind, "" if kind in (Kind.META, Kind.ROSTER) else own_id


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
    return record


def _check_place(record: Record, own_id: str) -> None:
    """Raises: BadRequest, ValueError if the record does not belong under that id."""
    match record:
        case NodeRecord(node_id=named) | RevokedNode(node_id=named):
            grammar.node_id(own_id)
        case TokenRecord(token_id=named):
            grammar.token_id(own_id)
        case ModelEntry(name=name):
            named = grammar.model_key(name)
        case Instance():
            named = grammar.node_id(own_id)
        case _:
            named = own_id
    if named != own_id:
        raise ValueError(f"it is that of {grammar.shown(named)}")
