"""Answers that are thought about freely and then held to a format."""

from typing import Any

import pytest
from agent_world import World, chat, model, running

from ollamamax.core.errors import InputTooLong
from ollamamax.core.types import ChatRequest, Chunk, GenerationStats, LaunchSpec, Options
from ollamamax.testing.engine import TwinEngine

GO = "{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}<assistant>"
THINKER = model(template=GO, capabilities=("completion", "thinking"))
OPENED = model(template=GO + "<think>", capabilities=("completion", "thinking"))
SCHEMA = '{"type":"object"}'


def says(*texts: str, reason: str = "stop") -> list[list[Chunk]]:
    """A token for each text, one read for each."""
    reads = [[Chunk(text=text, token_ids=(number,))] for number, text in enumerate(texts)]
    stats = GenerationStats(prompt_tokens=10 + len(texts), eval_tokens=len(texts), eval_ms=4.0 * len(texts))
    return [*reads, [Chunk(done_reason=reason, stats=stats)]]


class Thinker(TwinEngine):
    """Says one thing freely and another when it is held to a format."""

    free: list[list[Chunk]]
    held: list[list[Chunk]]
    fails_held = False

    async def generate(self, request: ChatRequest, served_as: str):  # type: ignore[no-untyped-def,override]
        self.script = self.held if request.format else self.free
        if request.format and self.fails_held:
            raise InputTooLong("too long")
        async for read in super().generate(request, served_as):
            yield read


def thinking(world: World, free: list[list[Chunk]], held: list[list[Chunk]], **more: Any) -> None:
    def prepare(engine: TwinEngine, _spec: LaunchSpec) -> None:
        engine.__class__ = Thinker
        vars(engine).update(free=free, held=held, **more)

    world.prepare = prepare


def parts(chunks: list[Chunk]) -> tuple[str, str]:
    return "".join(chunk.thinking for chunk in chunks), "".join(chunk.text for chunk in chunks)


def prompts(world: World) -> list[str | None]:
    return [request.prompt for request, _ in world.launcher.engines[0].requests]


async def test_a_format_holds_only_after_the_thinking() -> None:
    async with running(THINKER) as world:
        thinking(world, says("<think>", "so", " so", "</think>", "\n", "free"), says("{", "}"))
        options = Options(num_predict=20)
        chunks = await world.ask(chat(format=SCHEMA, options=options))
        assert parts(chunks) == ("so so", "{}")
        assert prompts(world) == ["<user>hi<assistant>", "<user>hi<assistant><think>so so</think>"]
        first, second = (request for request, _ in world.launcher.engines[0].requests)
        assert (first.format, second.format) == ("", SCHEMA)
        assert second.options.num_predict == 16
        stats = chunks[-1].stats
        assert stats is not None
        assert (stats.prompt_tokens, stats.eval_tokens, stats.eval_ms) == (8, 6, 24.0)
        assert [chunk.done_reason for chunk in chunks if chunk.done_reason] == ["stop"]


async def test_a_prompt_that_opens_the_thinking() -> None:
    async with running(OPENED) as world:
        thinking(world, says("hm", "</think>", "free"), says("{}"))
        assert parts(await world.ask(chat(format="json"))) == ("hm", "{}")
        assert prompts(world)[1] == "<user>hi<assistant><think>hm</think>"


async def test_one_that_does_not_think_after_all() -> None:
    async with running(THINKER) as world:
        thinking(world, says("well", "</think>"), says("{}"))
        chunks = await world.ask(chat(format="json"))
        assert parts(chunks) == ("", "{}")
        assert prompts(world) == ["<user>hi<assistant>"] * 2
        assert chunks[-1].stats == says("{}")[-1][0].stats


async def test_thinking_that_never_ends() -> None:
    async with running(THINKER) as world:
        thinking(world, says("<think>", "on and on", reason="length"), says("{}"))
        chunks = await world.ask(chat(format="json"))
        assert parts(chunks) == ("on and on", "")
        assert chunks[-1].done_reason == "length"
        assert len(prompts(world)) == 1


async def test_thinking_without_content_behind_it() -> None:
    async with running(THINKER) as world:
        thinking(world, says("<think>", "hm", "</think>"), says("{}"))
        chunks = await world.ask(chat(format="json"))
        assert parts(chunks) == ("hm", "{}")
        assert [chunk.done_reason for chunk in chunks if chunk.done_reason] == ["stop"]


async def test_without_thinking_one_pass_is_enough() -> None:
    async with running(THINKER) as world:
        thinking(world, says("free"), says("{}"))
        assert parts(await world.ask(chat(format="json", think=False))) == ("", "{}")
        assert len(prompts(world)) == 1


async def test_what_was_told_is_not_told_again() -> None:
    """Not even where the thinking leaves no room in the context, although a message could still be dropped."""
    async with running(THINKER) as world:
        thinking(world, says("<think>", "long", "</think>", "x"), says("{}"), fails_held=True)
        with pytest.raises(InputTooLong):
            await world.ask(chat(format="json", messages=(*chat().messages, *chat().messages)))
        assert len(prompts(world)) == 1  # the free one
