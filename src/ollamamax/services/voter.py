"""Makes this node's part in holding the state true: its own store open, its member of etcd running, or neither.

What is to be comes from the catalog (`state/home`), from who prepares a move, and from the disk: a home that is newer
than what the replica remembers. It works before the replica has reached anything: the replica reads through it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

import structlog
from msgspec import Struct
from msgspec.structs import replace

from ollamamax.core.catalog import grammar, records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.records import HOME_KEY
from ollamamax.core.errors import Conflict, OllamaMaxError, StateUnavailable
from ollamamax.core.types import (
    EtcdAccess,
    EtcdSpec,
    MemberReport,
    NodeRecord,
    Seat,
    StateEntry,
    StateHome,
)
from ollamamax.ports import Clock, Etcd, EtcdMembers, EtcdProcess, EtcdSeats, EtcdStore, KeyRing, OwnStates, StateStore
from ollamamax.services.state_gate import Gate
from ollamamax.services.state_home import HomeState

_LOG: Final = structlog.get_logger(__name__)
RAFT_OFFSET: Final = 2
CLIENT_OFFSET: Final = 3
"""Of etcd's ports, from the peer listener's; the next one is the mesh's."""
_PREPARED_MS: Final = 600_000.0
_TICK_S: Final = 30.0
_RETRY_S: Final = 3.0
_READY_MS: Final = 60_000.0
_ASK_MS: Final = 2_000.0


class Place(Struct, frozen=True, kw_only=True):
    """Where this node is. listen: address that its etcd listens on for others.  port: of its peer listener.

    addresses: host:port of its peer listener, best first.  external: how an etcd of others is reached; None = not.
    etcd_name: the common name that members' certificates have.
    """

    node_id: str
    cluster_id: str
    listen: str
    port: int
    addresses: Callable[[], tuple[str, ...]]
    etcd_name: str
    external: EtcdAccess | None = None


class Voter:
    """open() first of all, run() in a task, close() in the end.

    catalog: as this node knows it now.  ask: what another node's own store says under a key.
    """

    def __init__(
        self,
        place: Place,
        etcd: Etcd,
        seats: EtcdSeats,
        own: OwnStates,
        state: HomeState,
        keys: KeyRing,
        catalog: Callable[[], Catalog],
        ask: Callable[[NodeRecord, str], Awaitable[StateEntry | None]],
        clock: Clock,
    ) -> None:
        self.place = place
        self._etcd = etcd
        self._seats = seats
        self._own = own
        self._state = state
        self._keys = keys
        self._catalog = catalog
        self._ask = ask
        self._clock = clock
        self._known: dict[int, Seat] = {}
        self._running: dict[int, EtcdProcess] = {}
        self._prepared: dict[int, float] = {}
        self._forgotten: set[int] = set()
        """Members that ran before this start, for a home that is newer than what is known of."""
        self._claims: dict[int, NodeRecord] = {}
        self._told = StateHome()
        self._attached: tuple[str, int] | None = None
        self._troubles: dict[str, str] = {}
        self._turn = asyncio.Lock()
        self._news = asyncio.Event()

    # --- its life ---------------------------------------------------------------------------------------------------

    async def open(self, seen: StateHome, founds: bool) -> None:
        """Before the state is asked for. seen: the home as of the last known state, one without hosts = none is known.

        founds: this node holds the state unless it is known to live elsewhere.
        Raises: StoreError, StateError.
        """
        self._known = dict(await self._seats.all())
        store, told = await self._own.find(make=founds and (not seen.hosts or self._is_mine(seen, "sqlite")))
        self._told = max(seen, told, key=lambda home: home.generation)
        if store is not None and self._told.kind != "sqlite" and self._told.generation > told.generation:
            await store.close()  # it was restored from a copy, or moved on without hearing of it
        elif store is not None:
            await self._use(("sqlite", 0), store)
        for generation, seat in self._known.items():
            if seat.was_started and generation > self._told.generation:
                self._forgotten.add(generation)
        await self.step()

    async def run(self) -> None:
        """Keep it true, until cancelled. Without etcd it only wakes when something has changed."""
        while True:
            news = self._news
            await self.step()
            pause_s = None
            if self._running or self._troubles or self._claims:
                pause_s = _RETRY_S if self._troubles or self._claims or self._forgotten else _TICK_S
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await news.wait()

    async def close(self) -> None:
        """End what runs. Idempotent."""
        async with self._turn:
            await asyncio.gather(*(process.stop() for process in self._running.values()))
            self._running.clear()

    def wake(self) -> None:
        """The catalog has changed."""
        self._news.set()
        self._news = asyncio.Event()

    def learn(self, home: StateHome) -> None:
        """The state lives there now: this node has seen to it."""
        if home.generation > self.home.generation:
            self._told = home
        self.wake()

    def heard(self, record: NodeRecord, generation: int) -> None:
        """A node tells that it hosts a newer home: it is asked itself before that counts."""
        if generation > self.home.generation and generation not in self._claims:
            self._claims[generation] = record
            self.wake()

    # --- what others ask of it --------------------------------------------------------------------------------------

    @property
    def home(self) -> StateHome:
        """The newest that is known."""
        home = self._catalog().home
        return self._told if self._told.generation > home.generation else home

    @property
    def generation(self) -> int:
        """Of the home that this node hosts now; 0 = none, or the first one."""
        return self.home.generation if self._attached is not None else 0

    @property
    def trouble(self) -> str:
        """What keeps it from its part; "" = nothing."""
        return "; ".join(self._troubles.values())

    @property
    def client(self) -> str:
        """host:port of its own etcd for clients."""
        return f"127.0.0.1:{self.place.port + CLIENT_OFFSET}"

    def raft_addresses(self, taken: frozenset[str] = frozenset()) -> tuple[str, ...]:
        """Where other members reach this one's. taken: addresses that others have, too (of inner bridges, say)."""
        return tuple(one for one in map(raft_address, self.place.addresses()) if one not in taken)

    async def prepare(self, generation: int, seat: Seat, key: bytes, ca: bytes) -> None:
        """Run a new member for a home that is to be; what is not confirmed within ten minutes goes again.

        Raises: Conflict if it can't be started, StoreError.
        """
        await asyncio.to_thread(self._keys.take, key, ca)
        async with self._turn:
            if self._current(self.home) == generation and self._is_mine(self.home, "etcd"):
                raise Conflict("this node's etcd holds the cluster's state already")
            self._prepared.clear()
            self._forgotten.clear()
            for former in {generation, *self._running} - self._wanted():  # they use the same ports
                await self._drop(former)
            await self._drop(generation)
            await self._seats.keep(generation, seat)
            self._known[generation] = seat
            self._prepared[generation] = self._clock.now_ms() + _PREPARED_MS
            await self._start(generation)
        if self.trouble:
            raise Conflict(self.trouble)

    async def ready(self, generation: int) -> None:
        """Returns once that member knows a leader. Raises: StateUnavailable."""
        process = self._running.get(generation)
        if process is None:
            raise StateUnavailable(self.trouble or "this node runs no etcd for that")
        await process.ready(_READY_MS)
        seat = replace(self._known[generation], was_started=True)
        await self._seats.keep(generation, seat)
        self._known[generation] = seat

    async def cancel(self, generation: int) -> None:
        """What was prepared is not needed."""
        async with self._turn:
            if self._prepared.pop(generation, None) is not None and generation not in self._wanted():
                await self._drop(generation)

    async def report(self) -> MemberReport:
        """How its own member is."""
        generation = self._current(self.home)
        process = self._running.get(generation) if generation is not None else None
        if generation is None or process is None:
            return MemberReport(trouble=self.trouble or "no etcd runs here")
        trouble = process.trouble or self.trouble
        try:
            members = await self._etcd.members(self._seats.access(generation, self.client))
            try:
                async with asyncio.timeout(_ASK_MS / 1000.0):
                    status = await members.status()
            finally:
                await members.close()
        except TimeoutError:
            return MemberReport(restarts=process.restarts, trouble=trouble or "its etcd does not answer")
        except OllamaMaxError as error:
            return MemberReport(restarts=process.restarts, trouble=trouble or str(error))
        return MemberReport(status=status, restarts=process.restarts, trouble=trouble)

    async def store(self, home: StateHome) -> EtcdStore:
        """That home's, past all gates. Raises: StateUnavailable if this node has no part in it."""
        return await self._etcd.store(self._access(home), self.place.cluster_id)

    @property
    def runs_etcd(self) -> bool:
        """Whether a member runs here now."""
        return bool(self._running)

    async def external_store(self) -> EtcdStore:
        """The etcd of the settings. Raises: StateUnavailable if they name none."""
        return await self.store(StateHome(kind="external"))

    def has(self, home: StateHome) -> bool:
        """Whether a member was ever prepared here for a home that is to be."""
        return home.generation in self._known

    async def members(self) -> EtcdMembers:
        """To look after the members of the present home. Raises: StateUnavailable."""
        return await self._etcd.members(self._access(self.home))

    @property
    def seat(self) -> Seat | None:
        """Of the present home's member."""
        generation = self._current(self.home)
        return self._known.get(generation) if generation is not None else None

    @property
    def seat_generation(self) -> int:
        """The generation that the present home's members began with; 0 = none here."""
        return self._current(self.home) or 0

    # --- one look ---------------------------------------------------------------------------------------------------

    async def step(self) -> None:
        """Make true what can be made true now; what can't is a trouble."""
        async with self._turn:
            self._troubles.clear()
            await self._hear_claims()
            self._forget_prepared()
            for generation in sorted(self._wanted() - self._running.keys()):
                await self._start(generation)
            await self._peek()
            await self._attach()
            await self._clear_away()
            for generation in list(self._running):
                await self._look_after(generation)

    def _forget_prepared(self) -> None:
        """What has become the home, and what never did."""
        now_ms, home = self._clock.now_ms(), self.home
        confirmed = self._current(home) if self._is_mine(home, "etcd") else None
        for generation in [one for one, until_ms in self._prepared.items() if until_ms <= now_ms or one == confirmed]:
            del self._prepared[generation]
        self._forgotten = {one for one in self._forgotten if one > home.generation}

    def _wanted(self) -> set[int]:
        """Generations of the members that have to run."""
        home, wanted = self.home, {*self._prepared, *self._forgotten}
        if self._is_mine(home, "etcd") and (current := self._current(home)) is not None:
            wanted.add(current)
        target = home.target
        if target is not None and self._is_mine(target, "etcd"):
            wanted.add(target.generation)
        return wanted & self._known.keys()

    def _current(self, home: StateHome) -> int | None:
        """Which seat is the home's: moves that were undone raise the generation, but not the seat's."""
        if home.kind != "etcd":
            return None
        return max((one for one in self._known if one <= home.generation), default=None)

    def _is_mine(self, home: StateHome, kind: str) -> bool:
        return home.kind == kind and self.place.node_id in home.hosts

    async def _start(self, generation: int) -> None:
        seat, place = self._known[generation], self.place
        try:
            await self._certify(generation)
            spec = EtcdSpec(
                name=place.node_id,
                data_dir="",
                client_listen=self.client,
                peer_listen=f"{place.listen}:{place.port + RAFT_OFFSET}",
                peer_addresses=seat.members[place.node_id],
                members=seat.members,
                token=f"{place.cluster_id}-{generation}",
                is_joining=seat.is_joining,
                peer_name=place.etcd_name,
            )
            self._running[generation] = await self._etcd.start(self._seats.spec(generation, seat, spec))
            _LOG.info("etcd started", generation=generation, members=len(seat.members))
        except OllamaMaxError as error:
            self._trouble("start", f"etcd can't run here: {error}")

    async def _certify(self, generation: int) -> None:
        """Raises: StateUnavailable without the key, CertificateRefused, StoreError."""
        authority = self._keys.authority
        if authority is None:
            raise StateUnavailable("this node lacks the key of the cluster's authority")
        now_ns = self._clock.wall_ns()
        hosts = [grammar.split_address(address)[0].strip("[]") for address in self.place.addresses()]
        names = (*hosts, "127.0.0.1", "localhost")
        await self._seats.certify(generation, authority.certificate, now_ns, lambda: authority.sign_etcd(names, now_ns))

    async def _attach(self) -> None:
        """Have the store open that is the home, if that is here."""
        home = self.home
        wanted: tuple[str, int] | None = None
        if self.place.node_id in home.hosts:
            wanted = (home.kind, self._current(home) or 0)
        if wanted == self._attached or (not home.hosts and self._attached == ("sqlite", 0)):
            return
        try:
            if wanted is None:
                await self._state.move(None)
                self._attached = None
            elif wanted[0] == "sqlite":
                await self._state.move(None)
                self._attached = None
                store, _ = await self._own.find(make=False)
                if store is None:
                    raise StateUnavailable("the cluster's state should be on this node, but it is not")
                await self._use(wanted, store)
            else:
                await self._use(wanted, await self.store(home))
        except OllamaMaxError as error:
            self._trouble("store", str(error))

    async def _use(self, what: tuple[str, int], store: StateStore) -> None:
        me, kind = self.place.node_id, what[0]

        def is_home(home: StateHome | None) -> bool:
            return kind == "sqlite" if home is None else home.kind == kind and me in home.hosts

        await self._state.move(Gate(store, is_home))
        self._attached = what
        _LOG.info("the cluster's state is held here", kind=kind, generation=self.home.generation)

    async def _peek(self) -> None:
        """A member whose purpose was forgotten may hold the home: what was agreed last was not seen before a crash."""
        for generation in self._forgotten & self._running.keys():
            target = StateHome(kind="etcd", hosts=(self.place.node_id,), generation=generation)
            with suppress(OllamaMaxError, TimeoutError):
                store = await self.store(target)
                try:
                    async with asyncio.timeout(_ASK_MS / 1000.0):
                        self._believe(await store.get(HOME_KEY))
                finally:
                    await store.close()

    async def _hear_claims(self) -> None:
        for generation, record in list(self._claims.items()):
            with suppress(OllamaMaxError):
                self._believe(await self._ask(record, HOME_KEY), record.node_id)
            del self._claims[generation]

    def _believe(self, entry: StateEntry | None, host: str = "") -> None:
        """A newer home, steady and told by one of its hosts."""
        home = records.decode(HOME_KEY, entry.value) if entry is not None else None
        if not isinstance(home, StateHome) or home.phase != "steady" or (host or self.place.node_id) not in home.hosts:
            return
        self.learn(home)

    async def _clear_away(self) -> None:
        """Stop what is not wanted, and remove what no home needs any more."""
        home, wanted = self.home, self._wanted()
        for generation in [one for one in self._known if one not in wanted]:
            if home.phase == "steady" and generation <= home.generation:
                await self._drop(generation)
            elif (process := self._running.pop(generation, None)) is not None:
                await process.stop()

    async def _drop(self, generation: int) -> None:
        if (process := self._running.pop(generation, None)) is not None:
            await process.stop()
        self._known.pop(generation, None)
        try:
            await self._seats.remove(generation)
        except OllamaMaxError as error:
            self._trouble("remove", str(error))

    async def _look_after(self, generation: int) -> None:
        """Papers that last, and the address where this node is found."""
        seat = self._known[generation]
        try:
            await self._certify(generation)
            own = seat.members[self.place.node_id]
            others = frozenset(
                address for name, told in seat.members.items() if name != self.place.node_id for address in told
            )
            now = self.raft_addresses(others)
            if not seat.was_started or not now or set(now) & set(own) or generation != self._current(self.home):
                return
            members = await self.members()
            try:
                mine = [one for one in await members.members() if one.name == self.place.node_id]
                for member in mine:
                    await members.update(member.member_id, now)
            finally:
                await members.close()
            seat = replace(seat, members={**seat.members, self.place.node_id: now})
            await self._seats.keep(generation, seat)
            self._known[generation] = seat
        except OllamaMaxError as error:
            self._trouble("care", str(error))

    def _access(self, home: StateHome) -> EtcdAccess:
        """Raises: StateUnavailable."""
        if home.kind == "external" and self.place.external is not None:
            return self.place.external
        generation = self._current(home)
        if generation is None:
            raise StateUnavailable("this node has no etcd of its own for the cluster's state")
        return self._seats.access(generation, self.client)

    def _trouble(self, what: str, text: str) -> None:
        self._troubles[what] = text
        _LOG.warning("this node's part in holding the state", trouble=text)


def raft_address(address: str) -> str:
    """Where a node's etcd is found by others, from the address of its peer listener."""
    host, port = grammar.split_address(address)
    return grammar.address(host, port + RAFT_OFFSET)


def raft_addresses(nodes: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The same of several nodes, by id: only what is one node's alone, for inner bridges are alike everywhere."""
    told = [raft_address(address) for addresses in nodes.values() for address in addresses]
    return {
        node_id: tuple(one for one in map(raft_address, addresses) if told.count(one) == 1)
        for node_id, addresses in nodes.items()
    }
