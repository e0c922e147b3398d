"""Other limits for a fleet that runs."""

import asyncio

import pytest
from gateway_world import offer, world

from ollamamax.core.errors import EngineCrashed
from ollamamax.core.resilience.breaker import BreakerConfig
from ollamamax.services.fleet import FleetConfig
from ollamamax.testing.engine import TwinEngine


async def test_other_limits_hold_at_once() -> None:
    twin = TwinEngine([offer()])
    hour = FleetConfig(poll_ms=3_600_000.0, min_age_ms=0.0)
    async with world(twins={"left": twin}, fleet=hour) as w:
        runner = asyncio.create_task(w.fleet.run())
        await twin.until(lambda: twin.models_calls >= 1)
        w.fleet.reconfigure(FleetConfig(poll_ms=1.0, min_age_ms=0.0))
        await twin.until(lambda: twin.models_calls >= 4)
        runner.cancel()
        with pytest.raises(asyncio.CancelledError):
            await runner


async def test_breakers_that_there_are_go_by_other_limits() -> None:
    async with world() as w:
        w.fleet.failed(w.lease(), EngineCrashed("died"))
        w.fleet.reconfigure(FleetConfig(breaker=BreakerConfig(failures=2, open_ms=700)))
        w.clock.advance(10)
        w.fleet.failed(w.lease(), EngineCrashed("died"))
        assert w.fleet.held_back("tiny:latest") == {"local": "is left out for a while after 2 failures"}
        w.clock.advance(700)
        assert w.fleet.held_back("tiny:latest") == {}
