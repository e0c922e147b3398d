"""Makes this node's part in holding the state true: its own store open, its member of etcd running, or neither.

What is to be comes from the catalog (`state/home`), from who prepares a move, and from the disk: a home that is newer
than what the replica remembers. It works before the replica has reached anything: the replica reads through it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog
from msgspec.structs import replace

from ollamamax.core.catalog import records
from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.records import HOME_KEY
from ollamamax.core.errors import Conflict, OllamaMaxError, StateError, StateUnavailable
from ollamamax.core.types import (
    EtcdAccess,
    MemberReport,
    NodeRecord,
    Seat,
    StateEntry,
    StateHome,
)
from ollamamax.ports import Clock, Etcd, EtcdMembers, EtcdSeats, EtcdStore, KeyRing, OwnStates, StateStore
from ollamamax.services.state_gate import Gate
from ollamamax.services.state_home import HomeState
from ollamamax.services.voter_members import OwnMembers, Place

_LOG: Final = structlog.get_logger(__name__)
_PREPARED_MS: Final = 600_000.0
_TICK_S: Final = 30.0
_RETRY_S: Final = 3.0
_ASK_MS: Final = 2_000.0


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
        self._own = own
        self._state = state
        self._keys = keys
        self._members = OwnMembers(place, etcd, seats, keys, clock)
        self._catalog = catalog
        self._ask = ask
        self._clock = clock
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
        await self._members.load()
        store, told = await self._find(seen, founds)
        self._told = max(seen, told, key=lambda home: home.generation)
        if store is not None and self._told.kind != "sqlite" and self._told.generation > told.generation:
            await store.close()  # it was restored from a copy, or moved on without hearing of it
        elif store is not None:
            await self._use(("sqlite", 0), store)
        for generation, seat in self._members.known.items():
            if seat.was_started and generation > self._told.generation:
                self._forgotten.add(generation)
        await self.step()

    async def _find(self, seen: StateHome, founds: bool) -> tuple[StateStore | None, StateHome]:
        """Raises: StoreError, StateError; not for a file that was left: then it is nobody's loss."""
        try:
            return await self._own.find(make=founds and (not seen.hosts or self._is_mine(seen, "sqlite")))
        except StateError as error:
            if not seen.hosts or seen.kind == "sqlite":
                raise
            _LOG.warning("a state that was left can't be read", reason=str(error))
            return None, StateHome()

    async def run(self) -> None:
        """Keep it true, until cancelled. Without etcd it only wakes when something has changed."""
        while True:
            news = self._news
            await self.step()
            pause_s = None
            if self._members.running or self._troubles or self._claims:
                pause_s = _RETRY_S if self._troubles or self._claims or self._forgotten else _TICK_S
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await news.wait()

    async def close(self) -> None:
        """End what runs. Idempotent."""
        async with self._turn:
            await self._members.close()

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

    def new_token(self) -> str:
        """For members that are founded: what is left of an earlier try has nothing to say to them."""
        return f"{self.place.cluster_id}-{self._clock.wall_ns():x}"

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
            for former in {generation, *self._members.running} - self._wanted():  # they use the same ports
                await self._drop(former)
            await self._drop(generation)
            await self._members.keep(generation, seat)
            self._prepared[generation] = self._clock.now_ms() + _PREPARED_MS
            self._troubles.pop("start", "")
            await self._start(generation)
            if "start" in self._troubles:
                raise Conflict(self._troubles["start"])

    async def ready(self, generation: int) -> None:
        """Returns once that member knows a leader. Raises: StateUnavailable, StoreError."""
        await self._members.ready(generation)

    async def cancel(self, generation: int) -> None:
        """What was prepared is not needed."""
        async with self._turn:
            if self._prepared.pop(generation, None) is not None and generation not in self._wanted():
                await self._drop(generation)

    async def report(self) -> MemberReport:
        """How its own member is."""
        told = await self._members.report(self.seat_generation)
        return replace(told, trouble=self.trouble or told.trouble)

    async def store(self, home: StateHome) -> EtcdStore:
        """That home's, past all gates. Raises: StateUnavailable if this node has no part in it."""
        return await self._etcd.store(self._access(home), self.place.cluster_id)

    @property
    def runs_etcd(self) -> bool:
        """Whether a member runs here now."""
        return bool(self._members.running)

    async def external_store(self) -> EtcdStore:
        """The etcd of the settings. Raises: StateUnavailable if they name none."""
        return await self.store(StateHome(kind="external"))

    def has(self, home: StateHome) -> bool:
        """Whether a member was ever prepared here for a home that is to be."""
        return home.generation in self._members.known

    async def members(self) -> EtcdMembers:
        """To look after the members of the present home. Raises: StateUnavailable."""
        return await self._etcd.members(self._access(self.home))

    @property
    def seat_generation(self) -> int:
        """The generation that the present home's members began with; 0 = none here."""
        return self._current(self.home) or 0

    @property
    def seat_token(self) -> str:
        """With which they were founded; "" = none here."""
        seat = self._members.known.get(self.seat_generation)
        return seat.token if seat is not None else ""

    # --- one look ---------------------------------------------------------------------------------------------------

    async def step(self) -> None:
        """Make true what can be made true now; what can't is a trouble."""
        async with self._turn:
            self._troubles.clear()
            await self._hear_claims()
            self._forget_prepared()
            for generation in sorted(self._wanted() - self._members.running.keys()):
                await self._start(generation)
            await self._peek()
            await self._attach()
            await self._clear_away()
            for generation in list(self._members.running):
                try:
                    await self._members.look_after(generation)
                except OllamaMaxError as error:
                    self._trouble("care", str(error))

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
        return wanted & self._members.known.keys()

    def _current(self, home: StateHome) -> int | None:
        """Which seat is the home's: moves that were undone raise the generation, but not the seat's."""
        if home.kind != "etcd":
            return None
        return max((one for one in self._members.known if one <= home.generation), default=None)

    def _is_mine(self, home: StateHome, kind: str) -> bool:
        return home.kind == kind and self.place.node_id in home.hosts

    async def _start(self, generation: int) -> None:
        try:
            await self._members.start(generation)
        except OllamaMaxError as error:
            self._trouble("start", f"etcd can't run here: {error}")

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
        for generation in self._forgotten & self._members.running.keys():
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
        for generation in [one for one in self._members.known if one not in wanted]:
            if home.phase == "steady" and generation <= home.generation:
                await self._drop(generation)
            else:
                await self._members.stop(generation)

    async def _drop(self, generation: int) -> None:
        try:
            await self._members.drop(generation)
        except OllamaMaxError as error:
            self._trouble("remove", str(error))

    def _access(self, home: StateHome) -> EtcdAccess:
        """Raises: StateUnavailable."""
        if home.kind == "external" and self.place.external is not None:
            return self.place.external
        generation = self._current(home)
        if generation is None:
            raise StateUnavailable("this node has no etcd of its own for the cluster's state")
        return self._members.access(generation)

    def _trouble(self, what: str, text: str) -> None:
        self._troubles[what] = text
        _LOG.warning("this node's part in holding the state", trouble=text)
