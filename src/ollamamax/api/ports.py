"""What the API needs of the services, as Protocols, and how it is configured."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from ollamamax.core.dialects.framing import Stamp
from ollamamax.core.errors import OllamaMaxError
from ollamamax.core.types import (
    AttachedEngine,
    ChatRequest,
    ClusterEvent,
    ClusterSettings,
    ClusterStatus,
    CreateRequest,
    EmbedRequest,
    EmbedResult,
    FoundCluster,
    HomeView,
    Joined,
    LoadedModel,
    ModelRecord,
    NewToken,
    NodeSettings,
    NodeView,
    Options,
    PlacementPlan,
    PlacementView,
    PlacementWish,
    Progress,
    RequestContext,
    SettingDifference,
    SettingsChange,
    TokenView,
    TransferRequest,
)
from ollamamax.ports import ChunkStream, Clock, Dice, Meter, TokenVerifier
from ollamamax.services.patrol import Patrol


class Gateway(Protocol):
    """Admission, routing and dispatch. Writes one Outcome for each request that it is given."""

    def authorize(self, context: RequestContext, action: str, subject: str) -> None:
        """action: a value of core/access/roles.py. Raises: Forbidden."""
        ...

    def chat(self, context: RequestContext, request: ChatRequest) -> ChunkStream:
        """Answer; authorizes "infer" itself."""
        ...

    async def embed(self, context: RequestContext, request: EmbedRequest) -> EmbedResult:
        """Embed; authorizes "infer" itself."""
        ...

    def load(self) -> tuple[int, int]:
        """Requests waiting for admission, and admitted."""
        ...

    def explain(self, model: str) -> Any:
        """Where a request for the model would go now, and why: data that msgspec can encode. Raises: ModelNotFound."""
        ...


class Library(Protocol):
    """The models of this node's store."""

    async def show(
        self, model: str, verbose: bool = False, system: str | None = None, options: Options | None = None
    ) -> dict[str, Any]:
        """Raises: InvalidName, ModelNotFound, StoreError."""
        ...

    def create(self, request: CreateRequest) -> AsyncGenerator[Progress, None]:
        """Steps of the work, the last one "success"."""
        ...

    def pull(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        """From a registry; the last step is "success"."""
        ...

    def push(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        """Into a registry; the last step is "success"."""
        ...

    async def copy(self, source: str, destination: str) -> None:
        """Raises: InvalidName, ModelNotFound, StoreError."""
        ...

    async def delete(self, model: str) -> None:
        """Raises: InvalidName, ModelNotFound, StoreError."""
        ...

    async def has_blob(self, digest: str) -> bool:
        """Whether a whole blob of that digest is here."""
        ...

    async def put_blob(self, digest: str, body: AsyncIterator[bytes]) -> bool:
        """Store it; False if it was here already. Raises: DigestMismatch, StoreError."""
        ...


class Fleet(Protocol):
    """All engines: those of this node and the attached ones."""

    async def records(self) -> Sequence[ModelRecord]:
        """All models that can be asked for."""
        ...

    async def running(self) -> Sequence[LoadedModel]:
        """All models in memory."""
        ...

    async def describe(self, model: str) -> dict[str, Any] | None:
        """What /api/show says of a model that only attached engines have; None if none has it."""
        ...

    async def local_changed(self) -> None:
        """The store's models have changed."""
        ...

    async def add(self, engine: AttachedEngine) -> None:
        """Attach. Raises: BadRequest, Conflict, StoreError."""
        ...

    async def remove(self, name: str) -> None:
        """Detach. Raises: EngineNotFound, StoreError."""
        ...

    def statuses(self) -> Sequence[Any]:
        """Facts of each engine, without its key: data that msgspec can encode."""
        ...


class Cluster(Protocol):
    """The nodes, as this one sees them. What is not async never blocks and answers also while the state is away.

    Writes raise StateUnavailable while the holder can't be reached; what one did shows in the next read.
    node: a name or an id.
    """

    def nodes(self) -> Sequence[NodeView]:
        """All members in the order of joining, those that are gone included."""
        ...

    def node(self, node: str) -> NodeView:
        """One of them. Raises: NodeNotFound."""
        ...

    def status(self) -> ClusterStatus:
        """The whole."""
        ...

    async def remove(self, node: str) -> None:
        """Revoke it: refused everywhere from now on. Raises: NodeNotFound, Conflict (it holds the state)."""
        ...

    async def cordon(self, node: str, cordoned: bool) -> None:
        """Keep new requests away from it, or no longer. Raises: NodeNotFound."""
        ...

    async def drain(self, node: str, timeout_ms: int, on_timeout: str) -> None:
        """Empty it. timeout_ms: 0 = as long as it takes.  on_timeout: "stop" or "keep" answers that are left then.

        Raises: NodeNotFound, BadRequest, Conflict while a member's program is too old.
        """
        ...

    async def undrain(self, node: str) -> None:
        """It takes work again. Raises: NodeNotFound."""
        ...

    async def label(self, node: str, put: Mapping[str, str], drop: Sequence[str]) -> None:
        """Set and remove labels; one that is not there is dropped all the same. Raises: NodeNotFound, BadRequest."""
        ...

    async def create_token(self, ttl_ms: int, uses: int) -> NewToken:
        """Let `uses` nodes join within `ttl_ms`."""
        ...

    def tokens(self) -> Sequence[TokenView]:
        """Those that were not revoked, also expired and used ones, oldest first."""
        ...

    async def revoke_token(self, token_id: str) -> None:
        """Nobody joins by it any more. Raises: NotFound."""
        ...

    async def join(self, token: str, name: str, force: bool) -> Joined:
        """Leave the cluster of one that this node is, and become a member of the token's. name: "" = as it is called.

        force: also if this node's cluster has other members or models of its own catalog, which it then leaves.
        Raises: TokenRefused, CertificateRefused (it is not whom the token means), NodeConflict (the name is taken),
        Conflict, PeerError.
        """
        ...

    def recent_events(self) -> Sequence[ClusterEvent]:
        """What this node remembers of what happened, oldest first; a bounded number. at_ns rises strictly."""
        ...

    def events(self, after_ns: int) -> AsyncGenerator[ClusterEvent, None]:
        """The remembered ones after `after_ns`, then each as it happens. Ends when the node begins to stop."""
        ...

    async def discover(self, timeout_ms: int) -> Sequence[FoundCluster]:
        """Clusters on the LAN that answer within that time."""
        ...


class Placements(Protocol):
    """Which models run where. model: a name as people write it. Writes raise StateUnavailable, too."""

    def all(self) -> Sequence[PlacementView]:
        """By name."""
        ...

    def one(self, model: str) -> PlacementView:
        """Raises: NotFound."""
        ...

    def explained(self, model: str) -> PlacementPlan:
        """Why it runs where it does. Raises: NotFound, StateUnavailable."""
        ...

    def explain(self, model: str, wish: PlacementWish) -> PlacementPlan:
        """What would be decided; changes nothing.

        Raises: InvalidName, ModelNotFound, NodeNotFound, BadRequest, StateUnavailable.
        """
        ...

    async def place(self, model: str, wish: PlacementWish) -> PlacementView:
        """Raises: InvalidName, ModelNotFound, NodeNotFound, BadRequest, Conflict."""
        ...

    async def remove(self, model: str) -> None:
        """Nobody asks any more that it runs. Raises: NotFound."""
        ...

    def spread(self, model: str, nodes: str) -> AsyncGenerator[Progress, None]:
        """Have its files on these nodes: "all", how many, or labels. Steps by node, the last one "success".

        Raises: InvalidName, ModelNotFound, BadRequest, Conflict, PeerError.
        """
        ...


class OwnSettings(Protocol):
    """This node's settings."""

    def shown(self) -> NodeSettings:
        """All of them, as they hold now."""
        ...


class SharedSettings(Protocol):
    """The settings that the cluster shares. node: a name or an id.  by: who asks, for people.

    Writes raise BadRequest for what is no such setting or no such value, and StateUnavailable.
    """

    async def shown(self, node: str) -> NodeSettings:
        """A node's. Raises: NodeNotFound, PeerError."""
        ...

    async def change(self, put: Mapping[str, str], drop: Sequence[str], node: str, by: str) -> SettingsChange:
        """Set and unset; node: the only one that it is for, "" = all. Waits a few seconds for who is there.

        Raises: NodeNotFound, Conflict while a member's program is too old.
        """
        ...

    async def rollback(self, version: int, by: str) -> SettingsChange:
        """As they were in that version; 0 = before anything was set. Raises: NotFound, Conflict."""
        ...

    def history(self) -> Sequence[ClusterSettings]:
        """The versions that are kept, oldest first."""
        ...

    def difference(self, before: int | None, after: int | None) -> tuple[int, int, Sequence[SettingDifference]]:
        """Between two versions, and which these are. after: None = the newest.  before: None = the one before that.

        Raises: NotFound.
        """
        ...


class StateHa(Protocol):
    """The cluster's state on several nodes. What changes something tells its steps, the last one "success", and goes on
    when nobody listens any more. All of it raises StateUnavailable while the state can't be reached.
    """

    def enable(self, voters: int, nodes: Sequence[str], external: bool) -> AsyncGenerator[Progress, None]:
        """Spread it. Raises: BadRequest, NodeNotFound, Conflict (who can't hold it, and why)."""
        ...

    def disable(self, node: str) -> AsyncGenerator[Progress, None]:
        """Back to one of those that hold it; "" = the one that is asked. Raises: NodeNotFound, Conflict."""
        ...

    def replace(self, old: str, new: str) -> AsyncGenerator[Progress, None]:
        """Another node instead of one; new: "" = one that is there, "-" = nobody. Raises: NodeNotFound, Conflict."""
        ...

    async def status(self) -> HomeView:
        """Where it lives, and how those are that hold it; answers also while the state is away."""
        ...

    async def backup(self) -> bytes:
        """The whole of it, as a file."""
        ...


class Readiness(Protocol):
    """Whether this node wants requests."""

    async def reasons(self) -> Sequence[str]:
        """Why not: starting, draining, the store can't be used. Empty = ready."""
        ...


class Abortable(Protocol):
    """An answer that is being sent."""

    def abort(self, reason: OllamaMaxError) -> None:
        """End it with that error."""
        ...


class ApiConfig(Struct, frozen=True, kw_only=True):
    """How the listener behaves.

    max_body_bytes: of JSON bodies; blobs have no limit.  body_timeout_ms: for a JSON body to arrive whole, and for
    the next piece of a blob.  stall_timeout_ms: a client that reads nothing for as long counts as gone.
    origins: allowed ones besides the local ones, at most one `*` in each.  loopback: bound to a loopback address,
    so that Host is checked.  local_hosts: this machine's names and interface addresses, allowed as Host.
    """

    max_body_bytes: int = 64 << 20
    body_timeout_ms: int = 30_000
    stall_timeout_ms: int = 120_000
    origins: tuple[str, ...] = ()
    loopback: bool = True
    local_hosts: frozenset[str] = frozenset()


class Services(Struct, frozen=True, kw_only=True):
    """All that handlers work with.

    cluster, placements, shared, ha: None where the node stays alone.  started_ms: monotonic, when the node began.
    live: answers that are being sent; mutated by those who send them.  patrol: looks after the deadlines of all calls.
    """

    gateway: Gateway
    library: Library
    fleet: Fleet
    meter: Meter
    clock: Clock
    dice: Dice
    verifier: TokenVerifier
    readiness: Readiness
    cluster: Cluster | None
    placements: Placements | None
    version: str
    config: ApiConfig
    settings: OwnSettings
    shared: SharedSettings | None
    stamp: Stamp
    started_ms: float
    live: set[Abortable]
    patrol: Patrol
    ha: StateHa | None = None
