"""What one node does next so that it runs what is assigned to it: one action at a time.

Nothing that was done is remembered, save failures: each step compares what is assigned with what is there, so that it
does not matter where the node broke off. The order:

1. unload what is too much: first what still loads, never what is busy, nor the last ready replica of a model that is
   still needed (`held`);
2. load what is assigned and whose files are there, one at a time, when nothing is on its way out any more;
3. fetch the files of what is assigned, one model at a time;
4. else nothing.

Among equals the smaller key goes first. A failed action is left alone for a second, twice as long after each further
failure, at most a minute; the others go on.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Final

from msgspec import Struct

FIRST_RETRY_MS: Final = 1_000.0
MAX_RETRY_MS: Final = 60_000.0


class Phase(Enum):
    """Of an instance."""

    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"


class Instance(Struct, frozen=True):
    """A replica in this node's memory, or on its way there or out of it. busy: it answers requests."""

    instance_id: str
    key: str
    phase: Phase
    busy: bool = False


class Actual(Struct, frozen=True, kw_only=True):
    """What is there. has: keys of the models whose files lie here whole.  fetching: of those under way, by whomever.

    instances: those that are kept for assignments. A model that a request brought in by itself leaves by its
    keep-alive and is not told here.
    """

    has: AbstractSet[str] = frozenset()
    fetching: AbstractSet[str] = frozenset()
    instances: tuple[Instance, ...] = ()


class Fetch(Struct, frozen=True):
    """Get the model's files; what is there of them already is used."""

    key: str


class Load(Struct, frozen=True):
    """Have one more replica of the model; one that a request brought in becomes it."""

    key: str


class Unload(Struct, frozen=True):
    """Have this replica leave memory, or stop loading it."""

    key: str
    instance_id: str


class Nothing(Struct, frozen=True):
    """All is as it should be, or on its way. until_ms: when a failed action is due again; None: news must come."""

    until_ms: float | None = None


Doable = Fetch | Load | Unload
Action = Doable | Nothing


class _Failures(Struct):
    count: int
    retry_at_ms: float


class Keeper:
    """The machine of one node. It tells what to do; who does it says how it went, by `done` or `failed`."""

    def __init__(self) -> None:
        self._failures: dict[Doable, _Failures] = {}

    def step(
        self, desired: Mapping[str, int], actual: Actual, now_ms: float, held: AbstractSet[str] = frozenset()
    ) -> Action:
        """The one next action; asked again before anything happened, it says the same.

        desired: model key -> replicas on this node.  held: keys of models whose replicas elsewhere are not ready yet,
        of which therefore the last ready one here stays.
        """
        ids = {one.instance_id for one in actual.instances}
        self._failures = {one: past for one, past in self._failures.items() if _is_thinkable(one, desired, ids)}
        until_ms: float | None = None
        for action in _wanted(desired, actual, held):
            past = self._failures.get(action)
            if past is None or past.retry_at_ms <= now_ms:
                return action
            until_ms = past.retry_at_ms if until_ms is None else min(until_ms, past.retry_at_ms)
        return Nothing(until_ms)

    def failed(self, action: Doable, now_ms: float) -> None:
        """It came to nothing; it is due again after a while."""
        past = self._failures.setdefault(action, _Failures(0, 0.0))
        past.count += 1
        past.retry_at_ms = now_ms + min(FIRST_RETRY_MS * 2.0 ** min(past.count - 1, 30), MAX_RETRY_MS)

    def done(self, action: Doable) -> None:
        """It went well; former failures are forgotten."""
        self._failures.pop(action, None)

    def check_invariants(self) -> None:
        """P3 of docs/invariants.md. Raises: AssertionError."""
        assert all(past.count > 0 for past in self._failures.values()), "P3: only what failed is put off"


def _is_thinkable(action: Doable, desired: Mapping[str, int], instance_ids: AbstractSet[str]) -> bool:
    """Whether the action may be wanted again, though perhaps not now."""
    return action.instance_id in instance_ids if isinstance(action, Unload) else desired.get(action.key, 0) > 0


def _wanted(desired: Mapping[str, int], actual: Actual, held: AbstractSet[str]) -> Iterator[Doable]:
    """What could be done now, best first."""
    there: dict[str, list[Instance]] = {}
    for one in actual.instances:
        if one.phase is not Phase.UNLOADING:
            there.setdefault(one.key, []).append(one)
    for key in sorted(there):
        yield from _surplus(there[key], desired.get(key, 0), key in held)
    keys = sorted(key for key, count in desired.items() if count > 0)
    if all(one.phase is Phase.READY for one in actual.instances):
        yield from (Load(key) for key in keys if key in actual.has and len(there.get(key, ())) < desired[key])
    if actual.fetching.isdisjoint(keys):
        yield from (Fetch(key) for key in keys if key not in actual.has)


def _surplus(there: list[Instance], count: int, is_held: bool) -> Iterator[Unload]:
    """Replicas of one model that may go, so that `count` are left."""
    ready = sum(one.phase is Phase.READY for one in there)
    surplus = len(there) - count
    for one in sorted(there, key=lambda one: (one.phase is Phase.READY, one.instance_id)):
        is_ready = one.phase is Phase.READY
        if surplus <= 0 or (is_ready and is_held and ready == 1):
            return
        if not one.busy:
            surplus, ready = surplus - 1, ready - is_ready
            yield Unload(one.key, one.instance_id)
