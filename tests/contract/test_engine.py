"""What every engine does, whatever stands behind it: one suite over the twin, llama.cpp children and attached servers.

All of them here give the same answer to the prompt "a": the cycle of the chain model, one character per token.
"""

import asyncio
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from models import chain_text, write_llama
from ollamamax.adapters.engines.connector import Connector
from ollamamax.adapters.engines.http import EngineHttp
from ollamamax.adapters.engines.llamacpp import LlamaCppLauncher
from ollamamax.adapters.engines.llamacpp_process import ChildProcess
from ollamamax.adapters.system.clock import SystemClock, SystemDice
from ollamamax.core.errors import EngineError, EngineRefused, InputTooLong, Unsupported
from ollamamax.core.types import (
    AttachedEngine,
    ChatRequest,
    Chunk,
    EmbedRequest,
    EngineKind,
    EngineModel,
    LaunchSpec,
    Message,
    Options,
)
from ollamamax.ports import Engine
from ollamamax.testing.engine import TwinEngine
from servers import FakeOllama, FakeOpenAI, FakeServer

MODEL = "chain:latest"
LONG: dict[str, Any] = {"num_predict": 4000, "temperature": 0.0}
CTX_TOKENS = 4096
KEY = "a-key-of-this-test"
SLOTS: msgspec.json.Decoder[list[dict[str, Any]]] = msgspec.json.Decoder(list[dict[str, Any]])
LIMIT_S = 20.0

Step = Callable[[], Awaitable[Any]]


@dataclass
class World:
    """One engine, and what the suite needs to know and to break of its world.

    free: returns once no answer is being made.  fail_first: a request that fails before its first token, and how.
    arm: called before an answer that is to fail in the middle.  strike: called once it has begun.  embedder: embeds.
    """

    engine: Engine
    embedder: Engine
    free: Step
    fail_first: Callable[[], tuple[ChatRequest, type[EngineError] | type[InputTooLong]]]
    arm: Callable[[], None] = lambda: None
    strike: Callable[[], None] = lambda: None


def ask(prompt: str = "a", **options: Any) -> ChatRequest:
    return ChatRequest(model=MODEL, prompt=prompt, raw=True, options=Options(**options))


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("engines") / "chain.gguf", chain=True, context=8 * CTX_TOKENS)


@pytest.fixture(scope="session")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("engines") / "embedder.gguf", pooling=1)


def spec_of(path: Path, **more: Any) -> LaunchSpec:
    fields = {"key": path.stem, "name": MODEL, "model_path": str(path), "ctx_tokens": CTX_TOKENS, "parallel": 2, **more}
    return LaunchSpec(**fields)


async def twin_world(stack: AsyncExitStack, chain: Path, embedder: Path) -> World:
    twin = TwinEngine([EngineModel("chain:latest", MODEL, loaded=True)], words=tuple(chain_text("a", 5000)))

    def fail_first() -> tuple[ChatRequest, type[EngineError]]:
        twin.fail_first = EngineRefused("no", 500)
        return ask(), EngineRefused

    def arm() -> None:
        twin.fail_mid = EngineRefused("no", 500)

    return World(twin, twin, partial(twin.until, lambda: twin.active == 0), fail_first, arm=arm)


async def slots_free(http: EngineHttp) -> None:
    while any(slot["is_processing"] for slot in await http.get("/slots", SLOTS)):
        pass


async def llamacpp_world(stack: AsyncExitStack, chain: Path, embedder: Path) -> World:
    launcher = LlamaCppLauncher(SystemClock(), SystemDice())
    engine = await launcher.launch(spec_of(chain))
    stack.push_async_callback(engine.close)
    embeds = await launcher.launch(spec_of(embedder, embedding=True, ctx_tokens=64, parallel=1))
    stack.push_async_callback(embeds.close)
    return World(
        engine,
        embeds,
        partial(slots_free, engine._http),
        lambda: (msgspec.structs.replace(ask("a" * (CTX_TOKENS + 1)), truncate=False), InputTooLong),
        strike=lambda: os.kill(engine.pid, signal.SIGKILL),
    )


async def fake_world(kind: EngineKind, stack: AsyncExitStack, chain: Path, embedder: Path) -> World:
    server: FakeServer = FakeOllama() if kind is EngineKind.OLLAMA else FakeOpenAI()
    server.words, server.models = tuple(chain_text("a", 5000)), (MODEL,)
    await stack.enter_async_context(server)
    connector = Connector(SystemClock(), SystemDice())
    stack.push_async_callback(connector.aclose)
    engine = connector.connect(AttachedEngine(name="far", kind=kind, url=server.url))

    def fail_first() -> tuple[ChatRequest, type[EngineError]]:
        server.refusal = (500, "no")
        return ask(), EngineRefused

    def arm() -> None:
        server.fail_after = 3

    return World(engine, engine, partial(server.until, lambda: server.active == 0), fail_first, arm=arm)


async def served(stack: AsyncExitStack, spec: LaunchSpec, connector: Connector) -> tuple[Engine, ChildProcess, str]:
    """A real llama.cpp server, attached as an OpenAI-compatible one."""
    child = await ChildProcess.start(sys.executable, spec, KEY)
    stack.push_async_callback(child.stop)
    url = f"http://127.0.0.1:{await child.port()}"
    far = AttachedEngine(name="far", kind=EngineKind.OPENAI, url=f"{url}/v1", api_key=KEY)
    return connector.connect(far), child, url


async def real_openai_world(stack: AsyncExitStack, chain: Path, embedder: Path) -> World:
    connector = Connector(SystemClock(), SystemDice())
    stack.push_async_callback(connector.aclose)
    engine, child, url = await served(stack, spec_of(chain), connector)
    embeds, _, _ = await served(stack, spec_of(embedder, embedding=True, ctx_tokens=64, parallel=1), connector)
    http = EngineHttp(url, "far", KEY)
    stack.push_async_callback(http.close)
    return World(
        engine,
        embeds,
        partial(slots_free, http),
        lambda: (ask("a" * (CTX_TOKENS + 1)), EngineRefused),
        strike=lambda: os.kill(child.pid, signal.SIGKILL),
    )


WORLDS: dict[str, Callable[[AsyncExitStack, Path, Path], Awaitable[World]]] = {
    "twin": twin_world,
    "llamacpp": llamacpp_world,
    "ollama": partial(fake_world, EngineKind.OLLAMA),
    "openai": partial(fake_world, EngineKind.OPENAI),
    "openai-llamacpp": real_openai_world,
}


@pytest.fixture(params=WORLDS)
async def world(request: pytest.FixtureRequest, chain: Path, embedder: Path) -> AsyncIterator[World]:
    async with asyncio.timeout(60), AsyncExitStack() as stack:
        yield await WORLDS[request.param](stack, chain, embedder)


async def answer(engine: Engine, request: ChatRequest) -> list[Chunk]:
    served_as = (await engine.models())[0].served_as
    chunks: list[Chunk] = []
    async with asyncio.timeout(LIMIT_S), aclosing(engine.generate(request, served_as)) as stream:
        async for read in stream:
            assert read, "an empty read"
            chunks += read
    return chunks


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def test_models_are_offered_under_their_key(world: World) -> None:
    (model,) = await world.engine.models()
    assert model.loaded
    if world.engine.kind is not EngineKind.OPENAI or model.served_as == MODEL:
        assert (model.key, model.served_as) == ("chain:latest", MODEL)


async def test_an_answer_comes_in_order_and_ends_once(world: World) -> None:
    chunks = await answer(world.engine, ask(num_predict=70))
    assert text_of(chunks) == chain_text("a", 70)
    assert [bool(chunk.done_reason) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    last = chunks[-1]
    assert last.done_reason == "length"
    assert last.stats is not None
    assert last.stats.eval_tokens == 70
    assert last.stats.prompt_tokens > 0
    assert all(chunk.stats is None for chunk in chunks[:-1])


async def test_a_conversation_is_answered(world: World) -> None:
    talk = ChatRequest(model=MODEL, messages=(Message("user", "hello"),), options=Options(num_predict=9))
    chunks = await answer(world.engine, talk)
    assert len(text_of(chunks)) == 9
    assert chunks[-1].done_reason == "length"


async def test_a_stop_string_ends_it_and_is_not_told(world: World) -> None:
    chunks = await answer(world.engine, ask(num_predict=70, stop=("ij",)))
    assert text_of(chunks) == "bcdefgh"
    assert chunks[-1].done_reason == "stop"


async def test_streams_do_not_mix(world: World) -> None:
    answers = await asyncio.gather(*(answer(world.engine, ask(num_predict=20 + number)) for number in range(6)))
    assert [text_of(chunks) for chunks in answers] == [chain_text("a", 20 + number) for number in range(6)]


@pytest.mark.parametrize("way", ["closed", "cancelled"])
async def test_leaving_frees_the_slot(world: World, way: str) -> None:
    served_as = (await world.engine.models())[0].served_as
    stream = world.engine.generate(ask(**LONG), served_as)
    started = asyncio.Event()

    async def read() -> None:
        async with aclosing(stream):
            async for _ in stream:
                started.set()
                if way == "closed":
                    return

    reader = asyncio.create_task(read())
    async with asyncio.timeout(LIMIT_S):
        await started.wait()
        if way == "cancelled":
            reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
    async with asyncio.timeout(1.0):
        await world.free()
    assert text_of(await answer(world.engine, ask(num_predict=5))) == "bcdef"


async def test_an_error_before_the_first_token(world: World) -> None:
    served_as = (await world.engine.models())[0].served_as
    request, kind = world.fail_first()
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(kind):
            await anext(world.engine.generate(request, served_as))
        await world.free()


async def test_an_error_in_the_middle(world: World) -> None:
    served_as = (await world.engine.models())[0].served_as
    chunks: list[Chunk] = []

    async def read() -> None:
        async for read in world.engine.generate(ask(**LONG), served_as):
            if not chunks:
                world.strike()
            chunks.extend(read)

    world.arm()
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(EngineError):
            await read()
    assert text_of(chunks)
    assert chain_text("a", 4000).startswith(text_of(chunks))
    assert not any(chunk.done_reason for chunk in chunks)


async def test_an_empty_request_is_a_load(world: World) -> None:
    (chunk,) = await answer(world.engine, ChatRequest(model=MODEL))
    assert chunk.done_reason == "load"
    assert not chunk.text


@pytest.mark.parametrize("shape", ["prompt", "conversation"])
async def test_tokens_are_counted_exactly_or_not_at_all(world: World, shape: str) -> None:
    talk = ChatRequest(model=MODEL, messages=(Message("user", "hello you"),), options=Options(num_predict=1))
    request = talk if shape == "conversation" else ask("hello you", num_predict=1)
    counting = msgspec.structs.replace(request, count_only=True)
    if world.engine.kind is not EngineKind.LLAMACPP:
        with pytest.raises(Unsupported, match="can't count tokens"):
            await answer(world.engine, counting)
        return
    (counted,) = await answer(world.engine, counting)
    stats = (await answer(world.engine, request))[-1].stats
    assert counted.done_reason == "load"
    assert counted.stats is not None
    assert stats is not None
    assert counted.stats.prompt_tokens == stats.prompt_tokens > 0
    assert counted.stats.eval_tokens == 0


async def test_a_prompt_is_shown_or_refused(world: World) -> None:
    request = msgspec.structs.replace(ask("hello you"), render_only=True)
    if world.engine.kind is not EngineKind.LLAMACPP:
        with pytest.raises(Unsupported, match="does not show them"):
            await answer(world.engine, request)
        return
    (shown,) = await answer(world.engine, request)
    assert (shown.text, shown.done_reason) == ("hello you", "load")


async def test_embedding(world: World) -> None:
    served_as = (await world.embedder.models())[0].served_as
    async with asyncio.timeout(LIMIT_S):
        result = await world.embedder.embed(EmbedRequest(model=MODEL, inputs=("one", "two", "one")), served_as)
        cut = await world.embedder.embed(EmbedRequest(model=MODEL, inputs=("one",), dimensions=4), served_as)
    assert len(result.vectors) == 3
    assert result.vectors[0] == pytest.approx(result.vectors[2], abs=1e-5)
    assert result.vectors[0] != pytest.approx(result.vectors[1], abs=1e-5)
    for vector in (*result.vectors, *cut.vectors):
        assert math.fsum(value * value for value in vector) == pytest.approx(1.0, abs=1e-5)
    assert len(cut.vectors[0]) == 4
    scale = cut.vectors[0][0] / result.vectors[0][0]
    assert [value * scale for value in result.vectors[0][:4]] == pytest.approx(cut.vectors[0], abs=1e-5)
    assert result.prompt_tokens > 0


async def test_closing_twice_is_closing(world: World) -> None:
    await world.engine.close()
    await world.engine.close()
