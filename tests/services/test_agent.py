"""Loading, slots, keep-alive, crashes and shutdown, as those who ask the agent see them."""

import asyncio

import pytest
from agent_world import MIB, chat, first, hold, model, running, text_of

from ollamamax.core.errors import (
    InputTooLong,
    ModelNotFound,
    NoMemory,
    Unsupported,
)
from ollamamax.core.types import FOREVER_MS, ChatRequest, EmbedRequest, EngineKind, LaunchSpec, Message, Options
from ollamamax.services.agent import AgentConfig
from ollamamax.testing.engine import TwinEngine


async def test_an_answer() -> None:
    async with running(model()) as world:
        world.launcher.gate.clear()
        asked = asyncio.create_task(world.ask(chat()))
        await world.launcher.until(lambda: world.launcher.launching == 1)
        world.clock.advance(250)
        world.launcher.gate.set()
        chunks = await asked
        assert text_of(chunks) == "Hello there, how are you?"
        assert chunks[-1].done_reason == "stop"
        assert chunks[-1].stats is not None
        assert chunks[-1].stats.load_ms == 250
        assert world.agent.last_load_ms == 250
        assert world.meter.loads == [("tiny:latest", 250, "")]
        again = await world.ask(chat())
        assert again[-1].stats is not None
        assert again[-1].stats.load_ms == 0
        assert len(world.launcher.specs) == 1
        assert world.agent.kind is EngineKind.LLAMACPP


async def test_the_launch() -> None:
    async with running(model(), num_parallel=3, kv_cache_type="q8_0") as world:
        await world.ask(chat(options=Options(num_ctx=1000, num_batch=64, num_gpu=7, main_gpu=1, num_thread=5)))
        assert world.launcher.specs == [
            LaunchSpec(
                key="sha256:tiny",
                name="tiny:latest",
                model_path="/models/tiny",
                ctx_tokens=1000,
                parallel=3,
                batch_tokens=64,
                gpu_layers=7,
                main_gpu=1,
                threads=5,
                kv_cache_type="q8_0",
            )
        ]


async def test_options_of_the_model_and_of_the_request() -> None:
    mine = model(options=Options(num_ctx=512, temperature=0.5, top_k=3))
    async with running(mine) as world:
        await world.ask(chat(options=Options(temperature=0.1)))
        assert world.launcher.specs[0].ctx_tokens == 512
        request, served_as = world.launcher.engines[0].requests[0]
        assert request.options == Options(num_ctx=512, temperature=0.1, top_k=3)
        assert served_as == "tiny"


@pytest.mark.parametrize(("free_mib", "slots"), [(8000, 4), (1, 1)])
async def test_slots_by_free_memory(free_mib: int, slots: int) -> None:
    async with running(model()) as world:
        assert world.agent.slots == 4
        world.machine.free_bytes = free_mib * MIB
        await world.ask(chat())
        assert world.launcher.specs[0].parallel == slots
        assert world.agent.slots == slots


async def test_slots_as_configured() -> None:
    async with running(model(), num_parallel=6) as world:
        assert world.agent.slots == 6


async def test_equal_loads_are_one_and_slots_are_kept() -> None:
    async with running(model(), num_parallel=2) as world:
        world.launcher.gate.clear()
        asked = [asyncio.create_task(world.ask(chat(text=f"{number}"))) for number in range(6)]
        await world.launcher.until(lambda: world.launcher.launching == 1)
        world.launcher.gate.set()
        answers = await asyncio.gather(*asked)
        assert all(text_of(answer) == "Hello there, how are you?" for answer in answers)
        (engine,) = world.launcher.engines
        assert engine.max_active == 2
        assert [request.messages[0].content for request, _ in engine.requests] == list("012345")


async def test_names_with_the_same_weights_share_a_runner() -> None:
    async with running(model(), model("alias", model_digest="sha256:tiny")) as world:
        await world.ask(chat())
        await world.ask(chat("alias"))
        assert len(world.launcher.engines) == 1
        assert [row.name for row in world.agent.loaded()] == ["tiny:latest"]


async def test_closing_the_stream_frees_the_slot_and_the_engine_at_once() -> None:
    async with running(model(), num_parallel=1) as world:
        world.prepare = hold
        stream = world.agent.generate(chat(), "tiny")
        await anext(stream)
        (engine,) = world.launcher.engines
        assert (engine.active, world.agent.in_flight) == (1, 1)
        await stream.aclose()
        assert (engine.active, world.agent.in_flight) == (0, 0)
        engine.next_gate.set()
        assert text_of(await world.ask(chat())) == "Hello there, how are you?"


async def test_who_leaves_while_waiting_leaves_no_trace() -> None:
    async with running(model(), num_parallel=1) as world:
        world.prepare = hold
        _, rest = await first(world, chat())
        waiting = asyncio.create_task(world.ask(chat(text="gone")))
        after = asyncio.create_task(world.ask(chat(text="after")))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        world.launcher.engines[0].next_gate.set()
        await rest
        await after
        seen = [request.messages[0].content for request, _ in world.launcher.engines[0].requests]
        assert seen == ["hi", "after"]


async def test_keep_alive() -> None:
    async with running(model(), keep_alive_ms=60_000) as world:
        await world.ask(chat())
        (row,) = world.agent.loaded()
        assert row.expires_ns == world.clock.wall_ns() + 60_000_000_000
        world.advance(59_999)
        assert world.agent.loaded() == [row]
        world.advance(1)
        assert world.agent.loaded() == []
        engine = world.launcher.engines[0]
        await engine.until(lambda: engine.is_closed)


async def test_unloads_are_counted_and_memory_is_told() -> None:
    async with running(model(), keep_alive_ms=0) as world:
        await world.ask(chat())
        engine = world.launcher.engines[0]
        await engine.until(lambda: engine.is_closed)
        assert world.meter.unloads == [("tiny:latest", "expired")]
        assert world.meter.loaded_bytes == {}
        await world.ask(chat(keep_alive_ms=FOREVER_MS))
        assert world.agent.loaded()[0].expires_ns == FOREVER_MS
        assert world.meter.loaded_bytes == {"tiny:latest": world.agent.loaded()[0].size_bytes}


async def test_rows_of_loaded_models() -> None:
    async with running(model()) as world:
        world.machine.gpus = 1
        world.prepare = hold
        _, rest = await first(world, chat(keep_alive_ms=1_000))
        (row,) = world.agent.loaded()
        assert (row.name, row.digest, row.context_length) == ("tiny:latest", "manifest-tiny", 4096)
        assert row.size_bytes > MIB
        assert row.vram_bytes == row.size_bytes
        assert row.details.family == "llama"
        assert row.expires_ns == world.clock.wall_ns() + 1_000_000_000
        await world.ask(chat(messages=(), keep_alive_ms=0))
        assert world.agent.loaded()[0].expires_ns < world.clock.wall_ns()  # it is about to leave
        world.launcher.engines[0].next_gate.set()
        await rest


async def test_models_of_the_store() -> None:
    async with running(model(), model("e", pooling_type=1)) as world:
        await world.ask(chat())
        tiny, embedder = await world.agent.models()
        assert (tiny.key, tiny.served_as, tiny.loaded, tiny.slots) == ("tiny:latest", "tiny:latest", True, 0)
        assert tiny.running == world.agent.loaded()[0]
        assert (embedder.loaded, embedder.running, embedder.slots) == (False, None, 1)
        assert embedder.record is not None
        assert embedder.record.digest == "manifest-e"
        assert await world.agent.describe("tiny") == {"template": None}


@pytest.mark.parametrize("request_", [chat(messages=()), ChatRequest(model="tiny", prompt="")])
async def test_an_empty_request_loads(request_: ChatRequest) -> None:
    async with running(model()) as world:
        (chunk,) = await world.ask(request_)
        assert chunk.done_reason == "load"
        assert chunk.stats is not None
        assert [row.name for row in world.agent.loaded()] == ["tiny:latest"]
        assert world.launcher.engines[0].requests == []


async def test_an_empty_request_with_no_keep_alive_unloads_after_running_ones() -> None:
    async with running(model()) as world:
        world.prepare = hold
        _, rest = await first(world, chat())
        (chunk,) = await world.ask(chat(messages=(), keep_alive_ms=0))
        assert chunk.done_reason == "unload"
        (engine,) = world.launcher.engines
        assert engine.is_running
        engine.next_gate.set()
        assert (await rest)[-1].done_reason == "stop"
        await engine.until(lambda: engine.is_closed)
        assert world.meter.unloads == [("tiny:latest", "asked")]
        (chunk,) = await world.ask(chat(messages=(), keep_alive_ms=0))  # nothing is loaded: nothing to do
        assert chunk.done_reason == "unload"


async def test_another_context_reloads() -> None:
    async with running(model()) as world:
        await world.ask(chat())
        await world.ask(chat(options=Options(num_ctx=256)))
        await world.ask(chat())  # automatic: what is there will do
        assert [spec.ctx_tokens for spec in world.launcher.specs] == [4096, 256]
        assert world.meter.unloads == [("tiny:latest", "reload")]


async def test_the_limit_of_loaded_models() -> None:
    async with running(model("a"), model("b"), max_loaded_models=1) as world:
        await world.ask(chat("a"))
        await world.ask(chat("b"))
        assert [row.name for row in world.agent.loaded()] == ["b:latest"]
        assert world.meter.unloads == [("a:latest", "evicted")]


async def test_gpu_overhead_is_left_free() -> None:
    async with running(model("a", tensor_bytes=10 * MIB), gpu_overhead_bytes=100 * MIB) as world:
        world.machine.gpus = 2
        world.machine.total_bytes = 205 * MIB
        with pytest.raises(NoMemory, match=r"this machine has 0\.00 GiB"):
            await world.ask(chat("a"))
        world.machine.total_bytes = 300 * MIB
        await world.ask(chat("a"))


async def test_a_model_that_is_too_large() -> None:
    async with running(model("a", tensor_bytes=20 << 30), model("b")) as world:
        with pytest.raises(NoMemory, match=r"needs 20\.00 GiB .* has 16\.00 GiB; use a smaller quantisation"):
            await world.ask(chat("a"))
        await world.ask(chat("b"))


async def test_missing_models() -> None:
    async with running(model()) as world:
        with pytest.raises(ModelNotFound):
            await world.ask(chat("nobody"))
        with pytest.raises(ModelNotFound):
            await world.ask(chat("nobody", messages=(), keep_alive_ms=0))


# -- long conversations ----------------------------------------------------------------------------------------------


class Fussy(TwinEngine):
    """Takes at most so many messages, and counts words in prompts as such."""

    limit = 3

    async def generate(self, request: ChatRequest, served_as: str):  # type: ignore[no-untyped-def,override]
        if len(request.messages) + len((request.prompt or "").split()) > self.limit:
            self.requests.append((request, served_as))
            raise InputTooLong("too long")
        async for read in super().generate(request, served_as):
            yield read


def fussy(engine: TwinEngine, _spec: LaunchSpec) -> None:
    engine.__class__ = Fussy


LONG = (Message("system", "s"), *(Message("user" if n % 2 else "assistant", str(n)) for n in range(6)))


async def test_the_oldest_messages_are_dropped_but_no_system_message() -> None:
    async with running(model()) as world:
        world.prepare = fussy
        chunks = await world.ask(chat(messages=LONG))
        assert chunks[-1].done_reason == "stop"
        asked = [request for request, _ in world.launcher.engines[0].requests]
        taken = [[message.content for message in request.messages] for request in asked]
        assert taken[0] == list("s012345")
        assert taken[-1] == list("s45")
        assert not any(request.truncate for request in asked)  # the engine cuts nothing while messages can go


async def test_no_truncation_if_it_is_not_wanted_or_not_possible() -> None:
    async with running(model()) as world:
        world.prepare = fussy
        with pytest.raises(InputTooLong):
            await world.ask(chat(messages=LONG, truncate=False))
        with pytest.raises(InputTooLong):
            await world.ask(chat(messages=(Message("system", "s"),) * 4 + (Message("user", "last"),)))
        with pytest.raises(InputTooLong):
            await world.ask(ChatRequest(model="tiny", prompt="a b c d", raw=True))
        assert world.launcher.engines[0].requests[-1][0].truncate
        assert world.agent.in_flight == 0


# -- embeddings ------------------------------------------------------------------------------------------------------


async def test_embeddings() -> None:
    async with running(model("e", pooling_type=1), model("chatty")) as world:
        result = await world.agent.embed(EmbedRequest(model="e", inputs=("one two", "three")), "e")
        assert len(result.vectors) == 2
        assert result.prompt_tokens == 3
        spec = world.launcher.specs[0]
        assert (spec.embedding, spec.parallel, spec.batch_tokens, spec.context_shift) == (True, 1, 2048, False)
        with pytest.raises(Unsupported, match="this model does not support embeddings"):
            await world.agent.embed(EmbedRequest(model="chatty", inputs=("x",)), "chatty")
        assert len(world.launcher.specs) == 1


async def test_embedding_nothing_loads_and_keep_alive_holds() -> None:
    async with running(model("e", pooling_type=1)) as world:
        result = await world.agent.embed(EmbedRequest(model="e", inputs=(), keep_alive_ms=0), "e")
        assert result.vectors == ()
        engine = world.launcher.engines[0]
        await engine.until(lambda: engine.is_closed)


async def test_other_settings_hold_from_the_next_request_on() -> None:
    async with running(model("a"), model("b")) as world:
        await world.ask(chat("a"))
        limits = {"keep_alive_ms": 1_000, "max_loaded_models": 1, "num_parallel": 2, "load_timeout_ms": 77.0}
        world.agent.reconfigure(AgentConfig(**limits, context_length=512, kv_cache_type="q8_0", flash_attention="on"))
        assert world.agent.slots == 2
        assert [row.name for row in world.agent.loaded()] == ["a:latest"]
        await world.ask(chat("b"))
        assert [row.name for row in world.agent.loaded()] == ["b:latest"]
        spec = world.launcher.specs[-1]
        assert (spec.parallel, spec.ctx_tokens, spec.kv_cache_type, spec.flash_attention) == (2, 512, "q8_0", "on")
        world.advance(1_000)
        assert world.agent.loaded() == []


async def test_other_gpu_overhead_is_left_free_at_the_next_load() -> None:
    async with running(model("a", tensor_bytes=10 * MIB)) as world:
        world.machine.gpus, world.machine.total_bytes = 2, 205 * MIB
        world.agent.reconfigure(AgentConfig(gpu_overhead_bytes=100 * MIB))
        with pytest.raises(NoMemory):
            await world.ask(chat("a"))
        world.agent.reconfigure(AgentConfig())
        await world.ask(chat("a"))
