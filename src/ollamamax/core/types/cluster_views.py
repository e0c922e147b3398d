"""The cluster as one node sees it at one moment, for people and programs outside: what the admin API shows."""

from enum import Enum

from msgspec import Struct


class NodeState(Enum):
    """READY: takes requests.  CORDONED: an operator keeps new requests away.  DRAINING: it is stopping, or an
    operator empties it.  DRAINED: it was emptied, and takes no new requests.
    SUSPECT: its sign of life vanished, and it is being asked.  GONE: it does not answer.
    """

    READY = "ready"
    CORDONED = "cordoned"
    DRAINING = "draining"
    DRAINED = "drained"
    SUSPECT = "suspect"
    GONE = "gone"


class NodeView(Struct, frozen=True, kw_only=True):
    """One member. What it told of itself is old by facts_age_ms, None if it never told anything.

    role: in the mesh, "router", "client" or "" if not known.  models: how many it offers.  loaded: names of those in
    memory.  level: of the catalog that its program knows.  protocol: the versions of the talk between nodes that it
    speaks, as "1" or "1-2"; "" if not known.  slots, slots_used: of all its engines.  queued: requests that wait there.
    replicas: of placed models, that are assigned to it.  drain_deadline_ns: 0 = it is not drained, or may take as long
    as it takes.  prefill_tps, decode_tps: of its fastest engine, per stream; 0 = not measured.
    """

    name: str
    node_id: str
    state: NodeState
    addresses: tuple[str, ...]
    joined_ns: int
    version: str
    level: int = 1
    protocol: str = ""
    role: str = ""
    is_this: bool = False
    is_holder: bool = False
    labels: dict[str, str] = {}
    facts_age_ms: float | None = None
    models: int = 0
    loaded: tuple[str, ...] = ()
    slots: int = 0
    slots_used: int = 0
    queued: int = 0
    replicas: int = 0
    drain_deadline_ns: int = 0
    free_memory_bytes: int = 0
    total_memory_bytes: int = 0
    gpu_count: int = 0
    prefill_tps: float = 0.0
    decode_tps: float = 0.0


class ClusterStatus(Struct, frozen=True, kw_only=True):
    """The whole. this, holder: names of nodes.  nodes: how many, by NodeState's value; absent = none.

    holder_lost_ms: for how long the holder has been out of reach, 0 if it is there.  revision: of the state that this
    node has seen.  role: this node's in the mesh.  versions: how many nodes run each.  waits: what works only
    when all nodes are upgraded, in sentences.  degraded: what does not work now, in sentences; empty = all does.
    queued, in_flight, slots: sums over the nodes that are not gone.
    """

    cluster_id: str
    name: str
    created_ns: int
    this: str
    holder: str
    holder_reachable: bool
    revision: int
    role: str
    certificate_expires_ns: int
    holder_lost_ms: float = 0.0
    nodes: dict[str, int] = {}
    versions: dict[str, int] = {}
    waits: tuple[str, ...] = ()
    queued: int = 0
    in_flight: int = 0
    slots: int = 0
    degraded: tuple[str, ...] = ()


class NewToken(Struct, frozen=True, kw_only=True):
    """A join token, shown once. token: the whole text, with its secret."""

    token: str
    token_id: str
    expires_ns: int
    uses: int


class TokenView(Struct, frozen=True, kw_only=True):
    """A join token without its secret. uses_left: 0 = used up."""

    token_id: str
    created_ns: int
    expires_ns: int
    uses_left: int


class Joined(Struct, frozen=True, kw_only=True):
    """What came of joining. node: the name that this node has there.  was_member: it belonged to it already."""

    cluster_id: str
    cluster: str
    node: str
    node_id: str
    was_member: bool = False


class FoundCluster(Struct, frozen=True, kw_only=True):
    """A cluster that answered on the LAN. Nothing of it is verified: only a join token does that.

    cluster_id, name: "" where nobody told.  key_hash: sha256 of its authority's public key, hex.  addresses: of peer
    listeners.  is_ours: this node is a member.
    """

    addresses: tuple[str, ...]
    cluster_id: str = ""
    name: str = ""
    key_hash: str = ""
    is_ours: bool = False
