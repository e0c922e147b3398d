"""Engines: attached, probed, lost, found again, detached; and what is told of them."""

import asyncio

import pytest
from gateway_world import LocalTwin, chat, in_memory, offer, record, world

from ollamamax.core.errors import (
    BadRequest,
    Conflict,
    DiskFull,
    EngineCrashed,
    EngineNotFound,
    EngineTimeout,
    EngineUnavailable,
    StoreError,
)
from ollamamax.core.resilience.breaker import BreakerConfig
from ollamamax.core.routing.predict import Sample
from ollamamax.core.types import AttachedEngine, EngineKind, EngineModel
from ollamamax.services.fleet import FleetConfig
from ollamamax.testing.engine import TwinEngine

SOON = FleetConfig(poll_ms=1, timeout_ms=2_000, backoff_min_ms=1, backoff_max_ms=4, min_age_ms=0)


def attached(name: str, slots: int = 4, url: str = "http://x") -> AttachedEngine:
    return AttachedEngine(name=name, kind=EngineKind.OLLAMA, url=url, slots=slots, api_key="secret")


async def test_an_added_engine_is_probed_and_remembered_at_once() -> None:
    async with world(LocalTwin(), {}) as w:
        w.connector.engines["left"] = TwinEngine([offer()])
        await w.fleet.add(attached("left"))
        local, left = w.fleet.statuses()
        assert (local.name, local.kind, local.models) == ("local", "llamacpp", ())
        assert (left.name, left.reachable, left.models, left.error) == ("left", True, ("tiny:latest",), "")
        assert w.book.engines == (attached("left"),)
        assert "secret" not in repr(w.fleet.statuses())
        assert await w.ask() != ""


async def test_one_that_does_not_answer_is_kept_and_shown_so() -> None:
    async with world(LocalTwin(), {}) as w:
        w.connector.engines["left"] = twin = TwinEngine([offer()])
        twin.models_error = EngineUnavailable("connection refused")
        await w.fleet.add(attached("left"))
        status = w.fleet.statuses()[1]
        assert (status.reachable, status.error, status.age_ms) == (False, "connection refused", -1)
        assert w.book.engines == (attached("left"),)


async def test_names_are_unique() -> None:
    async with world(twins={"left": TwinEngine()}) as w:
        for name in ("left", "local"):
            with pytest.raises(Conflict, match=f"an engine named '{name}' exists already"):
                await w.fleet.add(attached(name))
        assert len(w.fleet.statuses()) == 2


async def test_an_url_that_cannot_be_used_changes_nothing() -> None:
    async with world() as w:
        w.connector.refusal = BadRequest("no such scheme")
        with pytest.raises(BadRequest):
            await w.fleet.add(attached("left", url="gopher://x"))
        assert len(w.fleet.statuses()) == 1
        assert w.book.saves == 0


async def test_what_cannot_be_saved_is_neither_attached_nor_detached() -> None:
    async with world(twins={"left": TwinEngine()}) as w:
        w.book.save_error = DiskFull("no space")
        with pytest.raises(StoreError):
            await w.fleet.add(attached("right"))
        assert w.connector.engines["right"].is_closed
        with pytest.raises(StoreError):
            await w.fleet.remove("left")
        assert [status.name for status in w.fleet.statuses()] == ["local", "left"]
        assert not w.twins["left"].is_closed


@pytest.mark.parametrize("name", ["nobody", "local"])
async def test_only_attached_engines_can_be_removed(name: str) -> None:
    async with world() as w:
        with pytest.raises(EngineNotFound, match=f"no engine named '{name}' is attached"):
            await w.fleet.remove(name)


async def test_a_removed_engine_is_closed_and_forgotten() -> None:
    async with world(LocalTwin(), {"left": TwinEngine([offer()])}) as w:
        assert await w.ask() != ""
        await w.fleet.remove("left")
        assert w.twins["left"].is_closed
        assert w.book.engines == ()
        assert await w.fleet.records() == []


async def test_one_that_is_removed_while_it_answers_finishes_its_answer() -> None:
    twin = TwinEngine([offer()])
    async with world(LocalTwin(), {"left": twin}) as w:
        twin.next_gate.clear()
        answer = asyncio.create_task(w.ask())
        await twin.until(lambda: twin.active == 1)
        await w.fleet.remove("left")
        assert not twin.is_closed
        twin.next_gate.set()
        assert await answer == "Hello there, how are you?"
        await twin.until(lambda: twin.is_closed)


async def test_the_book_is_read_at_the_start_and_a_bad_entry_does_not_stop_it() -> None:
    async with world(twins={"left": TwinEngine([offer()]), "right": TwinEngine([offer()])}) as w:
        assert [status.name for status in w.fleet.statuses()] == ["local", "left", "right"]
    async with world() as w:
        w.book.engines = (attached("left"),)
        w.connector.refusal = BadRequest("no such scheme")
        await w.fleet.open()
        assert [status.name for status in w.fleet.statuses()] == ["local"]


async def test_an_unreadable_book_stops_the_start() -> None:
    async with world() as w:
        w.book.load_error = StoreError("engines.json is damaged")
        with pytest.raises(StoreError):
            await w.fleet.open()


async def test_polling_notices_loss_and_return() -> None:
    twin = TwinEngine([offer()])
    async with world(twins={"left": twin}, fleet=SOON) as w:
        runner = asyncio.create_task(w.fleet.run())
        w.clock.advance(1)
        calls = twin.models_calls
        await twin.until(lambda: twin.models_calls >= calls + 3)
        twin.models_error = EngineUnavailable("gone")
        await w.until(lambda: not w.fleet.statuses()[1].reachable)
        twin.models_error, twin.offered = None, (offer("other:latest"),)
        await w.until(lambda: w.fleet.statuses()[1].reachable)
        assert w.fleet.statuses()[1].models == ("other:latest",)
        w.connector.engines["right"] = right = TwinEngine([offer()])
        await w.fleet.add(attached("right"))
        await right.until(lambda: right.models_calls >= 3)
        await w.fleet.remove("right")
        runner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await runner


async def test_pauses_grow_from_the_backoff_to_its_end_with_jitter() -> None:
    async with world(twins={"left": TwinEngine()}) as w:
        prober, member = w.fleet._prober, w.fleet._members["left"]
        assert 4_000 <= prober._pause_ms(member) <= 5_000
        pauses = []
        for failed in range(1, 9):
            member.failed_probes = failed
            pauses.append(prober._pause_ms(member))
        for pause_ms, whole_ms in zip(
            pauses, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000], strict=True
        ):
            assert whole_ms * 0.8 <= pause_ms <= whole_ms
        assert len(set(pauses[-3:])) == 3


async def test_a_failure_has_the_engine_asked_at_once() -> None:
    twin = TwinEngine([offer()])
    calm = FleetConfig(poll_ms=3_600_000, min_age_ms=0)
    async with world(LocalTwin(), {"left": twin}, fleet=calm) as w:
        runner = asyncio.create_task(w.fleet.run())
        await twin.until(lambda: twin.models_calls == 2)
        twin.fail_first = twin.models_error = EngineUnavailable("connection refused")
        with pytest.raises(EngineUnavailable):
            await w.ask()
        await w.until(lambda: not w.fleet.statuses()[1].reachable)
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)


async def test_a_hanging_engine_is_out_of_reach_after_the_limit() -> None:
    twin = TwinEngine([offer()])
    async with world(twins={"left": twin}, fleet=FleetConfig(timeout_ms=20)) as w:
        twin.models_gate.clear()
        w.clock.advance(1_000)
        await w.fleet.refresh()
        status = w.fleet.statuses()[1]
        assert (status.reachable, status.error) == (False, "no answer within 0.02 s")


async def test_one_whose_answers_go_on_is_only_busy() -> None:
    twin = TwinEngine([offer()])
    async with world(LocalTwin(), {"left": twin}, fleet=FleetConfig(timeout_ms=50)) as w:
        twin.models_gate.clear()
        w.clock.advance(1_000)
        calls = twin.models_calls
        probe = asyncio.create_task(w.fleet.refresh("left"))
        await twin.until(lambda: twin.models_calls > calls)
        assert await w.ask() != ""
        await probe
        assert w.fleet.statuses()[1].reachable


async def test_an_oddity_of_one_engine_does_not_end_the_watch() -> None:
    twin = TwinEngine([offer()])
    async with world(twins={"left": twin}) as w:
        twin.models_error = KeyError("surprise")
        w.clock.advance(1_000)
        await w.fleet.refresh()
        assert w.fleet.statuses()[1].error == "internal error"


async def test_equal_probes_are_one_and_fresh_facts_are_not_asked_for() -> None:
    twin = TwinEngine([offer()])
    async with world(twins={"left": twin}) as w:
        calls = twin.models_calls
        await w.fleet.refresh()
        assert twin.models_calls == calls
        w.clock.advance(1_000)
        await asyncio.gather(*(w.fleet.refresh() for _ in range(20)))
        assert twin.models_calls == calls + 1


async def test_a_cancelled_caller_does_not_cancel_the_probe_of_others() -> None:
    twin = TwinEngine([offer()])
    async with world(twins={"left": twin}) as w:
        twin.models_gate.clear()
        twin.offered = (offer("new:latest"),)
        w.clock.advance(1_000)
        calls = twin.models_calls
        first, second = (asyncio.create_task(w.fleet.refresh("left")) for _ in range(2))
        await twin.until(lambda: twin.models_calls > calls)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        twin.models_gate.set()
        await second
        assert w.fleet.statuses()[1].models == ("new:latest",)


async def test_local_changed_reads_anew_even_while_a_probe_is_under_way() -> None:
    async with world() as w:
        w.local.models_gate.clear()
        w.clock.advance(1_000)
        calls = w.local.models_calls
        old = asyncio.create_task(w.fleet.refresh("local"))
        await w.local.until(lambda: w.local.models_calls == calls + 1)
        changed = asyncio.create_task(w.fleet.local_changed())
        await asyncio.sleep(0)
        w.local.models_gate.set()
        await asyncio.gather(old, changed)
        assert w.local.models_calls == calls + 2


async def test_the_local_list_outlives_a_store_that_cannot_be_read() -> None:
    async with world() as w:
        w.local.models_error = StoreError("permission denied")
        await w.fleet.local_changed()
        status = w.fleet.statuses()[0]
        assert (status.reachable, status.error, status.models) == (True, "permission denied", ("tiny:latest",))


async def test_lists_are_merged_local_first() -> None:
    odd = EngineModel("meta/llama 3", "Meta/Llama 3", loaded=True)
    left = TwinEngine([offer("TINY:latest"), offer("big:latest"), odd])
    lost = TwinEngine([offer("lost:latest")])
    async with world(twins={"left": left, "lost": lost}) as w:
        w.clock.advance(1_000)
        lost.models_error = EngineUnavailable("gone")
        await w.fleet.refresh()
        assert [one.name for one in await w.fleet.records()] == ["tiny:latest", "big:latest", "Meta/Llama 3"]
        found = w.fleet.find("tiny:latest")
        assert found is not None
        assert found[0].engine_id == "local"
        assert w.fleet.find("lost:latest") is None


async def test_running_models_are_those_in_memory_anywhere() -> None:
    row = in_memory("big:latest")
    left = TwinEngine([EngineModel("big:latest", "big:latest", True, record("big:latest"), row), offer("idle:latest")])
    async with world(twins={"left": left}) as w:
        assert [one.name for one in await w.fleet.running()] == ["tiny:latest", "big:latest"]
        w.local.in_memory = ()
        assert [one.name for one in await w.fleet.running()] == ["big:latest"]


async def test_local_models_are_marked_as_they_come_and_go() -> None:
    async with world(LocalTwin([offer(loaded=False), offer("other:latest", loaded=False)])) as w:

        def loaded() -> list[str]:
            models = w.fleet.snapshot().engines[0].models
            return [key for key, model in models.items() if model.loaded]

        assert loaded() == []
        w.local.in_memory = (in_memory("Tiny:latest"),)
        assert loaded() == ["tiny:latest"]
        w.local.in_memory = (in_memory("other:latest"),)
        assert loaded() == ["other:latest"]


async def test_a_copy_of_a_loaded_model_is_loaded_too() -> None:
    copy = EngineModel("copy:latest", "copy:latest", False, record("tiny:latest"))
    async with world(LocalTwin([offer(), copy])) as w:
        assert w.fleet.snapshot().engines[0].models["copy:latest"].loaded


async def test_descriptions_come_from_who_has_the_model() -> None:
    left = TwinEngine([offer("big:latest")])
    left.shows["big:latest"] = {"license": "MIT"}
    async with world(twins={"left": left}) as w:
        assert await w.fleet.describe("BIG") == {"license": "MIT"}
        assert await w.fleet.describe("nothing") is None


async def test_a_description_has_a_deadline() -> None:
    class Slow(TwinEngine):
        async def describe(self, served_as: str) -> None:
            await asyncio.Event().wait()

    async with world(twins={"left": Slow([offer("big:latest")])}, fleet=FleetConfig(timeout_ms=20)) as w:
        with pytest.raises(EngineTimeout, match="engine 'left' did not answer in time"):
            await w.fleet.describe("big")


async def test_accounts_of_a_lease() -> None:
    async with world() as w:
        lease = w.lease()
        (facts,) = w.fleet.snapshot().engines
        assert (facts.in_flight, facts.outstanding_tokens, facts.busy) == (1, 256, {"tiny:latest": 1})
        lease.progress(56)
        assert w.fleet.snapshot().engines[0].outstanding_tokens == 200
        lease.progress(1_000)
        assert w.fleet.snapshot().engines[0].outstanding_tokens == 0
        w.fleet.succeeded(lease, Sample(100, 1_000.0, 50, 500.0))
        (facts,) = w.fleet.snapshot().engines
        assert (facts.in_flight, facts.outstanding_tokens, facts.busy) == (0, 0, {})
        assert (facts.prefill_tps, facts.decode_tps) == (100.0, 100.0)
        assert w.fleet.mean_output_tokens == 50
        with pytest.raises(AssertionError):
            w.fleet.abandoned(lease)


async def test_facts_carry_their_age_and_the_local_load_time() -> None:
    async with world() as w:
        w.local.last_load_ms = 700.0
        w.clock.advance(1_234)
        (facts,) = w.fleet.snapshot().engines
        assert (facts.age_ms, facts.load_ms) == (1_234, 700.0)
        assert w.fleet.statuses()[0].load_ms == 700.0


async def test_an_engine_that_answered_has_the_model_in_memory() -> None:
    async with world(LocalTwin(), {"left": TwinEngine([offer(loaded=False)])}) as w:
        await w.ask()
        assert w.fleet.snapshot().engines[1].models["tiny:latest"].loaded


@pytest.mark.parametrize("breaker", [BreakerConfig(failures=3, open_ms=10_000), BreakerConfig(failures=5, open_ms=700)])
async def test_breakers_are_per_model_and_shown(breaker: BreakerConfig) -> None:
    config = FleetConfig(breaker=breaker)
    async with world(LocalTwin([offer(), offer("other:latest")]), fleet=config) as w:
        for _ in range(breaker.failures):
            assert w.fleet.held_back("tiny:latest") == {}
            w.clock.advance(10)
            w.fleet.failed(w.lease(), EngineCrashed("died"))
        left_out = {"local": f"is left out for a while after {breaker.failures} failures"}
        w.clock.advance(breaker.open_ms - 1)
        assert w.fleet.held_back("tiny:latest") == left_out
        assert w.fleet.held_back("other:latest") == {}
        assert w.fleet.statuses()[0].left_out == ("tiny:latest",)
        w.clock.advance(1)
        assert w.fleet.held_back("tiny:latest") == {}
        probe = w.lease()
        assert w.fleet.held_back("tiny:latest") == {"local": "is tried by one request first, after failures"}
        w.fleet.succeeded(probe, Sample())
        assert w.fleet.held_back("tiny:latest") == {}
        assert w.fleet.statuses()[0].left_out == ()


async def test_a_breaker_goes_with_its_model() -> None:
    async with world() as w:
        for _ in range(3):
            w.clock.advance(10)
            w.fleet.failed(w.lease(), EngineCrashed("died"))
        w.clock.advance(10_000)
        lease = w.lease()
        assert w.fleet.statuses()[0].left_out == ("tiny:latest",)
        w.local.offered = ()
        await w.fleet.local_changed()
        w.fleet.failed(lease, EngineCrashed("died"))
        assert w.fleet.statuses()[0].left_out == ()
        w.local.offered = (offer(),)
        await w.fleet.local_changed()
        assert w.router.choose(w.router.facts(chat())).best is not None
