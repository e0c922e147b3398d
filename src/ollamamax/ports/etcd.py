"""etcd as the home of the state: run as a child of this node, looked after, and reached as a StateStore."""

from collections.abc import Callable, Mapping
from typing import Protocol

from ollamamax.core.types import EtcdAccess, EtcdAlarm, EtcdMember, EtcdProgram, EtcdSpec, EtcdStatus, Seat
from ollamamax.ports.state import StateStore


class EtcdStore(StateStore, Protocol):
    """A StateStore whose keys lie in an etcd below a prefix. It reaches etcd when it is asked, not before."""

    async def begin(self, after_revision: int) -> int:
        """Remove all keys below the prefix, and count on from there: every later revision is > `after_revision`.

        At once and whole; may be repeated. For a new home, before anything is copied into it.
        Returns: the revision now. Raises: CertificateRefused, StateUnavailable, StateError, DiskFull.
        """
        ...

    async def check(self) -> int:
        """Ask etcd's majority once; the revision now. Raises: CertificateRefused, StateUnavailable, StateError."""
        ...


class EtcdProcess(Protocol):
    """A member of etcd that runs as a child of this node, and is started again when it ends by itself."""

    @property
    def trouble(self) -> str:
        """Why it does not run now, for people; "" while it runs."""
        ...

    @property
    def restarts(self) -> int:
        """How often it ended by itself and was started again."""
        ...

    async def ready(self, timeout_ms: float) -> EtcdStatus:
        """Returns once it knows a leader. Raises: StateUnavailable after timeout_ms, with what its log tells."""
        ...

    async def stop(self) -> None:
        """End it, gracefully if it lets us within some seconds; no restart. Idempotent."""
        ...


class EtcdMembers(Protocol):
    """Looks after the members, by way of the endpoints that it was made for.

    All methods may raise StateUnavailable (nobody answered, or no majority), CertificateRefused, StateError.
    """

    async def members(self) -> tuple[EtcdMember, ...]:
        """All members, learners too."""
        ...

    async def add_learner(self, peer_addresses: tuple[str, ...]) -> EtcdMember:
        """Let a new one in, without a vote, before it is started. Raises: Conflict if its address is a member's."""
        ...

    async def promote(self, member_id: int) -> None:
        """Give a learner its vote. Raises: StateUnavailable while it has not caught up yet; NotFound."""
        ...

    async def remove(self, member_id: int) -> None:
        """Let one go; its process ends. Nothing happens if it is none."""
        ...

    async def update(self, member_id: int, peer_addresses: tuple[str, ...]) -> None:
        """It is reached elsewhere from now on. Raises: NotFound."""
        ...

    async def status(self) -> EtcdStatus:
        """Of the member that answers first."""
        ...

    async def move_leader(self, member_id: int) -> None:
        """Make a voter the leader; the endpoint has to be the present leader's. Raises: StateError if it is not."""
        ...

    async def alarms(self) -> tuple[EtcdAlarm, ...]:
        """Members that refuse work."""
        ...

    async def disarm(self) -> None:
        """End all NOSPACE alarms: after room was made by compact() and defragment()."""
        ...

    async def compact(self, keep_revisions: int) -> None:
        """Forget history, save for so many revisions."""
        ...

    async def defragment(self) -> None:
        """Give unused pages of the answering member's file back; it answers nobody meanwhile (seconds)."""
        ...

    async def close(self) -> None:
        """Let go of connections. Idempotent."""
        ...


class Etcd(Protocol):
    """All that a node can do with etcd."""

    async def program(self) -> EtcdProgram:
        """The one on this machine. Raises: Unsupported if there is none, or a refused version; it says what to do."""
        ...

    async def start(self, spec: EtcdSpec) -> EtcdProcess:
        """Run a member; returns once it was started, not once it is ready. Raises: Unsupported, StoreError."""
        ...

    async def members(self, access: EtcdAccess) -> EtcdMembers:
        """To look after it."""
        ...

    async def store(self, access: EtcdAccess, cluster_id: str) -> EtcdStore:
        """The state of a cluster, kept there."""
        ...


class EtcdSeats(Protocol):
    """What this node keeps on disk for its members of etcd, by the generation of the home that each began with.

    All methods may raise DiskFull, StoreReadOnly, StoreError.
    """

    async def all(self) -> Mapping[int, Seat]:
        """What keep() got last, of each."""
        ...

    async def keep(self, generation: int, seat: Seat) -> None:
        """Remember it, durably. Data of an earlier member that was never remembered are removed."""
        ...

    async def remove(self, generation: int) -> None:
        """Forget it, its data and its papers. Idempotent."""
        ...

    async def certify(self, generation: int, ca: bytes, now_ns: int, issue: Callable[[], tuple[bytes, bytes]]) -> bool:
        """Have papers: anew (key and certificate from `issue`) if there are none, or half of their life is over.

        Returns: whether they are new ones. Raises: what `issue` raises.
        """
        ...

    def access(self, generation: int, endpoint: str) -> EtcdAccess:
        """How its own member is reached."""
        ...

    def spec(self, generation: int, seat: Seat, spec: EtcdSpec) -> EtcdSpec:
        """The same with this generation's directory and papers. Raises: StoreError if its data are gone."""
        ...

    async def free_bytes(self) -> int:
        """What the disk has room for."""
        ...
