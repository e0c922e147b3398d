"""Attached engines, and what is said to them."""

from contextlib import aclosing
from typing import Any

from ollamamax.adapters.engines.connector import Connector
from ollamamax.core.types import AttachedEngine, ChatRequest, Chunk, EngineKind, Message
from ollamamax.ports import Engine

HELLO = (Message("user", "hello"),)
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def attach(connector: Connector, url: str, kind: EngineKind, api_key: str = "") -> Engine:
    """The engine there."""
    return connector.connect(AttachedEngine(name="far", kind=kind, url=url, api_key=api_key))


def talk(**more: Any) -> ChatRequest:
    """A request, said differently where asked for."""
    return ChatRequest(**{"model": "m", "messages": HELLO, **more})


async def answer(engine: Engine, request: ChatRequest) -> list[Chunk]:
    """All of it."""
    async with aclosing(engine.generate(request, "tiny:latest")) as stream:
        return [chunk async for read in stream for chunk in read]
