"""All engines: those of this node and the attached ones. Who has what, how busy each is, who can be reached.

The accounts of slots are kept here, synchronously, so that two decisions in a row see each other's effect. Each model
of an engine has a breaker of its own: a model that can't be loaded must not take the engine's other models out.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from ollamamax.core.errors import (
    Conflict,
    EngineError,
    EngineNotFound,
    EngineRefused,
    EngineTimeout,
    EngineUnavailable,
    NotFound,
    OllamaMaxError,
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
    State,
    Succeeded,
)
from ollamamax.core.routing.decide import Ranked
from ollamamax.core.routing.predict import Sample, learn, moved
from ollamamax.core.types import AttachedEngine, EngineModel, FleetSnapshot, LoadedModel, ModelRecord
from ollamamax.ports import Clock, Dice, EngineBook, EngineConnector
from ollamamax.services.members import LOCAL, EngineStatus, Lease, LocalEngine, LocalMember, Member
from ollamamax.services.probing import ProbeConfig, Prober

_LOG = structlog.get_logger(__name__)


class FleetConfig(ProbeConfig, frozen=True, kw_only=True):
    """How engines are watched, and when one is left out."""

    breaker: BreakerConfig = BreakerConfig()


class Fleet:
    """`open()` first, then `run()` in a task of its own; `close()` at the end. The local engine is not closed here."""

    def __init__(
        self,
        local: LocalEngine,
        connector: EngineConnector,
        book: EngineBook,
        clock: Clock,
        dice: Dice,
        config: FleetConfig,
    ) -> None:
        self._connector = connector
        self._book = book
        self._clock = clock
        self._config = config
        self._local = LocalMember(local)
        self._members: dict[str, Member] = {LOCAL: self._local}
        self._gone: set[Member] = set()
        """Detached, but still answering."""
        self._book_lock = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()
        self._prober = Prober(clock, dice, config, self._changed)
        self._watcher: Callable[[], None] | None = None
        self.mean_output_tokens = 0.0
        """Moving average over all finished answers, 0 = none yet."""

    def watch(self, watcher: Callable[[], None]) -> None:
        """Have `watcher` called, synchronously, whenever a slot frees or engines change. One only."""
        self._watcher = watcher

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
            self._members[attached.name] = Member(attached.name, engine, attached)

    async def run(self) -> None:
        """Poll attached engines until cancelled."""
        await self._prober.run([member for member in self._members.values() if member.attached is not None])

    async def close(self) -> None:
        """Stop what is under way and close the attached engines. Idempotent."""
        await self._prober.close()
        attached = [member for member in self._members.values() if member.attached is not None]
        await asyncio.gather(*self._closing, *(member.engine.close() for member in [*attached, *self._gone]))

    def _changed(self) -> None:
        if self._watcher is not None:
            self._watcher()

    # --- attaching --------------------------------------------------------------------------------------------

    async def add(self, attached: AttachedEngine) -> None:
        """Attach, remember, and probe at once; one that does not answer is kept all the same (`statuses` tells).

        Raises: Conflict for a name in use, BadRequest for a url that can't be used, StoreError.
        """
        if attached.name in self._members:
            raise Conflict(f"an engine named '{attached.name}' exists already")
        member = Member(attached.name, self._connector.connect(attached), attached)
        self._members[attached.name] = member
        try:
            await self._save()
        except BaseException:
            del self._members[attached.name]
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
        del self._members[name]
        try:
            await self._save()
        except BaseException:
            self._members[name] = member
            raise
        member.is_gone = True
        self._gone.add(member)
        await self._prober.forget(member)
        if not member.in_flight:
            await self._close_gone(member)
        self._changed()

    async def _close_gone(self, member: Member) -> None:
        await member.engine.close()
        self._gone.discard(member)

    async def _save(self) -> None:
        async with self._book_lock:
            attached = (member.attached for member in self._members.values())
            await self._book.save(tuple(engine for engine in attached if engine is not None))

    # --- what is known ----------------------------------------------------------------------------------------

    def snapshot(self) -> FleetSnapshot:
        """All facts at this moment. Cheap: made for each request."""
        now_ms = self._clock.now_ms()
        return FleetSnapshot(now_ms, tuple([member.facts(now_ms) for member in self._members.values()]))

    def held_back(self, key: str) -> dict[str, str]:
        """Engines whose breaker lets no request for the model through now, each with the reason."""
        out = {}
        for member in self._members.values():
            breaker = member.breakers.get(key)
            if breaker is not None and not breaker.allows(self._clock.now_ms()):
                out[member.engine_id] = (
                    "is tried by one request first, after failures"
                    if breaker.state is State.HALF_OPEN
                    else f"is left out for a while after {breaker.failures} failures"
                )
        return out

    def statuses(self) -> list[EngineStatus]:
        """Each engine for people, the local one first; without API keys."""
        now_ms = self._clock.now_ms()
        return [member.status(now_ms) for member in self._members.values()]

    def find(self, key: str) -> tuple[Member, EngineModel] | None:
        """The first reachable engine that offers the model, the local one first."""
        return next(iter(self.offers(key)), None)

    def offers(self, key: str) -> list[tuple[Member, EngineModel]]:
        """All reachable engines that offer the model, the local one first."""
        offers = ((member, member.offers().get(key)) for member in self._members.values() if member.reachable)
        return [(member, model) for member, model in offers if model is not None]

    async def records(self) -> list[ModelRecord]:
        """All models that can be asked for, one per key, the local ones first."""
        await self.refresh(LOCAL)
        found: dict[str, ModelRecord] = {}
        for member in self._members.values():
            if member.reachable:
                for record in member.records():
                    found.setdefault(names.key(record.name), record)
        return list(found.values())

    async def running(self) -> list[LoadedModel]:
        """All models in memory; of attached engines as of the last probe."""
        return [model for member in self._members.values() if member.reachable for model in member.running()]

    async def describe(self, model: str) -> dict[str, Any] | None:
        """What an engine that has the model says of it; None if none has it. Raises: EngineError."""
        found = self.find(names.key(model))
        if found is None:
            return None
        member, offered = found
        try:
            async with asyncio.timeout(self._config.timeout_ms / 1000):
                return await member.engine.describe(offered.served_as)
        except TimeoutError:
            raise EngineTimeout(f"engine '{member.engine_id}' did not answer in time") from None

    # --- asking -----------------------------------------------------------------------------------------------

    async def local_changed(self) -> None:
        """The store's models have changed: read them anew."""
        await self._prober.probe(self._local, anew=True)

    async def refresh(self, engine_id: str = "") -> None:
        """Ask one engine, or all that can be reached, for their models, unless that was done just now."""
        wanted = [
            member
            for member in self._members.values()
            if (member.engine_id == engine_id if engine_id else member.reachable)
        ]
        await self._prober.refresh(wanted)

    # --- accounts ---------------------------------------------------------------------------------------------

    def begin(self, ranked: Ranked, key: str, output_tokens: int) -> Lease:
        """Take a slot at an engine of the last decision, for one attempt."""
        member = self._members[ranked.engine_id]
        lease = Lease(
            member, key, ranked.served_as, output_tokens, ranked.is_loaded, ranked.ttft_ms, self._clock.now_ms()
        )
        self._tell_breaker(lease, Started())
        return lease

    def responded(self, lease: Lease) -> None:
        """The first chunk of the attempt came. Who waits may follow: a model that was just loaded has more slots."""
        changed = self._tell_breaker(lease, Responded(lease.began_ms))
        if not lease.was_loaded:
            lease.member.mark_loaded(lease.key)
        if changed or not lease.was_loaded:
            self._changed()

    def succeeded(self, lease: Lease, sample: Sample) -> None:
        """The attempt became a whole answer."""
        lease.member.rates = learn(lease.member.rates, sample)
        if sample.output_tokens:
            self.mean_output_tokens = moved(self.mean_output_tokens, sample.output_tokens)
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
            member.kick.set()
        self._ended(lease)

    def abandoned(self, lease: Lease) -> None:
        """The client went away: nothing was learned."""
        self._tell_breaker(lease, Abandoned(lease.began_ms))
        self._ended(lease)

    def _ended(self, lease: Lease) -> None:
        lease.close()
        member = lease.member
        if member.is_gone and not member.in_flight:
            task = asyncio.get_running_loop().create_task(self._close_gone(member))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._changed()

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

    def check_invariants(self) -> None:
        """Each member's accounts add up. Raises: AssertionError."""
        for member in self._members.values():
            member.check_invariants()
