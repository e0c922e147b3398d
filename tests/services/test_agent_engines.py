"""The agent over real llama.cpp children: load, answer, lose the child in the middle of an answer, answer again."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from agent_world import MemoryLibrary, chat, model, text_of
from msgspec.structs import replace

from models import chain_text, write_llama
from ollamamax.adapters.engines.llamacpp import LlamaCppLauncher
from ollamamax.adapters.system.clock import SystemClock, SystemDice
from ollamamax.adapters.system.machine import SystemMachine
from ollamamax.core.errors import EngineCrashed, InputTooLong, LoadFailed
from ollamamax.core.modelspec import gguf
from ollamamax.core.types import ChatRequest, Chunk, EmbedRequest, Message, Options, ResolvedModel
from ollamamax.services.agent import AgentConfig, LocalAgent
from ollamamax.testing.meter import MemoryMeter

LIMIT_S = 60.0


def real(name: str, path: Path) -> ResolvedModel:
    data = path.read_bytes()
    facts = gguf.parse(data, len(data))
    return model(name, facts=facts, model_path=str(path), size_bytes=len(data))


@asynccontextmanager
async def running(*models: ResolvedModel) -> AsyncGenerator[LocalAgent, None]:
    clock, dice = SystemClock(), SystemDice()
    launcher = LlamaCppLauncher(clock, dice)
    config = AgentConfig(num_parallel=2)
    agent = LocalAgent(MemoryLibrary(models), launcher, SystemMachine(), clock, dice, MemoryMeter(), config)
    before = set(psutil.Process().children())
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(agent.run())
        try:
            yield agent
            agent.check_invariants()
        finally:
            await agent.close()
    assert set(psutil.Process().children()) == before


async def ask(agent: LocalAgent, request: ChatRequest) -> list[Chunk]:
    return [chunk async for chunks in agent.generate(request, request.model) for chunk in chunks]


def raw(prompt: str, count: int, **options: int) -> ChatRequest:
    return ChatRequest(
        model="chain", prompt=prompt, raw=True, options=Options(num_predict=count, temperature=0.0, **options)
    )


@pytest.fixture
def chain(tmp_path: Path) -> ResolvedModel:
    return real("chain", write_llama(tmp_path / "chain.gguf", chain=True, context=65_536))


async def test_a_killed_child_fails_its_answer_and_the_next_request_is_answered(chain: ResolvedModel) -> None:
    async with running(chain) as agent:
        answer = await ask(agent, raw("a", 40))
        assert text_of(answer) == chain_text("a", 40)
        assert answer[-1].done_reason == "length"
        (child,) = [each for each in psutil.Process().children() if "llamacpp_child" in " ".join(each.cmdline())]
        stream = agent.generate(raw("a", 30_000, num_ctx=32_768), "chain")
        await anext(stream)  # another context: this is a second child
        (second,) = [each for each in psutil.Process().children() if "llamacpp_child" in " ".join(each.cmdline())]
        assert second.pid != child.pid
        os.kill(second.pid, signal.SIGKILL)
        with pytest.raises(EngineCrashed, match="unexpectedly stopped"):
            async for _ in stream:
                pass
        assert text_of(await ask(agent, raw("x", 12, num_ctx=32_768))) == chain_text("x", 12)


async def test_more_answers_at_once_than_slots(chain: ResolvedModel) -> None:
    async with running(chain) as agent:
        prompts = [chr(ord("a") + number) for number in range(8)]
        answers = await asyncio.gather(*(ask(agent, raw(prompt, 30)) for prompt in prompts))
        assert [text_of(answer) for answer in answers] == [chain_text(prompt, 30) for prompt in prompts]
        assert agent.loaded()[0].context_length == 4096


async def test_leaving_frees_the_slot_soon(chain: ResolvedModel) -> None:
    async with running(chain) as agent:
        streams = [agent.generate(raw("a", 30_000, num_ctx=32_768), "chain") for _ in range(2)]
        for stream in streams:
            await anext(stream)
        for stream in streams:
            await stream.aclose()
        async with asyncio.timeout(5):
            assert text_of(await ask(agent, raw("b", 5, num_ctx=32_768))) == chain_text("b", 5)


async def test_long_conversations_are_shortened(chain: ResolvedModel) -> None:
    messages = tuple(Message("user", f"{number:02d}" * 20) for number in range(20))
    options = Options(num_ctx=256, num_predict=4, temperature=0.0)
    async with running(chain) as agent:
        answer = await ask(agent, chat("chain", messages=messages, options=options))
        assert answer[-1].stats is not None
        assert 190 < answer[-1].stats.prompt_tokens <= 256
        with pytest.raises(InputTooLong):
            await ask(agent, chat("chain", messages=messages, options=options, truncate=False))


async def test_a_go_template_over_a_real_engine(chain: ResolvedModel) -> None:
    template = "{{ range .Messages }}{{ .Content }}{{ end }}z"
    templated = model("chain", facts=chain.facts, model_path=chain.model_path, template=template)
    async with running(templated) as agent:
        request = chat("chain", want_context=True, options=Options(num_predict=6, temperature=0.0))
        answer = await ask(agent, request)
        assert text_of(answer) == chain_text("z", 6)
        assert bytes(number - 3 for number in answer[-1].context if number > 2).decode().endswith(chain_text("z", 6))


async def test_a_format_holds_behind_the_thinking(tmp_path: Path) -> None:
    facts = real("thinker", write_llama(tmp_path / "t.gguf", chain=True, cycle="abc</think>xyz"))
    thinker = replace(
        facts, template="{{ range .Messages }}{{ .Content }}{{ end }}<think>", capabilities=("completion", "thinking")
    )
    schema = '{"type":"object","properties":{"city":{"enum":["Rome"]}},"required":["city"]}'
    async with running(thinker) as agent:
        answer = await ask(agent, chat("thinker", format=schema, options=Options(num_predict=400, temperature=0.0)))
        assert "".join(chunk.thinking for chunk in answer) == "xyzabc"
        assert json.loads(text_of(answer)) == {"city": "Rome"}
        stats = answer[-1].stats
        assert stats is not None
        assert stats.eval_tokens > len("xyzabc</think>")


async def test_embeddings(tmp_path: Path) -> None:
    embedder = real("e", write_llama(tmp_path / "e.gguf", pooling=1))
    async with running(embedder) as agent:
        result = await agent.embed(EmbedRequest(model="e", inputs=("one", "two", "one")), "e")
        assert result.vectors[0] == pytest.approx(result.vectors[2], abs=1e-4)
        assert len(result.vectors) == 3


async def test_a_damaged_file(tmp_path: Path, chain: ResolvedModel) -> None:
    whole = Path(chain.model_path).read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: len(whole) // 2])
    async with running(model("cut", facts=chain.facts, model_path=str(cut)), chain) as agent:
        with pytest.raises(LoadFailed, match="damaged"):
            await ask(agent, chat("cut"))
        assert text_of(await ask(agent, raw("a", 3))) == chain_text("a", 3)
