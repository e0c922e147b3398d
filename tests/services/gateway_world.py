"""A node without a network: twins of engines, and everything between them and a request."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from ollamamax.core.resilience.admission import Admission
from ollamamax.core.resilience.retry_budget import RetryBudget, RetryConfig
from ollamamax.core.routing.predict import RoutingConfig
from ollamamax.core.types import (
    AttachedEngine,
    ChatRequest,
    Chunk,
    EngineKind,
    EngineModel,
    LoadedModel,
    Message,
    ModelDetails,
    ModelEntry,
    ModelRecord,
    Options,
    Outcome,
    OutcomeKind,
    Principal,
    RequestContext,
)
from ollamamax.services.dispatch import DispatchConfig, Dispatcher
from ollamamax.services.fleet import Fleet, FleetConfig
from ollamamax.services.gateway import Gateway
from ollamamax.services.members import Lease
from ollamamax.services.router import Router
from ollamamax.services.waiting import WaitingRoom
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.engine import DEFAULT_WORDS, MemoryEngineBook, TwinConnector, TwinEngine
from ollamamax.testing.meter import MemoryAudit, MemoryMeter

TEXT = "".join(DEFAULT_WORDS)
LIMIT_S = 10.0
OPERATOR = Principal("anonymous", ("admin",))


def record(name: str, size_bytes: int = 1_000) -> ModelRecord:
    return ModelRecord(name, f"digest-of-{name}", size_bytes, 0, ModelDetails())


def offer(name: str = "tiny:latest", loaded: bool = True) -> EngineModel:
    return EngineModel(name.lower(), name, loaded, record(name))


def in_memory(name: str) -> LoadedModel:
    return LoadedModel(name, f"digest-of-{name}", 1_000, 0, 4096, 0, ModelDetails())


class LocalTwin(TwinEngine):
    """This node's own engines."""

    def __init__(self, offered: Sequence[EngineModel] = (), slots: int = 4) -> None:
        super().__init__(offered)
        self.slots = slots
        self.last_load_ms = 0.0
        self.in_memory = tuple(in_memory(model.served_as) for model in offered if model.loaded)

    def loaded(self) -> Sequence[LoadedModel]:
        return self.in_memory


class World:
    """All parts, in plain attributes. Attached twins stand in `twins` by name."""

    def __init__(
        self,
        local: LocalTwin,
        twins: dict[str, TwinEngine],
        slots: int,
        max_queue: int,
        fleet: FleetConfig,
        dispatch: DispatchConfig,
        retry: RetryConfig,
    ) -> None:
        self.clock = FakeClock(1_000_000.0)
        self.local = local
        self.twins = twins
        self.connector = TwinConnector(twins)
        self.book = MemoryEngineBook(
            tuple(AttachedEngine(name=name, kind=EngineKind.OLLAMA, url="http://x", slots=slots) for name in twins)
        )
        self.meter = MemoryMeter()
        self.audit = MemoryAudit()
        self.entries: dict[str, ModelEntry] = {}
        """What the cluster's catalog says, by model key."""
        self.brought: list[str] = []
        """Models that this node's store was asked to fetch."""
        self.bring_gate = asyncio.Event()
        self.bring_gate.set()
        self.bring_error: Exception | None = None
        self.fleet = Fleet(
            local, self.connector, self.book, self.clock, SeededDice(1), fleet, node="here", entry=self.entries.get
        )
        self.router = Router(self.fleet, RoutingConfig())
        self.room = WaitingRoom(self.router, Admission(max_queue), self.clock)
        self.dispatcher = Dispatcher(
            self.router, RetryBudget(retry), self.meter, self.clock, dispatch, ensure=self._ensure
        )
        self.gateway = Gateway(self.router, self.room, self.dispatcher, self.audit, self.meter, self.clock)

    async def _ensure(self, key: str) -> None:
        self.brought.append(key)
        await self.bring_gate.wait()
        if self.bring_error is not None:
            raise self.bring_error
        self.local.offered = (*self.local.offered, offer(key, loaded=False))
        await self.fleet.local_changed()

    def context(self, principal: Principal = OPERATOR) -> RequestContext:
        return RequestContext(
            request_id="r1",
            route="/api/chat",
            principal=principal,
            arrived_ms=self.clock.now_ms(),
            traceparent="00-11111111111111111111111111111111-2222222222222222-01",
        )

    async def ask(self, model: str = "tiny", limit: int | None = None, content: str = "hi") -> str:
        """The text of a whole answer."""
        return text_of(await self.chunks(chat(model, limit, content)))

    async def chunks(self, request: ChatRequest) -> list[Chunk]:
        return [chunk async for read in self.gateway.chat(self.context(), request) for chunk in read]

    def lease(self, model: str = "tiny") -> Lease:
        """A slot at the best engine, taken outside the gateway."""
        facts = self.router.facts(chat(model))
        best = self.router.choose(facts).best
        assert best is not None
        return self.router.begin(best, facts)

    @property
    def outcome(self) -> Outcome:
        """The only one."""
        (outcome,) = self.meter.outcomes
        return outcome

    @property
    def kinds(self) -> list[OutcomeKind]:
        return [outcome.kind for outcome in self.meter.outcomes]

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Let others run until it holds."""
        async with asyncio.timeout(LIMIT_S):
            while not predicate():
                await asyncio.sleep(0)

    def check_idle(self) -> None:
        """All accounts add up, and nothing is left of any request."""
        self.fleet.check_invariants()
        self.room.check_invariants()
        assert self.gateway.load() == (0, 0)
        assert all(facts.in_flight == 0 for facts in self.fleet.snapshot().engines)
        assert all(twin.active == 0 for twin in (self.local, *self.twins.values()))


def chat(model: str = "tiny", limit: int | None = None, content: str = "hi") -> ChatRequest:
    return ChatRequest(model=model, messages=(Message("user", content),), options=Options(num_predict=limit))


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def pair() -> dict[str, TwinEngine]:
    """Two attached engines; requests go to `a` first."""
    return {"a": TwinEngine([offer()]), "b": TwinEngine([offer()], words=("from", " b"))}


@asynccontextmanager
async def world(
    local: LocalTwin | None = None,
    twins: dict[str, TwinEngine] | None = None,
    *,
    slots: int = 4,
    max_queue: int = 512,
    fleet: FleetConfig | None = None,
    dispatch: DispatchConfig | None = None,
    retry: RetryConfig | None = None,
) -> AsyncIterator[World]:
    """A node that is up. Without arguments: `tiny` is loaded in the local engine and nothing is attached."""
    made = World(
        local if local is not None else LocalTwin([offer()]),
        twins if twins is not None else {},
        slots,
        max_queue,
        fleet or FleetConfig(),
        dispatch or DispatchConfig(),
        retry or RetryConfig(),
    )
    async with asyncio.timeout(LIMIT_S * 3):
        await made.fleet.open()
        await made.fleet.refresh()
        try:
            yield made
        finally:
            await made.fleet.close()
        made.fleet.check_invariants()
        made.room.check_invariants()
