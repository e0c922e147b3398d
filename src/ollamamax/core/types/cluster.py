"""Nodes of a cluster: what all agree on (records), and what each tells of itself (facts).

A node id and a cluster id are 16 lower-case hex digits. A node's name is a DNS label,
`[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`, unique in its cluster. An address is `host:port` or `[v6]:port` of a peer
listener. Grammar: core/catalog/grammar.py.
"""

from msgspec import Struct

from ollamamax.core.types.fleet import EngineKind, EngineModel
from ollamamax.core.types.models import LoadedModel

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1
"""Versions of the talk between nodes that this program understands."""


class NodeRecord(Struct, frozen=True, kw_only=True):
    """A member, as the cluster agreed. sequence: order of joining, from 1.  key_hash: sha256 of its public key (SPKI
    DER), hex.  addresses: of its peer listener, best first.  cordoned: takes no new requests.  level: the newest level
    of the catalog that its program knows (core/catalog/records.py); one that knows of no levels leaves it at 1.
    """

    node_id: str
    name: str
    addresses: tuple[str, ...]
    sequence: int
    joined_ns: int
    key_hash: str
    version: str
    labels: dict[str, str] = {}
    cordoned: bool = False
    level: int = 1


class RevokedNode(Struct, frozen=True, kw_only=True):
    """A member that was removed: its certificates are refused, also when its clock or ours is wrong."""

    node_id: str
    name: str
    key_hash: str
    removed_ns: int


class TokenRecord(Struct, frozen=True, kw_only=True):
    """A join token, without its secret. secret_hash: sha256 of it, hex.  uses_left: 0 = used up."""

    token_id: str
    secret_hash: str
    created_ns: int
    expires_ns: int
    uses_left: int


class ModelEntry(Struct, frozen=True, kw_only=True):
    """A model name and the manifest that it stands for in this cluster. digest: bare hex sha256 of the manifest."""

    name: str
    digest: str
    size_bytes: int
    changed_ns: int


class DeletedModel(Struct, frozen=True, kw_only=True):
    """A model name, and the manifests that it stood for when it was deleted. digests: bare hex sha256, newest last.

    next_sequence: of the node that joined next after the last deletion; who has a smaller one ought to know of it.
    """

    name: str
    digests: tuple[str, ...]
    deleted_ns: int
    next_sequence: int


class ClusterMeta(Struct, frozen=True, kw_only=True):
    """What the cluster is. format: of the records; a program that does not know it keeps its hands off.

    holder_id: the node that holds the state; or did so last, when it lives elsewhere (StateHome).
    """

    cluster_id: str
    name: str
    created_ns: int
    holder_id: str
    format: int = 1


class NodeEngine(Struct, frozen=True, kw_only=True):
    """One engine of a node, as the node tells. name: "local", or what it was attached as. Fields as of EngineFacts."""

    name: str
    kind: EngineKind
    slots: int
    models: tuple[EngineModel, ...] = ()
    in_flight: int = 0
    outstanding_tokens: float = 0.0
    prefill_tps: float = 0.0
    decode_tps: float = 0.0
    load_ms: float = 0.0
    reachable: bool = True
    busy: dict[str, int] | None = None


class NodeFacts(Struct, frozen=True, kw_only=True):
    """What a node tells of itself. Soft: a hint, possibly old, never the base of a write.

    instance: drawn at each start.  revision: of the state that it has seen.  role: in the mesh, "router" or "client".
    draining: it takes no new requests.  queued: requests that wait for admission there.  waiting: the same, by model
    key.  settings_version: of the cluster's settings that it has taken over.
    """

    node_id: str
    instance: str
    name: str
    version: str
    protocol_min: int
    protocol_max: int
    addresses: tuple[str, ...]
    role: str
    revision: int = 0
    draining: bool = False
    queued: int = 0
    waiting: dict[str, int] = {}
    settings_version: int = 0
    state_generation: int = 0
    free_memory_bytes: int = 0
    total_memory_bytes: int = 0
    gpu_count: int = 0
    engines: tuple[NodeEngine, ...] = ()
    loaded: tuple[LoadedModel, ...] = ()


class ClusterEvent(Struct, frozen=True, kw_only=True):
    """Something that happened, for people. kind: e.g. "joined", "gone", "back", "removed", "holder_lost"."""

    at_ns: int
    kind: str
    node: str = ""
    text: str = ""
