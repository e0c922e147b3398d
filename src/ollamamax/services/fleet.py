"""All engines: those of this node, the attached ones, and other nodes'. Who has what, how busy each is, who is there.

The accounts of slots are kept here, synchronously, so that two decisions in a row see each other's effect. Each model
of an engine has a breaker of its own: a model that can't be loaded must not take the engine's other models out.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog

from ollamamax.core.errors import (
    Conflict,
    EngineError,
    EngineNotFound,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    ModelNotFound,
    NotFound,
    OllamaMaxError,
    ShuttingDown,
)
from ollamamax.core.modelspec import names
from ollamamax.core.resilience.breaker import (
    Abandoned,
    Breaker,
    BreakerConfig,
    Event,
    Failed,
    Responded,
    Started,
    Succeeded,
)
from ollamamax.core.routing.decide import FETCH_TIER, Ranked
from ollamamax.core.routing.predict import Sample, learn, moved
from ollamamax.core.types import AttachedEngine, LoadedModel, ModelDetails, ModelEntry, ModelRecord
from ollamamax.ports import Clock, Dice, Engine, EngineBook, EngineConnector
from ollamamax.services.members import LOCAL, Lease, LocalEngine, LocalMember, Member
from ollamamax.services.probing import ProbeConfig, Prober
from ollamamax.services.roster import Roster

_LOG: Final = structlog.get_logger(__name__)
_STARTED: Final = Started()
DESCRIBE_LIMIT: Final = 3
"""Engines that are asked for a description, one after the other."""


class FleetConfig(ProbeConfig, frozen=True, kw_only=True):
    """How engines are watched, and when one is left out."""

    breaker: BreakerConfig = BreakerConfig()


class Fleet(Roster):
    """`open()` first, then `run()` in a task of its own; `close()` at the end. The local engine is not closed here.

    node: this node's name.  entry: what the cluster's catalog says of a model key, None if nothing.
    """

    def __init__(
        self,
        local: LocalEngine,
        connector: EngineConnector,
        book: EngineBook,
        clock: Clock,
        dice: Dice,
        config: FleetConfig,
        node: str = "",
        entry: Callable[[str], ModelEntry | None] = lambda key: None,
    ) -> None:
        self._local = LocalMember(local, node)
        super().__init__(self._local, clock)
        self._connector = connector
        self._book = book
        self._config = config
        self.node = node
        self.entry = entry
        self._gone: set[Member] = set()
        """Detached, but still answering."""
        self._book_lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._prober = Prober(clock, dice, config, self._probed)
        self._watchers: list[Callable[[], None]] = []
        self._own_watchers: list[Callable[[], None]] = []
        self._out = ""
        self._is_draining = False
        self.mean_output_tokens = 0.0
        """Moving average over all finished answers, 0 = none yet."""

    def watch(self, watcher: Callable[[], None]) -> None:
        """Have `watcher` called, synchronously, whenever a slot frees or engines change."""
        self._watchers.append(watcher)

    def watch_own(self, watcher: Callable[[], None]) -> None:
        """Have `watcher` called, synchronously, whenever there is something new to tell of this node's own engines."""
        self._own_watchers.append(watcher)

    # --- life -------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Learn what the store has, and remember what was attached. Raises: StoreError."""
        await self.local_changed()
        for attached in await self._book.load():
            try:
                engine = self._connector.connect(attached)
            except OllamaMaxError as error:
                _LOG.warning("a remembered engine can't be attached", engine=attached.name, reason=str(error))
                continue
            self._take_in(attached, engine)

    async def run(self) -> None:
        """Poll attached engines until cancelled."""
        await self._prober.run(self._attached())

    def reconfigure(self, config: FleetConfig) -> None:
        """Engines are watched, and left out, by other limits from now on."""
        self._config = config
        self._prober.reconfigure(config)
        self._limit_breakers(config.breaker)

    async def close(self) -> None:
        """Stop what is under way and close all engines but the local one. Idempotent."""
        await self._prober.close()
        members = [*self._attached(), *self._peers.values(), *self._gone]
        await asyncio.gather(*self._closing, *(member.engine.close() for member in members))

    def changed(self) -> None:
        """Engines may take requests that they did not take before, or the other way round."""
        for watcher in self._watchers:
            watcher()

    def own_changed(self) -> None:
        """There is something new to tell of this node's own engines."""
        for watcher in self._own_watchers:
            watcher()

    def _probed(self, member: Member) -> None:
        if self._members.get(member.engine_id) is member:
            self._index.update(member)
            self.own_changed()
        self.changed()

    # --- attaching --------------------------------------------------------------------------------------------

    async def add(self, attached: AttachedEngine) -> None:
        """Attach, remember, and probe at once; one that does not answer is kept all the same (`statuses` tells).

        Raises: Conflict for a name in use, BadRequest for a url that can't be used, StoreError.
        """
        if attached.name in self._members:
            raise Conflict(f"an engine named '{attached.name}' exists already")
        member = self._take_in(attached, self._connector.connect(attached))
        try:
            await self._save()
        except BaseException:
            self._take_out(member)
            await member.engine.close()
            raise
        await self._prober.probe(member)
        if not member.is_gone:
            self._prober.follow(member)

    async def remove(self, name: str) -> None:
        """Detach and forget. Answers under way go on; the connection closes after the last.

        Raises: EngineNotFound, StoreError (the engine then stays).
        """
        member = self._members.get(name)
        if member is None or member.attached is None:
            raise EngineNotFound(f"no engine named '{name}' is attached")
        self._take_out(member)
        try:
            await self._save()
        except BaseException:
            self._put(member)
            raise
        member.is_gone = True
        self._gone.add(member)
        await self._prober.forget(member)
        if not member.in_flight:
            await self._close_gone(member)
        self.own_changed()
        self.changed()

    def _take_in(self, attached: AttachedEngine, engine: Engine) -> Member:
        member = Member(attached.name, engine, attached, self.node)
        member.out = self._out
        self._put(member)
        return member

    async def _close_gone(self, member: Member) -> None:
        await member.engine.close()
        self._gone.discard(member)

    async def _save(self) -> None:
        async with self._book_lock:
            attached = (member.attached for member in self._members.values())
            await self._book.save(tuple(engine for engine in attached if engine is not None))

    def keep_out(self, out: str) -> None:
        """Why this node's own engines are kept from new requests, "" if they are not."""
        if out != self._out:
            self._out = out
            for member in self._members.values():
                member.out = out
            self.changed()

    def begin_drain(self) -> None:
        """Take no new requests from other nodes; those under way go on."""
        self._is_draining = True

    def tell_free_memory(self, free_bytes: int) -> None:
        """What this node has for more models."""
        self._local.free_memory_bytes = free_bytes

    # --- other nodes' engines ---------------------------------------------------------------------------------

    def remove_peer(self, member: Member) -> None:
        """It is there no more. Answers under way go on. `changed` is to follow."""
        self._take_out(member)
        member.is_gone = True
        self._gone.add(member)
        if not member.in_flight:
            self._close_soon(member)

    # --- asking -----------------------------------------------------------------------------------------------

    async def records(self) -> list[ModelRecord]:
        """All models that can be asked for, one per key, the local ones first.

        Servers that tell nothing but a name get a record of that name.
        """
        await self.refresh(LOCAL)
        found: dict[str, ModelRecord] = {}
        for member in self._all():
            if member.reachable:
                for key, model in member.offers().items():
                    if key not in found:
                        found[key] = model.record or ModelRecord(model.served_as, "", 0, 0, ModelDetails())
        return list(found.values())

    async def running(self) -> list[LoadedModel]:
        """All models in memory; of attached engines as of the last probe."""
        return [model for member in self._all() if member.reachable for model in member.running()]

    async def describe(self, model: str) -> dict[str, Any] | None:
        """What an engine that has the model says of it; None if none has it, or has anything to say.

        Raises: EngineError of the last one that failed.
        """
        failure: EngineError | None = None
        for member, offered in self.offers(names.key(model))[:DESCRIBE_LIMIT]:
            try:
                async with asyncio.timeout(self._config.timeout_ms / 1000):
                    description = await member.engine.describe(offered.served_as)
                if description is not None:
                    return description
            except TimeoutError:
                failure = EngineTimeout(f"engine '{member.engine_id}' did not answer in time")
            except EngineError as error:
                failure = error
        if failure is not None:
            raise failure
        return None

    async def local_changed(self) -> None:
        """The store's models have changed: read them anew."""
        await self._prober.probe(self._local, anew=True)

    async def refresh(self, engine_id: str = "") -> None:
        """Ask one engine of this node, or all that can be reached, for their models, unless that was done just now."""
        wanted = [
            member
            for member in self._members.values()
            if (member.engine_id == engine_id if engine_id else member.reachable)
        ]
        await self._prober.refresh(wanted)

    # --- accounts ---------------------------------------------------------------------------------------------

    def begin(self, ranked: Ranked, key: str, output_tokens: int) -> Lease:
        """Take a slot at an engine of the last decision, for one attempt."""
        engine_id = ranked.engine_id
        lease = Lease(
            self._members.get(engine_id) or self._peers[engine_id],
            key,
            ranked.served_as,
            output_tokens,
            ranked.is_loaded,
            ranked.ttft_ms,
            self._clock.now_ms(),
            ranked.tier == FETCH_TIER,
        )
        self._started(lease)
        return lease

    def lease(self, engine_name: str, model_key: str, output_tokens: int) -> Lease:
        """Take a slot at an engine of this node for a request that another node has sent here.

        Raises: ShuttingDown, EngineNotFound, ModelNotFound, EngineUnavailable if it is left out after failures.
        """
        if self._is_draining:
            raise ShuttingDown(f"node '{self.node}' is shutting down")
        member = self._members.get(engine_name)
        if member is None:
            raise EngineNotFound(f"no engine named '{engine_name}' is attached to node '{self.node}'")
        model = member.offers().get(model_key)
        if model is not None:
            served_as, is_loaded = model.served_as, model.loaded
        else:
            entry = self.entry(model_key) if member.is_pool else None
            if entry is None:
                raise ModelNotFound(f"model '{model_key}' not found on node '{self.node}'")
            served_as, is_loaded = entry.name, False
        reason = self.held_back(model_key).get(engine_name)
        if reason is not None:
            raise EngineUnavailable(f"engine '{engine_name}' of node '{self.node}' {reason}")
        now_ms = self._clock.now_ms()
        lease = Lease(member, model_key, served_as, output_tokens, is_loaded, 0.0, now_ms, must_fetch=model is None)
        self._started(lease)
        return lease

    def _started(self, lease: Lease) -> None:
        if lease.member.breakers:
            self._tell_breaker(lease, _STARTED)
        if not lease.member.node_id:
            self.own_changed()

    def responded(self, lease: Lease) -> None:
        """The first chunk of the attempt came. Who waits may follow: a model that was just loaded has more slots."""
        changed = bool(lease.member.breakers) and self._tell_breaker(lease, Responded(lease.began_ms))
        if not lease.was_loaded:
            lease.member.mark_loaded(lease.key)
            if not lease.member.node_id:
                self.own_changed()
        if changed or not lease.was_loaded:
            self.changed()

    def succeeded(self, lease: Lease, sample: Sample) -> None:
        """The attempt became a whole answer."""
        member = lease.member
        member.rates = learn(member.rates, sample)
        if sample.output_tokens:
            self.mean_output_tokens = moved(self.mean_output_tokens, sample.output_tokens)
        if member.breakers:
            self._tell_breaker(lease, Succeeded(lease.began_ms))
        self._ended(lease)

    def failed(self, lease: Lease, error: Exception) -> None:
        """The attempt failed. Only what speaks of the engine is held against it."""
        member = lease.member
        is_engines_fault = isinstance(error, EngineError) and not error.deterministic
        if is_engines_fault and not (isinstance(error, EngineRefused) and error.is_clients_fault):
            if lease.key not in member.breakers and lease.key in member.models:
                member.breakers[lease.key] = Breaker(self._config.breaker)
            self._tell_breaker(lease, Failed(lease.began_ms, is_silence=isinstance(error, EngineTimeout)))
        else:
            self._tell_breaker(lease, Abandoned(lease.began_ms))
        if isinstance(error, EngineUnavailable | EngineTimeout | EngineRefused | NotFound):
            member.doubt(error)
        self._ended(lease)

    def abandoned(self, lease: Lease) -> None:
        """The client went away: nothing was learned."""
        self._tell_breaker(lease, Abandoned(lease.began_ms))
        self._ended(lease)

    def _ended(self, lease: Lease) -> None:
        lease.close()
        member = lease.member
        if member.is_gone and not member.in_flight:
            self._close_soon(member)
        if not member.node_id:
            self.own_changed()
        self.changed()

    def _close_soon(self, member: Member) -> None:
        task = asyncio.get_running_loop().create_task(self._close_gone(member))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _tell_breaker(self, lease: Lease, event: Event) -> bool:
        """Whether its state changed."""
        member = lease.member
        breaker = member.breakers.get(lease.key)
        if breaker is None:
            return False
        changed = breaker.step(event, self._clock.now_ms())
        if changed is not None:
            _LOG.warning("breaker", engine=member.engine_id, model=lease.key, state=changed.state.value)
        if breaker.is_clean:
            del member.breakers[lease.key]
        return changed is not None
