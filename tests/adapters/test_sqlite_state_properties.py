"""Whatever is asked of it, and however often it is opened again, SQLite answers as the twin in memory does."""

import asyncio
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ollamamax.adapters.state.sqlite_state import SqliteState
from ollamamax.core.errors import LeaseNotFound, OllamaMaxError, StateCompacted
from ollamamax.core.types import Compare, Delete, Put, StateBatch, StateTxn
from ollamamax.ports import StateStore
from ollamamax.testing.clock import FakeClock
from ollamamax.testing.state import MemoryState

KEPT = 10
KEYS = st.sampled_from(["a", "a/b", "a/ü", "b", "a\U0001f600"])
LEASES = st.integers(0, 4)
WRITES = st.one_of(st.builds(Put, KEYS, st.binary(max_size=8), LEASES), st.builds(Delete, KEYS))


class BothStores(RuleBasedStateMachine):
    """Does the same to both and compares."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._home = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self._clock = FakeClock()

    @initialize()
    def begin(self) -> None:
        async def make() -> tuple[StateStore, StateStore]:
            return await self._open(), MemoryState(self._clock, keep_revisions=KEPT, limit_bytes=400)

        self._disk, self._memory = self._runner.run(make())

    async def _open(self) -> SqliteState:
        path = Path(self._home.name) / "state.db"
        return await SqliteState.open(path, self._clock, keep_revisions=KEPT, limit_bytes=400)

    def _both(self, method: str, *arguments: object) -> object:
        async def answer(store: StateStore) -> Any:
            try:
                return await getattr(store, method)(*arguments)
            except OllamaMaxError as error:
                return type(error), str(error)

        on_disk, in_memory = self._runner.run(answer(self._disk)), self._runner.run(answer(self._memory))
        assert on_disk == in_memory
        return on_disk

    @rule(
        compared=st.lists(st.tuples(KEYS, st.integers(-1, 1)), max_size=2),
        writes=st.lists(WRITES, max_size=3),
    )
    def write(self, compared: list[tuple[str, int]], writes: list[Put | Delete]) -> None:
        """Compares aim at the truth, or just beside it: with numbers drawn blindly hardly any would hold."""
        compares = []
        for key, miss in compared:
            entry = self._runner.run(self._memory.get(key))
            compares.append(Compare(key, max(0, (entry.revision if entry else 0) + miss)))
        self._both("txn", StateTxn(tuple(compares), tuple(writes)))

    @rule(ttl_ms=st.integers(0, 50))
    def grant(self, ttl_ms: int) -> None:
        self._both("grant_lease", ttl_ms)

    @rule(lease_id=LEASES)
    def renew(self, lease_id: int) -> None:
        self._both("renew_lease", lease_id)

    @rule(lease_id=LEASES)
    def revoke(self, lease_id: int) -> None:
        self._both("revoke_lease", lease_id)

    @rule(ms=st.integers(1, 40))
    def wait(self, ms: int) -> None:
        self._clock.advance(ms)

    @rule(prefix=st.sampled_from(["", "a", "a/", "b", "c"]))
    def read(self, prefix: str) -> None:
        self._both("range", prefix)

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        self._both("get", key)

    @rule()
    def reopen(self) -> None:
        self._both("get", "a")  # leases that are over end now, in both

        async def again() -> None:
            await self._disk.close()
            self._disk = await self._open()
            for lease_id in range(1, 100):
                try:
                    await self._memory.renew_lease(lease_id)
                except LeaseNotFound:
                    continue

        self._runner.run(again())

    @rule(back=st.integers(0, KEPT + 3), prefix=st.sampled_from(["", "a", "b"]))
    def watch(self, back: int, prefix: str) -> None:
        async def told(store: StateStore, after: int, revision: int) -> list[StateBatch] | None:
            """All changes up to now; None where they are not kept."""
            found: list[StateBatch] = []
            try:
                async with asyncio.timeout(5), aclosing(store.watch("", after)) as batches:
                    async for batch in batches:
                        events = tuple(event for event in batch.events if event.entry.key.startswith(prefix))
                        if events:
                            found.append(StateBatch(batch.revision, events))
                        if batch.revision >= revision:
                            return found
            except StateCompacted:
                return None
            return found

        async def compare() -> None:
            revision = (await self._memory.range("")).revision
            after = max(0, revision - back)
            on_disk, in_memory = await told(self._disk, after, revision), await told(self._memory, after, revision)
            if in_memory is not None:
                assert on_disk == in_memory
            assert on_disk is not None or back > KEPT

        self._runner.run(compare())

    @invariant()
    def the_same_stands_in_both(self) -> None:
        if hasattr(self, "_disk"):
            self._both("range", "")

    def teardown(self) -> None:
        if hasattr(self, "_disk"):
            self._runner.run(self._disk.close())
            self._runner.run(self._memory.close())
        self._runner.close()
        self._home.cleanup()


BothStores.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBothStores = BothStores.TestCase
