"""What a node needs of the other nodes: their links, their soft state, and papers to be believed by them."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from enum import Enum
from typing import Protocol

from msgspec import Struct

from ollamamax.core.types import NodeRecord, StateRange


class Caller(Struct, frozen=True):
    """Who calls a peer method, as its certificate says. node_id: "" for one that has no certificate yet (joining).

    address: the host that it calls from, without the port.
    """

    node_id: str
    address: str = ""


Unary = Callable[[Caller, bytes], Awaitable[bytes]]
Stream = Callable[[Caller, bytes], AsyncGenerator[list[bytes], None]]
"""Frames in order, several per item where they came together. Closed when the caller has gone."""


class PeerMethods(Struct, frozen=True, kw_only=True):
    """What a service answers to other nodes, by name ("state.txn"). open: those that need no certificate (joining).

    Handlers raise OllamaMaxErrors, which arrive at the caller as the same class with the same text.
    """

    unary: Mapping[str, Unary] = {}
    streams: Mapping[str, Stream] = {}
    open: Mapping[str, Unary] = {}


class PeerLink(Protocol):
    """Calls to other nodes over pooled mTLS connections. `node` says who it has to be, and where it may be found.

    A handler's own error is raised as its class. Else: PeerUnavailable (nobody reached: nothing was done, unless the
    connection broke after the request was sent), PeerTimeout, PeerProtocol (garbage, or more than the limit),
    PeerVersion (no common version), CertificateRefused (it is somebody else, or refuses us).
    """

    async def call(self, node: NodeRecord, method: str, body: bytes, *, timeout_ms: float) -> bytes:
        """One question, one answer (64 MiB at most), within timeout_ms as a whole."""
        ...

    def stream(
        self, node: NodeRecord, method: str, body: bytes, *, idle_ms: float
    ) -> AsyncGenerator[list[bytes], None]:
        """A streamed answer, frames in order; closing the generator ends the work at the other side.

        idle_ms: without a sign of life of that node. Its listener gives one each second while its handler is quiet, so
        a limit for what the handler does is the reader's own. Nothing is sent before the first item is asked for.
        """
        ...

    async def forget(self, node_id: str) -> None:
        """Close the connections to a node that was removed, in both directions."""
        ...

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        ...


class NodeKeys(Struct, frozen=True, kw_only=True):
    """A node's papers, as PEM. certificate: leaf first.  ca: the cluster's authority.  expires_ns: of the leaf."""

    node_id: str
    cluster_id: str
    private_key: bytes
    certificate: bytes
    ca: bytes
    not_before_ns: int
    expires_ns: int

    def __repr__(self) -> str:  # without the key: this may end up in a log
        return f"NodeKeys(node_id={self.node_id!r}, cluster_id={self.cluster_id!r}, expires_ns={self.expires_ns})"


class CertificateFacts(Struct, frozen=True):
    """What one certificate says. node_id, cluster_id: its CN and O, "" if it has none.  key_hash: sha256 of its public
    key (SPKI DER), hex.  pem: itself, and nothing else.
    """

    node_id: str
    cluster_id: str
    key_hash: str
    not_before_ns: int
    expires_ns: int
    is_authority: bool
    pem: bytes


class Identity(Struct, frozen=True, kw_only=True):
    """Who this node is, as it remembers. name: the node's.  holder_id: the node that holds the state.

    joined_ns: when it founded or joined the cluster.
    """

    cluster_id: str
    node_id: str
    name: str
    holder_id: str
    joined_ns: int
    keys: NodeKeys


class IdentityStore(Protocol):
    """A node's identity on disk, and the making of papers. Methods block (files are synced): call them in a thread."""

    def load(self) -> Identity | None:
        """None if this node belongs to no cluster yet. Papers that have expired are loaded all the same.

        Raises: StoreError if what is there is damaged, or readable by others.
        """
        ...

    def save(self, identity: Identity, state: StateRange | None = None) -> None:
        """Keep it. A crash leaves the old one or the new one. That of another cluster is moved aside, all it had too.

        state: of the cluster when this node joined; kept with it, so that the node knows where the others are.
        Raises: DiskFull, StoreReadOnly, StoreError.
        """
        ...

    def joined_state(self) -> StateRange | None:
        """What save() got last. Raises: StoreError if it is damaged."""
        ...

    def replace_certificate(self, certificate: bytes) -> Identity:
        """A new certificate for the key that is there; the identity with it.

        Raises: CertificateRefused if it does not fit that key, authority, node and cluster; StoreError.
        """
        ...

    def forget(self) -> None:
        """Belong to no cluster: what is there is moved aside, not deleted. Raises: StoreError."""
        ...

    def new_key(self) -> tuple[bytes, bytes]:
        """A new private key and a signing request for it, PEM."""
        ...

    def request(self, private_key: bytes) -> bytes:
        """A signing request (PEM) for a key that is there."""
        ...

    def facts(self, certificate: bytes) -> CertificateFacts:
        """Of exactly one certificate, PEM. Raises: CertificateRefused if it is anything else."""
        ...

    def bind(self, private_key: bytes, certificate: bytes, ca: bytes) -> NodeKeys:
        """Papers that belong together. Raises: CertificateRefused if they do not. Does not look at the time."""
        ...


class JoinLink(Protocol):
    """How a node without papers talks to a member.

    Both raise PeerUnavailable, PeerTimeout, PeerProtocol (garbage, or too much), and the member's own errors.
    """

    async def hello(self, address: str) -> bytes:
        """What whoever listens there says of itself (`cluster.hello`). Nothing about it is verified."""
        ...

    async def join(self, address: str, ca: bytes, cluster_id: str, body: bytes) -> bytes:
        """Ask a member, over a connection of its own that `ca` (PEM) vouches for, to be let in (`cluster.join`).

        Nothing of `body` is sent before that. Raises: CertificateRefused if it is no member of that cluster.
        """
        ...


class CertificateAuthority(Protocol):
    """Signs; only where the cluster's CA key is. Methods may block for a millisecond or two."""

    @property
    def certificate(self) -> bytes:
        """The CA's certificate, PEM."""
        ...

    @property
    def key_hash(self) -> str:
        """sha256 of the CA's public key (SPKI DER), hex."""
        ...

    def sign(self, request: bytes, node_id: str, now_ns: int) -> bytes:
        """A node's certificate (PEM) for a signing request (PEM): CN = node id, O = cluster id.

        Raises: BadRequest for a request that can't be read, or isn't signed by its own key.
        """
        ...


class SharedAuthority(CertificateAuthority, Protocol):
    """One whose key other nodes may get, so that they sign, too."""

    def sign_etcd(self, hosts: Sequence[str], now_ns: int) -> tuple[bytes, bytes]:
        """A new key and a certificate (PEM) for this machine's etcd. hosts: names and addresses it is reached by.

        Raises: CertificateRefused when the authority itself has expired.
        """
        ...

    def export(self) -> bytes:
        """The key itself (PEM, in the clear)."""
        ...


class KeyRing(Protocol):
    """The authority's key, as far as this node has it."""

    @property
    def authority(self) -> SharedAuthority | None:
        """None where others have the key."""
        ...

    def take(self, key: bytes, certificate: bytes) -> None:
        """Keep what another node shares (PEM). Syncs files: call it in a thread.

        Raises: StoreError if they do not belong together, or are not of this cluster; DiskFull, StoreReadOnly.
        """
        ...


class MeshRole(Enum):
    """A router carries others' messages; a client hangs on one router."""

    ROUTER = "router"
    CLIENT = "client"


class MeshConfig(Struct, frozen=True, kw_only=True):
    """How a node takes part. listen: host:port of a router.  connect: routers' host:port, tried in order.

    denied: node ids whose messages are dropped.  keys: papers for mTLS.  lease_ms: a silent peer counts as gone
    after it.  multicast: also scout for routers on the LAN, and be found by scouts.
    """

    keys: NodeKeys
    role: MeshRole
    listen: str
    connect: tuple[str, ...] = ()
    denied: frozenset[str] = frozenset()
    lease_ms: int = 4_000
    multicast: bool = True


class MeshEvent(Struct, frozen=True):
    """alive: True if a node appeared, False if it vanished, None for a message. data: of a message, else empty.

    node_id: "" where messages were dropped, since they came faster than they were read: ask for all anew. A node that
    can't hear the others any more sees all vanish, itself too.
    """

    node_id: str
    alive: bool | None = None
    data: bytes = b""


class Mesh(Protocol):
    """Soft state: who is there, and what each says of itself. Advisory: any member can say anything."""

    async def open(self, config: MeshConfig) -> None:
        """Take part, or take part otherwise from now on (another role, other papers): events go on.

        Raises: PeerUnavailable if it can't listen there; a client without a reachable router goes on trying.
        """
        ...

    async def publish(self, data: bytes) -> None:
        """Tell all others something of this node. Lost if nobody listens."""
        ...

    def answer(self, whole: Callable[[], bytes]) -> None:
        """What to answer to who asks for all that this node says of itself. Called in the event loop."""
        ...

    async def ask(self, node_id: str = "", *, timeout_ms: float = 2_000.0) -> dict[str, bytes]:
        """Those answers, by node id; of one node or of all that can be reached. Late ones are missing."""
        ...

    async def alive(self, *, timeout_ms: float = 2_000.0) -> frozenset[str]:
        """Ids of the nodes that are there now, asked for anew; this one included if it is heard."""
        ...

    def events(self) -> AsyncGenerator[MeshEvent, None]:
        """What happens from now on, in order, across open()s; one reader. Ends with close()."""
        ...

    async def close(self) -> None:
        """Leave: the others are told at once. Idempotent."""
        ...


class ScoutedNode(Struct, frozen=True):
    """A node that answered a scout. addresses: host:port of its peer listener, as far as can be told."""

    addresses: tuple[str, ...]


class Scout(Protocol):
    """Looks for clusters on the LAN."""

    async def scout(self, timeout_ms: float) -> list[ScoutedNode]:
        """Who answers within that time."""
        ...
