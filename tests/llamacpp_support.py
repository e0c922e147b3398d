"""Starts llama.cpp children on models made for a test, and asks them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from models import write_llama
from ollamamax.adapters.engines.llamacpp import LlamaCppEngine, LlamaCppLauncher
from ollamamax.adapters.system.clock import SystemClock
from ollamamax.core.types import ChatRequest, Chunk, LaunchSpec, Message, Options
from ollamamax.testing.clock import SeededDice

Launch = Callable[..., Awaitable[LlamaCppEngine]]


@asynccontextmanager
async def launching(folder: Path) -> AsyncIterator[Launch]:
    """Gives `launch(spec fields, **write_llama's arguments)`; all engines are closed in the end, and gone."""
    launcher = LlamaCppLauncher(SystemClock(), SeededDice(7))
    engines: list[LlamaCppEngine] = []

    async def start(spec: dict[str, Any] | None = None, **model: Any) -> LlamaCppEngine:
        path = write_llama(folder / f"{len(engines)}.gguf", **model)
        engines.append(await launcher.launch(spec_of(path, **(spec or {}))))
        return engines[-1]

    async with asyncio.timeout(60):
        yield start
        for engine in engines:
            await engine.close()
            assert not psutil.pid_exists(engine.pid)


def spec_of(path: Path, **more: Any) -> LaunchSpec:
    return LaunchSpec(**{"key": "k", "name": "m", "model_path": str(path), "ctx_tokens": 512, "parallel": 1, **more})


def ask(prompt: str = "a", num_predict: int = 20, **more: Any) -> ChatRequest:
    options = Options(num_predict=num_predict, temperature=0.0, stop=more.pop("stop", None))
    return ChatRequest(model="m", prompt=prompt, options=options, **more)


def talk(num_predict: int = 20, **more: Any) -> ChatRequest:
    message = Message("user", more.pop("content", "hi"), images=more.pop("images", ()))
    return ChatRequest(model="m", messages=(message,), options=Options(num_predict=num_predict, seed=1), **more)


async def answer(engine: LlamaCppEngine, request: ChatRequest) -> list[Chunk]:
    return [chunk async for read in engine.generate(request, "m") for chunk in read]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def ids_of(chunks: list[Chunk]) -> list[int]:
    return [number for chunk in chunks for number in chunk.token_ids]


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def until_gone(pid: int, limit_s: float) -> None:
    async with asyncio.timeout(limit_s):
        while not gone(pid):
            await asyncio.to_thread(psutil.wait_procs, [psutil.Process(pid)], 0.05)
