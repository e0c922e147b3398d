"""Certificates that renew themselves, by a clock that the test moves."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ollamamax.adapters.identity.authority import FileAuthority
from ollamamax.adapters.identity.node_identity import FileIdentityStore
from ollamamax.core.errors import CertificateRefused, StateUnavailable, StoreError
from ollamamax.ports import Identity, NodeKeys
from ollamamax.services.joining import found
from ollamamax.services.renewal import Renewal, require_current
from ollamamax.testing.clock import FakeClock, SeededDice

DAY_MS = 86_400_000
DAY_NS = DAY_MS * 10**6
HOUR_MS = 3_600_000


class World:
    """A node, and where its certificates come from. away: why none comes.  given: how many came."""

    def __init__(self, folder: Path, seed: int = 0, signs_here: bool = False) -> None:
        self.clock = FakeClock(wall_ns=1_800_000_000 * 10**9)
        self.signs_here = signs_here
        self.away: Exception | None = None
        self.given = 0
        self.told: list[NodeKeys] = []
        self.heard = asyncio.Event()
        self.deaf: Exception | None = None
        self.certify: Callable[[bytes], bytes] = self._certify
        self.authority = FileAuthority.create(folder / "cluster", "a" * 16, "home", None, self.clock.wall_ns())
        self.store = FileIdentityStore(folder / "cluster")
        self.identity = found(self.store, self.authority, "b" * 16, "box", self.clock.wall_ns())
        self.renewal = self.new(seed)

    def new(self, seed: int = 0) -> Renewal:
        identity = self.store.load()
        assert identity is not None
        return Renewal(self.store, identity, self, self._on_renewed, self.clock, SeededDice(seed))

    async def own_certificate(self, request: bytes) -> bytes:
        if self.away is not None:
            raise self.away
        self.given += 1
        return self.certify(request)

    def _certify(self, request: bytes) -> bytes:
        return self.authority.sign(request, "b" * 16, self.clock.wall_ns())

    async def _on_renewed(self, keys: NodeKeys) -> None:
        if self.deaf is not None:
            raise self.deaf
        self.told.append(keys)
        self.heard.set()

    def saved(self) -> Identity:
        identity = self.store.load()
        assert identity is not None
        return identity

    async def until_due(self) -> None:
        """Time passes as run() lets it."""
        while (left_ms := await self.renewal.step()) and not self.told and self.away is None:
            self.clock.advance(min(left_ms, HOUR_MS))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_it_is_renewed_at_half_of_its_life(world: World) -> None:
    issued_ns = world.clock.wall_ns()
    await world.until_due()
    age_days = (world.clock.wall_ns() - issued_ns) / DAY_NS
    assert 3.0 <= age_days <= 3.9
    assert world.given == 1
    assert world.told == [world.renewal.keys] == [world.saved().keys]
    assert 0 <= world.clock.wall_ns() + 7 * DAY_NS - world.saved().keys.expires_ns < 10**9
    assert world.saved().keys.private_key == world.identity.keys.private_key


async def test_it_goes_on_renewing(world: World) -> None:
    for count in range(1, 6):
        world.told.clear()
        await world.until_due()
        assert world.given == count
    assert world.saved().keys.expires_ns > world.identity.keys.expires_ns + 14 * DAY_NS


async def test_the_loop_renews_what_is_due_and_ends_when_cancelled(world: World) -> None:
    world.clock.advance(5 * DAY_MS)
    task = asyncio.create_task(world.renewal.run())
    async with asyncio.timeout(5):
        await world.heard.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.given == 1
    assert world.told == [world.saved().keys]


async def test_before_that_nothing_happens(world: World) -> None:
    world.clock.advance(2.9 * DAY_MS)
    assert await world.renewal.step() > 0
    assert world.given == 0


def test_nodes_renew_at_different_times(tmp_path: Path) -> None:
    due = {World(tmp_path / str(seed), seed).renewal.due_ns for seed in range(10)}
    assert len(due) == 10
    assert max(due) - min(due) > DAY_NS / 4


async def test_a_holder_that_is_away_is_asked_again_less_and_less_often(world: World) -> None:
    await world.until_due()
    world.told.clear()
    world.away = StateUnavailable("node founder can't be reached")
    world.clock.advance(4 * DAY_MS)
    pauses = []
    for _ in range(9):
        pauses.append(await world.renewal.step())
        assert await world.renewal.step() == pytest.approx(pauses[-1]), "not before it is time again"
        world.clock.advance(pauses[-1])
    assert all(0.75 * 30_000 <= pause <= 1.25 * 600_000 for pause in pauses)
    assert pauses[0] <= 1.25 * 30_000
    assert pauses[-1] >= 0.75 * 600_000
    world.away = None
    await world.renewal.step()
    assert world.told == [world.saved().keys]


async def _said(world: World, days: float) -> list[Any]:
    world.away = StateUnavailable("node founder can't be reached")
    world.clock.advance(days * DAY_MS)
    with capture_logs() as logs:
        await world.renewal.step()
    return logs


@pytest.mark.parametrize(("days", "level"), [(5.9, "warning"), (6.1, "error"), (7.1, "critical")])
async def test_it_gets_louder(world: World, days: float, level: str) -> None:
    (line,) = await _said(world, days)
    assert line["log_level"] == level
    assert line["reason"] == "node founder can't be reached"
    assert ("ollamamax join TOKEN" in line["event"]) == (level == "critical")


async def test_a_certificate_that_does_not_fit_is_not_kept(world: World, tmp_path: Path) -> None:
    foreign = FileAuthority.create(tmp_path / "foreign", "a" * 16, "home", None, world.clock.wall_ns())
    old = world.saved()
    world.clock.advance(5 * DAY_MS)
    now_ns = world.clock.wall_ns()
    for certify in (
        lambda request: foreign.sign(request, "b" * 16, now_ns),
        lambda request: world.authority.sign(request, "c" * 16, now_ns),
        lambda request: world.authority.sign(request, "b" * 16, now_ns - 30 * DAY_NS),
        lambda request: b"junk",
    ):
        world.certify = certify
        world.clock.advance(await world.renewal.step())
        assert world.saved() == old
    assert world.given == 4
    assert world.told == []


async def test_who_was_not_told_is_told_later(world: World) -> None:
    world.deaf = StoreError("no room")
    world.clock.advance(5 * DAY_MS)
    world.clock.advance(await world.renewal.step())
    assert world.given == 1
    world.deaf = None
    await world.renewal.step()
    assert world.given == 1, "the certificate was there already"
    assert world.told == [world.saved().keys]


async def test_a_full_disk_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(certificate: bytes) -> Identity:
        raise StoreError("disk full")

    world.clock.advance(5 * DAY_MS)
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "replace_certificate", full)
        pause_ms = await world.renewal.step()
    assert world.told == []
    assert world.renewal.keys == world.identity.keys
    world.clock.advance(pause_ms)
    await world.renewal.step()
    assert world.told == [world.saved().keys]


async def test_a_wrong_clock_does_not_make_it_ask_without_end(world: World) -> None:
    """By this machine's clock every new certificate is old already: due again, but not at once."""
    world.certify = lambda request: world.authority.sign(request, "b" * 16, world.clock.wall_ns() - 6 * DAY_NS)
    world.clock.advance(5 * DAY_MS)
    for _ in range(3):
        pause_ms = await world.renewal.step()
        assert pause_ms >= HOUR_MS
    assert world.given == 1
    world.clock.advance(pause_ms)
    await world.renewal.step()
    assert world.given == 2


# --- at the start --------------------------------------------------------------------------------------------------


async def test_good_papers_are_used_as_they_are(world: World) -> None:
    world.clock.advance(6.9 * DAY_MS)
    assert await world.new().start() == world.identity.keys
    assert world.given == 0


async def test_expired_papers_are_refused_with_the_remedy(world: World) -> None:
    world.clock.advance(7 * DAY_MS)
    with pytest.raises(CertificateRefused, match=r"expired on 2027-01-22 08:00 UTC.*`ollamamax join TOKEN`"):
        await world.new().start()
    assert world.given == 0


async def test_who_signs_itself_starts_again_after_any_time(tmp_path: Path) -> None:
    world = World(tmp_path, signs_here=True)
    world.clock.advance(100 * DAY_MS)
    keys = await world.new().start()
    assert keys == world.saved().keys
    assert keys.expires_ns == world.clock.wall_ns() + 7 * DAY_NS
    assert world.told == []


def test_a_clock_that_is_behind_is_told(world: World) -> None:
    keys = world.identity.keys
    require_current(keys, keys.not_before_ns)
    require_current(keys, keys.expires_ns - 1)
    with pytest.raises(CertificateRefused, match="set the clock right"):
        require_current(keys, keys.not_before_ns - 1)
    with pytest.raises(CertificateRefused, match="expired"):
        require_current(keys, keys.expires_ns)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 12 * HOUR_MS), st.booleans()), max_size=60), st.integers(0, 2**16))
def test_a_holder_that_is_there_now_and_then_is_enough(steps: list[tuple[float, bool]], seed: int) -> None:
    """If it is never away for two days in a row while it is due, the certificate never expires."""

    async def play(folder: Path) -> None:
        world = World(folder, seed)
        away_ms = 0.0
        for advance_ms, is_away in steps:
            away_ms = away_ms + advance_ms if is_away else 0.0
            world.away = StateUnavailable("away") if is_away and away_ms < 2 * DAY_MS else None
            world.clock.advance(advance_ms)
            await world.renewal.step()
            require_current(world.renewal.keys, world.clock.wall_ns())
            assert world.renewal.keys == world.saved().keys

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))
