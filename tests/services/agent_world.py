"""What the agent's tests share: a library of made-up models, and an agent over twins."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from ollamamax.core.errors import ModelNotFound
from ollamamax.core.modelspec import names
from ollamamax.core.types import (
    ChatRequest,
    Chunk,
    GgufFacts,
    LaunchSpec,
    Message,
    ModelDetails,
    ModelRecord,
    ResolvedModel,
)
from ollamamax.services.agent import AgentConfig, LocalAgent
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.engine import FakeMachine, TwinEngine, TwinLauncher
from ollamamax.testing.meter import MemoryMeter

LIMIT_S = 10.0
MIB = 1 << 20


def model(name: str = "tiny", **changes: Any) -> ResolvedModel:
    """A chat model, or an embedder by its facts; some of these can be given by themselves."""
    single = ("architecture", "chat_template", "pooling_type", "tensor_bytes")
    inner = {key: changes.pop(key) for key in single if key in changes}
    facts = changes.pop("facts", None) or GgufFacts(
        **{
            "architecture": "llama",
            "file_bytes": 0,
            "tensor_bytes": MIB,
            "parameter_count": 1,
            "block_count": 1,
            "context_length": 8192,
            "embedding_length": 8,
            "feed_forward_length": 8,
            "head_count": 1,
            "head_count_kv": (1,),
            "key_length": 32,
            "value_length": 32,
            "vocab_size": 10,
            "chat_template": "{{ messages }}",
            **inner,
        }
    )
    values: dict[str, Any] = {
        "name": names.parse(name),
        "digest": f"manifest-{name}",
        "modified_ns": 1,
        "size_bytes": 0,
        "model_path": f"/models/{name}",
        "model_digest": f"sha256:{name}",
        "facts": facts,
        "details": ModelDetails(family="llama"),
        "capabilities": ("completion",) if facts.pooling_type is None else ("embedding",),
    }
    return ResolvedModel(**(values | changes))


class MemoryLibrary:
    """A ModelLibrary that holds what it is given."""

    def __init__(self, models: Sequence[ResolvedModel]) -> None:
        self.models = {each.name.key: each for each in models}

    async def resolve(self, model: str) -> ResolvedModel:
        found = self.models.get(names.key(model))
        if found is None:
            raise ModelNotFound(f"model '{model}' not found")
        return found

    async def show(self, model: str) -> dict[str, Any]:
        return {"template": (await self.resolve(model)).template}

    async def records(self) -> list[ModelRecord]:
        return [
            ModelRecord(
                each.name.short, each.digest, each.size_bytes, each.modified_ns, each.details, each.capabilities
            )
            for each in self.models.values()
        ]


@dataclass
class World:
    """An agent over twins, under a clock that stands still. prepare: called with each engine before it is used."""

    library: MemoryLibrary
    config: AgentConfig
    clock: FakeClock = field(default_factory=FakeClock)
    prepare: Callable[[TwinEngine, LaunchSpec], None] = lambda _engine, _spec: None
    machine: FakeMachine = field(default_factory=FakeMachine)
    meter: MemoryMeter = field(default_factory=MemoryMeter)

    def __post_init__(self) -> None:
        self.launcher = TwinLauncher(lambda engine, spec: self.prepare(engine, spec))
        self.agent = LocalAgent(
            self.library, self.launcher, self.machine, self.clock, SeededDice(1), self.meter, self.config
        )

    def advance(self, ms: float) -> None:
        self.clock.advance(ms)
        self.agent.tick()

    async def ask(self, request: ChatRequest) -> list[Chunk]:
        """All chunks of an answer."""
        return [chunk async for chunks in self.agent.generate(request, request.model) for chunk in chunks]


@asynccontextmanager
async def running(*models: ResolvedModel, **config: Any) -> AsyncGenerator[World, None]:
    """A world whose agent runs; nothing may be left of it in the end."""
    world = World(MemoryLibrary(models), AgentConfig(**config))
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(world.agent.run())
        try:
            yield world
            world.agent.check_invariants()
        finally:
            await world.agent.close()
    assert not world.launcher.live
    assert not world.agent.loaded()


def chat(model_name: str = "tiny", text: str = "hi", **changes: Any) -> ChatRequest:
    messages = changes.pop("messages", (Message("user", text),))
    return ChatRequest(model=model_name, messages=messages, **changes)


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def first(world: World, request: ChatRequest) -> "tuple[list[Chunk], asyncio.Task[list[Chunk]]]":
    """Start an answer that its engine holds after one chunk; what came, and the rest as a task."""
    stream = world.agent.generate(request, request.model)
    read = await anext(stream)

    async def rest() -> list[Chunk]:
        async with aclosing(stream):
            return [chunk async for chunks in stream for chunk in chunks]

    return read, asyncio.create_task(rest())


async def settled(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition` holds; the world's own limit bounds it."""
    while not condition():
        await asyncio.sleep(0)


def hold(engine: TwinEngine, _spec: LaunchSpec) -> None:
    engine.next_gate.clear()
