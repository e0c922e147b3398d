"""Clients of registries, away from this machine's proxies."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ollamamax.adapters.registry.client import RegistryClient
from ollamamax.adapters.registry.wire import WireLimits
from ollamamax.testing.clock import FakeClock, SeededDice

LIMIT_S = 30


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def limits() -> WireLimits:
    """Modules whose servers answer late have their own."""
    return WireLimits(connect_s=5, stall_s=0.3, verdict_s=5)


@pytest.fixture
def key_path(tmp_path: Path) -> Path:
    """Nothing lies there yet."""
    return tmp_path / "id_ed25519"


@pytest.fixture
async def registry(key_path: Path, limits: WireLimits) -> AsyncIterator[RegistryClient]:
    """Fails a test that takes too long."""
    client = RegistryClient(FakeClock(), SeededDice(), "0.1", key_path, limits)
    async with asyncio.timeout(LIMIT_S):
        yield client
    await client.close()
