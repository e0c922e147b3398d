"""etcd in memory: programs that start at once, members that all share one store, and what goes wrong with them."""

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from ollamamax.core.errors import Conflict, StateUnavailable, Unsupported
from ollamamax.core.types import (
    EtcdAccess,
    EtcdAlarm,
    EtcdMember,
    EtcdProgram,
    EtcdSpec,
    EtcdStatus,
    Seat,
)
from ollamamax.ports import Clock
from ollamamax.testing.state import MemoryState


class MemoryEtcdState(MemoryState):
    """An EtcdStore. close() is one user's, so it does nothing here."""

    async def begin(self, after_revision: int) -> int:
        """All keys go, and revisions go on from there."""
        self._look()
        self._entries, self._history = {}, []
        self._revision = self._compacted = max(self._revision, after_revision) + 1
        self._wake()
        return self._revision

    async def check(self) -> int:
        """The revision now."""
        self._look()
        return self._revision

    async def close(self) -> None:
        """The others go on."""


class MemoryChild:
    """An EtcdProcess that runs until it is stopped."""

    def __init__(self, world: "MemoryEtcds", spec: EtcdSpec) -> None:
        self.spec = spec
        self.trouble = ""
        self.restarts = 0
        self._world = world

    async def ready(self, timeout_ms: float) -> EtcdStatus:
        """Raises: StateUnavailable if a test says so."""
        if self.spec.name in self._world.unready:
            raise StateUnavailable("etcd on this node was not ready")
        return self._world.status(self.spec.name)

    async def stop(self) -> None:
        """It runs no more."""
        self.trouble = "etcd was stopped"
        self._world.running.pop((self.spec.name, self.spec.token), None)


class MemoryMembers:
    """EtcdMembers of one world."""

    def __init__(self, world: "MemoryEtcds") -> None:
        self._world = world

    async def members(self) -> tuple[EtcdMember, ...]:
        """All that were founded or let in."""
        return tuple(self._world.listed.values())

    async def add_learner(self, peer_addresses: tuple[str, ...]) -> EtcdMember:
        """Raises: Conflict if its address is a member's."""
        if any(set(peer_addresses) & set(one.peer_addresses) for one in self._world.listed.values()):
            raise Conflict("a member is at that address already")
        return self._world.let_in("", peer_addresses, is_learner=True)

    async def promote(self, member_id: int) -> None:
        """It votes."""
        self._world.listed[member_id] = replace(self._world.listed[member_id], is_learner=False)

    async def remove(self, member_id: int) -> None:
        """It is none any more."""
        self._world.listed.pop(member_id, None)

    async def update(self, member_id: int, peer_addresses: tuple[str, ...]) -> None:
        """It is elsewhere."""
        self._world.listed[member_id] = replace(self._world.listed[member_id], peer_addresses=peer_addresses)

    async def status(self) -> EtcdStatus:
        """Of any."""
        return self._world.status("")

    async def move_leader(self, member_id: int) -> None:
        """Nobody minds."""

    async def alarms(self) -> tuple[EtcdAlarm, ...]:
        """What a test set."""
        return tuple(self._world.alarms)

    async def disarm(self) -> None:
        """They are over."""
        self._world.done.append("disarm")
        self._world.alarms.clear()

    async def compact(self, keep_revisions: int) -> None:
        """Noted."""
        self._world.done.append("compact")

    async def defragment(self) -> None:
        """Noted."""
        self._world.done.append("defragment")

    async def close(self) -> None:
        """Nothing is open."""


class MemoryEtcds:
    """All etcds of a test's cluster. missing: names of nodes without the program.  unready: whose never gets ready.

    running: children by name and token.  done: what was done to the members.  db_bytes, db_used_bytes: of every file.
    """

    def __init__(self, clock: Clock) -> None:
        self.store = MemoryEtcdState(clock, heartbeat_ms=50.0)
        self.running: dict[tuple[str, str], MemoryChild] = {}
        self.listed: dict[int, EtcdMember] = {}
        self.founded: set[tuple[str, str]] = set()
        self.missing: set[str] = set()
        self.unready: set[str] = set()
        self.alarms: list[EtcdAlarm] = []
        self.done: list[str] = []
        self.db_bytes = self.db_used_bytes = 1 << 20

    def of(self, name: str) -> "MemoryEtcd":
        """A node's."""
        return MemoryEtcd(self, name)

    def let_in(self, name: str, addresses: tuple[str, ...], is_learner: bool = False) -> EtcdMember:
        """One more member."""
        member_id = max(self.listed, default=0) + 1
        self.listed[member_id] = EtcdMember(
            member_id=member_id, name=name, peer_addresses=addresses, is_learner=is_learner
        )
        return self.listed[member_id]

    def status(self, name: str) -> EtcdStatus:
        """As if the first member led."""
        own = next((one.member_id for one in self.listed.values() if one.name == name), 1)
        return EtcdStatus(
            member_id=own,
            version="3.5.9",
            leader_id=1,
            revision=1,
            raft_term=1,
            raft_index=1,
            db_bytes=self.db_bytes,
            db_used_bytes=self.db_used_bytes,
        )


class MemoryEtcd:
    """An Etcd: one node's."""

    def __init__(self, world: MemoryEtcds, name: str) -> None:
        self._world = world
        self._name = name

    async def program(self) -> EtcdProgram:
        """Raises: Unsupported where a test has none."""
        if self._name in self._world.missing:
            raise Unsupported("etcd was not found on this machine")
        return EtcdProgram("/bin/etcd", "3.5.9")

    async def start(self, spec: EtcdSpec) -> MemoryChild:
        """Raises: Unsupported."""
        await self.program()
        child = MemoryChild(self._world, spec)
        self._world.running[(spec.name, spec.token)] = child
        by_address = [one for one in self._world.listed.values() if set(one.peer_addresses) & set(spec.peer_addresses)]
        if by_address:
            self._world.listed[by_address[0].member_id] = replace(by_address[0], name=spec.name)
        elif not spec.is_joining and (spec.name, spec.token) not in self._world.founded:
            self._world.founded.add((spec.name, spec.token))
            self._world.let_in(spec.name, spec.peer_addresses)
        return child

    async def members(self, access: EtcdAccess) -> MemoryMembers:
        """The same for all."""
        return MemoryMembers(self._world)

    async def store(self, access: EtcdAccess, cluster_id: str) -> MemoryEtcdState:
        """The same for all."""
        return self._world.store


class MemorySeats:
    """EtcdSeats that outlive the services of a test's node."""

    def __init__(self) -> None:
        self.kept: dict[int, Seat] = {}
        self.certified: list[int] = []
        self.free = 100 << 30

    async def all(self) -> Mapping[int, Seat]:
        """What is kept."""
        return self.kept

    async def keep(self, generation: int, seat: Seat) -> None:
        """Kept."""
        self.kept = {**self.kept, generation: seat}

    async def remove(self, generation: int) -> None:
        """Gone."""
        self.kept = {one: seat for one, seat in self.kept.items() if one != generation}
        self.certified = [one for one in self.certified if one != generation]

    async def certify(self, generation: int, ca: bytes, now_ns: int, issue: Callable[[], tuple[bytes, bytes]]) -> bool:
        """Once."""
        if generation in self.certified:
            return False
        issue()
        self.certified.append(generation)
        return True

    def access(self, generation: int, endpoint: str) -> EtcdAccess:
        """Without papers."""
        return EtcdAccess(endpoints=(endpoint,))

    def spec(self, generation: int, seat: Seat, spec: EtcdSpec) -> EtcdSpec:
        """With a directory of its own."""
        return replace(spec, data_dir=f"/{generation}")

    async def free_bytes(self) -> int:
        """What a test set."""
        return self.free
