"""Pulls side by side: what is shared, who may leave, what stays."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from registry_world import CONFIG, GGUF, LIMIT_S, World, digest_of, short

from ollamamax.core.errors import (
    RegistryNotFound,
    ShuttingDown,
)
from ollamamax.core.types import Progress, TransferRequest
from ollamamax.testing.registry import MemoryRegistry


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with asyncio.timeout(LIMIT_S):
        yield world
    await world.library.close()
    await world.library.close()


class Gate:
    """Holds those who read blobs. reached: how many pieces were asked for."""

    def __init__(self, registry: MemoryRegistry, free: int) -> None:
        self.free = free
        self.reached = 0
        self.changed = asyncio.Condition()
        registry.wait_to_read = self.wait  # type: ignore[method-assign]

    async def wait(self) -> None:
        async with self.changed:
            self.reached += 1
            self.changed.notify_all()
            mine = self.reached
            await self.changed.wait_for(lambda: mine <= self.free)

    async def until(self, reached: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.reached >= reached)

    async def open(self) -> None:
        async with self.changed:
            self.free = 1 << 30
            self.changed.notify_all()


async def test_two_pulls_share_a_download(world: World) -> None:
    world.publish("a", GGUF)
    world.publish("b", GGUF)
    gate = Gate(world.registry, free=5)
    pulls = [asyncio.create_task(world.pull(model)) for model in ("a", "b")]
    await gate.until(6)
    await gate.open()
    for steps in await asyncio.gather(*pulls):
        assert Progress(f"pulling {short(GGUF)}", digest_of(GGUF), len(GGUF), len(GGUF)) in steps
        assert steps[-1].status == "success"
    assert world.registry.read_bytes == len(GGUF) + len(CONFIG)


async def test_one_of_two_leaves_and_the_other_goes_on(world: World) -> None:
    world.publish("a", GGUF)
    world.publish("b", GGUF)
    gate = Gate(world.registry, free=5)
    first, second = (asyncio.create_task(world.pull(model)) for model in ("a", "b"))
    await gate.until(6)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await gate.open()
    assert (await second)[-1].status == "success"
    assert world.registry.read_bytes == len(GGUF) + len(CONFIG)


async def test_a_cancelled_pull_keeps_what_has_come(world: World) -> None:
    world.publish("m", GGUF)
    gate = Gate(world.registry, free=7)
    pull = asyncio.create_task(world.pull("m"))
    await gate.until(10)  # three connections wait
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    assert world.registry.read_bytes == 7_000
    async with aclosing(world.library.pull(TransferRequest("m"))) as steps:
        told = [await anext(steps) for _ in range(2)]
    assert told[1].completed == 7_000
    await gate.open()
    await world.pull("m")
    assert world.registry.read_bytes == len(GGUF) + len(CONFIG)


async def test_a_pull_begins_while_an_equal_one_is_given_up(world: World) -> None:
    world.publish("m", GGUF)
    gate = Gate(world.registry, free=7)
    first = asyncio.create_task(world.pull("m"))
    await gate.until(10)
    first.cancel()
    second = asyncio.create_task(world.pull("m"))
    await gate.open()
    assert (await second)[-1].status == "success"
    assert first.cancelled()
    assert world.registry.read_bytes == len(GGUF) + len(CONFIG)


async def test_a_registry_that_fails_does_not_fail_the_pull_from_another(world: World) -> None:
    world.publish("bad.example/x/m", GGUF)
    world.publish("good.example/x/m", GGUF)
    gate = Gate(world.registry, free=3)
    first = asyncio.create_task(world.pull("bad.example/x/m"))
    await gate.until(6)
    second = asyncio.create_task(world.pull("good.example/x/m"))
    del world.registry.blobs["bad.example/x/m", digest_of(GGUF)]
    await gate.until(6)
    await gate.open()
    with pytest.raises(RegistryNotFound):
        await first
    assert (await second)[-1].status == "success"


async def test_the_node_stops(world: World) -> None:
    world.publish("m", GGUF)
    gate = Gate(world.registry, free=7)
    pull = asyncio.create_task(world.pull("m"))
    await gate.until(10)
    world.library.begin_drain()
    for one in (pull, world.pull("m")):
        with pytest.raises(ShuttingDown, match="what has come of the model is kept"):
            await one
    await world.library.close()
