"""Replicas that the agent keeps: several of a model, taken over, let go, gone with their model."""

import asyncio

import pytest
from agent_world import chat, first, hold, model, running, settled

from ollamamax.core.errors import EngineError, ModelNotFound
from ollamamax.core.placement.keeper import Phase
from ollamamax.core.types import EngineModel
from ollamamax.services.members import LocalMember

KEY = "tiny:latest"


async def test_each_is_a_process_and_requests_go_to_the_one_with_the_least_to_do() -> None:
    async with running(model(), num_parallel=2) as world:
        world.prepare = hold
        for _ in range(2):
            await world.agent.keep(KEY)
        assert len(world.launcher.live) == 2
        assert [row.name for row in world.agent.loaded()] == [KEY, KEY]
        rests = [await first(world, chat()) for _ in range(4)]
        assert world.agent.in_flight == 4
        assert sorted(engine.active for engine in world.launcher.live) == [2, 2]
        assert all(one.busy for one in await world.agent.kept())
        for engine in world.launcher.live:
            engine.next_gate.set()
        for _, rest in rests:
            await rest
        kept = await world.agent.kept()
        assert [(one.key, one.phase, one.busy) for one in kept] == [(KEY, Phase.READY, False)] * 2
        assert len({one.instance_id for one in kept}) == 2


async def test_slots_add_up() -> None:
    async with running(model(), model("e", pooling_type=1), num_parallel=2) as world:
        member = LocalMember(world.agent)
        member.set_models(await world.agent.models())

        def slots() -> dict[str, int]:
            return {key: offered.slots for key, offered in member.offers().items()}

        assert slots() == {KEY: 0, "e:latest": 1}
        for key in (KEY, "e:latest"):
            await world.agent.keep(key)
        assert slots() == {KEY: 0, "e:latest": 1}
        for key in (KEY, "e:latest"):
            await world.agent.keep(key)
        assert slots() == {KEY: 4, "e:latest": 2}


async def test_one_that_was_let_go_leaves_by_its_keep_alive() -> None:
    async with running(model(), keep_alive_ms=1_000) as world:
        await world.agent.keep(KEY)
        world.advance(10_000)
        (one,) = await world.agent.kept()
        world.agent.let_go(one.instance_id)
        assert await world.agent.kept() == ()
        assert len(world.agent.loaded()) == 1
        world.advance(1_000)
        await settled(lambda: not world.agent.loaded())


async def test_one_of_a_former_version_is_let_go() -> None:
    async with running(model(), keep_alive_ms=1_000) as world:
        await world.agent.keep(KEY)
        world.library.models[KEY] = model(model_digest="sha256:new")
        assert await world.agent.kept() == ()
        await world.agent.keep(KEY)
        assert len(await world.agent.kept()) == 1
        del world.library.models[KEY]
        assert await world.agent.kept() == ()
        with pytest.raises(ModelNotFound):
            await world.agent.keep(KEY)


async def test_what_leaves_counts_no_more() -> None:
    async with running(model()) as world:
        world.prepare = hold
        await world.agent.keep(KEY)
        _, rest = await first(world, chat())
        vacating = asyncio.create_task(world.agent.vacate("tiny", 30_000.0))
        await settled(lambda: not any(runner.kept_for for runner in world.agent._pool.runners))
        assert not vacating.done(), "the answer ends by itself"
        for engine in world.launcher.live:
            engine.next_gate.set()
        await rest
        await vacating
        assert world.agent.loaded() == []
        await world.agent.vacate("tiny", 30_000.0)


async def test_all_answers_end_when_the_time_of_a_drain_is_over() -> None:
    async with running(model()) as world:
        world.prepare = hold
        await world.agent.keep(KEY)
        _, rest = await first(world, chat())
        world.agent.stop_serving()
        await settled(lambda: not world.launcher.live)
        with pytest.raises(EngineError):
            await rest
        assert await world.agent.kept() == ()


async def test_what_each_model_needs_is_told() -> None:
    async with running(model(), model("broken", tensor_bytes=5 << 20)) as world:
        told: dict[str, EngineModel] = {one.key: one for one in await world.agent.models()}
        assert len(told[KEY].needs_bytes) == 3, "with four slots, two, or one"
        assert list(told[KEY].needs_bytes) == sorted(told[KEY].needs_bytes, reverse=True)
        assert told["broken:latest"].needs_bytes[0] - told[KEY].needs_bytes[0] == 4 << 20
