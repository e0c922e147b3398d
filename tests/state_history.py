"""What several workers do to a state at once, what they were told, and whether that can be true."""

import asyncio
import random
from contextlib import aclosing
from itertools import count

import pytest

from linearizability import NEVER, Op, grow_only_set, is_linearizable, register, settled
from ollamamax.core.errors import StateUnavailable
from ollamamax.core.types import Compare, Put, StateEntry, StateTxn
from ollamamax.ports import StateStore
from ollamamax.testing.engine import Watched

WORKERS = 5
OPS = 40


class History(Watched):
    """Operations as they were called and answered, in one order of all events."""

    def __init__(self) -> None:
        super().__init__()
        self.places = count()
        self.ops: dict[str, list[Op]] = {}
        self.written: dict[int, StateEntry] = {}  # by revision, as acknowledged
        self.times: list[tuple[int, int, int]] = []  # (called, returned, revision) of acknowledged writes
        self.finished = self.unknown = self.failed = 0

    def note_op(self, key: str, called: int, name: str, argument: object, result: object, is_known: bool) -> None:
        returned = next(self.places)
        self.finished += 1
        self.unknown += not is_known
        if is_known or name != "read":
            op = Op(called, returned if is_known else NEVER, name, argument, result)
            self.ops.setdefault(key, []).append(op)
        self.note()


class Worker:
    """Reads, writes and swaps registers of its own and others', adds to a set and reads it."""

    def __init__(self, number: int, store: StateStore, history: History, seed: int) -> None:
        self._store = store
        self._history = history
        self._dice = random.Random(f"{seed}/{number}")
        self._values = (f"{number}-{value}" for value in count())

    async def work(self, round_number: object) -> None:
        for _ in range(OPS):
            key = f"{self._dice.choice('xy')}{round_number}"
            act = self._dice.choice((self._read, self._write, self._swap, self._add, self._read_set))
            try:
                await act(key if act in (self._read, self._write, self._swap) else f"set{round_number}")
            except StateUnavailable:
                self._history.failed += 1
                self._history.note()
                await reached(self._store)

    async def _read(self, key: str) -> StateEntry | None:
        called = next(self._history.places)
        entry = await self._store.get(key, linearizable=True)
        self._history.note_op(key, called, "read", None, entry and entry.value.decode(), True)
        return entry

    async def _write(self, key: str) -> None:
        value = next(self._values)
        await self._txn(key, "write", value, StateTxn((), (Put(key, value.encode()),)))

    async def _swap(self, key: str) -> None:
        entry = await self._read(key)
        value = next(self._values)
        compare = Compare(key, entry.revision if entry else 0)
        argument = (entry and entry.value.decode(), value)
        await self._txn(key, "cas", argument, StateTxn((compare,), (Put(key, value.encode()),)))

    async def _add(self, key: str) -> None:
        value = next(self._values)
        element = f"{key}/{value}"
        await self._txn(key, "add", value, StateTxn((Compare(element, 0),), (Put(element, value.encode()),)))

    async def _read_set(self, key: str) -> None:
        called = next(self._history.places)
        whole = await self._store.range(f"{key}/", linearizable=True)
        elements = frozenset(entry.value.decode() for entry in whole.entries)
        self._history.note_op(key, called, "read", None, elements, True)

    async def _txn(self, key: str, name: str, argument: object, txn: StateTxn) -> None:
        called = next(self._history.places)
        try:
            result = await self._store.txn(txn)
        except StateUnavailable:
            self._history.note_op(key, called, name, argument, None, False)
            raise
        self._history.note_op(key, called, name, argument, result.ok, True)
        if result.ok:
            [write] = txn.writes
            assert isinstance(write, Put)
            assert result.revision not in self._history.written, "one revision for two changes"
            self._history.written[result.revision] = StateEntry(write.key, write.value, 0, result.revision)
            self._history.times.append((called, next(self._history.places), result.revision))


async def reached(store: StateStore) -> int:
    """Returns once the holder answers; the revision then."""
    while True:
        try:
            return (await store.range("", linearizable=True)).revision
        except StateUnavailable:
            await asyncio.sleep(0.02)  # as whoever finds nobody there


async def follow(store: StateStore, seen: dict[int, StateEntry], told: Watched) -> None:
    """As a replica does: watch from the last that was seen, and again when it is lost."""
    while True:
        try:
            async with aclosing(store.watch("", max(seen, default=0))) as batches:
                async for batch in batches:
                    for event in batch.events:
                        assert batch.revision == max(seen, default=0) + 1, "a gap, or a change told twice"
                        seen[batch.revision] = event.entry
                    told.note()
        except StateUnavailable:
            await asyncio.sleep(0.02)


def check(history: History, seen: dict[int, StateEntry]) -> None:
    for revision, entry in history.written.items():
        assert (seen[revision].key, seen[revision].value) == (entry.key, entry.value), "an acknowledged write is lost"
    ends = sorted(history.times, key=lambda time: time[1])
    for called, _, revision in history.times:
        before = [other for _, returned, other in ends if returned < called]
        assert revision > max(before, default=0), "revisions run against time"
    for key, ops in history.ops.items():
        is_set = key.startswith("set")
        initial, step = (frozenset(), grow_only_set) if is_set else (None, register)
        if not is_linearizable(settled(ops), initial, step):
            pytest.fail(f"{key} is not linearizable:\n" + "\n".join(map(str, sorted(ops, key=lambda op: op.called))))
