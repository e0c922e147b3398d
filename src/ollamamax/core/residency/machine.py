"""Which models are in this node's memory: who loads, who waits, who leaves. A pure state machine.

A model may have several replicas, each a runner: whoever waits for one is served by the first like it that has a free
slot. Requests start one; further ones come by `keep_for`. One that is kept stays until it is let go.

Requests that no runner can take stand in one line, `pending`; its head alone decides what is loaded or evicted next.
A request joins a runner (is served, or waits for a slot) as soon as one accepts it and no earlier request for the
same model still stands in line, so requests for one model keep their order and those for a ready model pass by.
At most one runner loads at a time. Numbered invariants: docs/invariants.md, checked by `check_invariants`.

Source: Ollama `server/sched.go` (order, keep-alive, eviction, the 80 % rule).

Deliberate limits: memory is one pool; a model that runs on the CPU of a machine with GPUs is counted against the
same pool as the others. A runner told to leave is not pardoned when the request that wanted its place goes away.
"""

from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from ollamamax.core.errors import LoadFailed as LoadFailedError
from ollamamax.core.residency.events import (
    Acquire,
    Effect,
    Event,
    Exited,
    Fail,
    Failure,
    Grant,
    LetGo,
    Loaded,
    LoadFailed,
    MeasureMemory,
    MemoryMeasured,
    Release,
    Shutdown,
    StartLoad,
    Stopped,
    StopRunner,
    StopServing,
    Tick,
    UnloadAsked,
)
from ollamamax.core.residency.fit import Sizing, choose_parallel
from ollamamax.core.residency.invariants import check
from ollamamax.core.residency.refusals import DRAINED, SHUTTING_DOWN, all_kept, too_large, too_slow
from ollamamax.core.residency.runner import Phase, Runner, free_key

FIT_SHARE: Final = 0.8
"""Share of the free memory that a model may take beside others."""

FIRST_RETRY_MS: Final = 1_000.0
MAX_RETRY_MS: Final = 30_000.0
FORGIVEN_AFTER_MS: Final = 60_000.0
MAX_FAILED_RESTARTS: Final = 5
_LOADED_PER_GPU: Final = 3
_NEVER_MS: Final = float("inf")


class ResidencyConfig(Struct, frozen=True, kw_only=True):
    """keep_alive_ms: where no request says one.  max_loaded: runners that nobody keeps, 0 = three per GPU, or three.

    load_timeout_ms: 0 = none.
    """

    keep_alive_ms: int = 300_000
    max_loaded: int = 0
    load_timeout_ms: float = 300_000.0


class Residency:
    """The machine. `step` mutates it and returns what is to be done; it raises for faults of the caller alone."""

    def __init__(self, config: ResidencyConfig) -> None:
        self._config = config
        self._runners: dict[str, Runner] = {}
        self._pending: dict[int, Acquire] = {}
        self._runner_of: dict[int, Runner] = {}
        self._keeping: set[int] = set()
        """Acquires with keep_for that stand in a line."""
        self._is_measuring = False
        self._is_shutting_down = False
        self._effects: list[Effect] = []

    def reconfigure(self, config: ResidencyConfig) -> None:
        """Other limits from now on: what is loaded or loading keeps those that it began with."""
        self._config = config

    @property
    def runners(self) -> tuple[Runner, ...]:
        """All runners, oldest first; to be read only."""
        return tuple(self._runners.values())

    @property
    def pending(self) -> tuple[int, ...]:
        """Requests that no runner has taken, in order."""
        return tuple(self._pending)

    @property
    def next_deadline_ms(self) -> float | None:
        """When a Tick is due; None if time alone changes nothing."""
        is_loading = self._is_any(Phase.LOADING)
        deadlines = []
        for runner in self._runners.values():
            if runner.phase is Phase.LOADING:
                deadlines.append(runner.deadline_ms)
            elif runner.phase is not Phase.STOPPING:
                deadlines.append(_or_never(runner.expires_at_ms))
            if runner.phase is Phase.BACKOFF and not is_loading:
                deadlines.append(runner.retry_at_ms)
        soonest = min(deadlines, default=_NEVER_MS)
        return None if soonest == _NEVER_MS else soonest

    def check_invariants(self) -> None:
        """Raises AssertionError with the number of the one that does not hold."""
        check(self._runners, self._pending, self._runner_of, self._keeping, self._is_measuring, self._is_shutting_down)

    def step(self, event: Event, now_ms: float) -> list[Effect]:
        """Take an event; what is to be done, in order. now_ms never decreases."""
        memory = None
        match event:
            case Acquire():
                self._acquire(event)
            case Release():
                self._release(event)
            case UnloadAsked(model_key):
                for runner in self._replicas(model_key):
                    if not runner.kept_for:
                        self._condemn(runner, "asked")
            case LetGo(key):
                self._let_go(key, now_ms)
            case StopServing():
                self._end_all(DRAINED, "drained", is_forced=True)
            case Loaded(key):
                self._loaded(self._runners[key], now_ms)
            case LoadFailed(key, failure):
                self._ended(self._runners[key], failure, now_ms)
            case Exited(key, reason):
                self._ended(self._runners[key], Failure(LoadFailedError, reason), now_ms)
            case Stopped(key):
                assert self._runners[key].phase is Phase.STOPPING, "nobody asked it to stop"
                del self._runners[key]
            case MemoryMeasured():
                memory, self._is_measuring = event, False
            case Shutdown(is_forced):
                self._is_shutting_down = True
                self._end_all(SHUTTING_DOWN, "shutdown", is_forced)
            case _:
                assert isinstance(event, Tick), "an unknown event"
        self._settle(memory, now_ms)
        effects, self._effects = self._effects, []
        return effects

    # -- events ------------------------------------------------------------------------------------------------------

    def _acquire(self, request: Acquire) -> None:
        is_new = request.request_id not in self._pending and request.request_id not in self._runner_of
        assert is_new, "request ids are used once"
        if self._is_shutting_down:
            self._effects.append(Fail(request.request_id, SHUTTING_DOWN))
        else:
            self._pending[request.request_id] = request

    def _release(self, event: Release) -> None:
        """Unknown ids are of requests that failed, or whose runner has exited."""
        self._pending.pop(event.request_id, None)
        self._keeping.discard(event.request_id)
        runner = self._runner_of.pop(event.request_id, None)
        if runner is not None:
            runner.serving.discard(event.request_id)
            runner.waiting.pop(event.request_id, None)
            runner.failures = 0 if event.is_completed else runner.failures

    def _loaded(self, runner: Runner, now_ms: float) -> None:
        if runner.phase is Phase.LOADING:  # else it was told to stop in the meantime
            runner.phase = Phase.READY
            runner.ready_since_ms = now_ms

    def _ended(self, runner: Runner, failure: Failure, now_ms: float) -> None:
        """No process is left: what was stopping is gone, a first load has failed, all else is tried again."""
        if runner.phase is Phase.STOPPING:
            del self._runners[runner.key]
            return
        if runner.phase is Phase.LOADING and not runner.is_restart:
            self._fail_waiting(runner, failure)
            del self._runners[runner.key]
            return
        if runner.phase is Phase.READY and now_ms - runner.ready_since_ms >= FORGIVEN_AFTER_MS:
            runner.failures = 0
        self._forget_served(runner)
        if runner.failures >= MAX_FAILED_RESTARTS:
            text = f"model {runner.spec.name} failed {runner.failures + 1} times in a row: {failure.text}"
            self._fail_waiting(runner, Failure(LoadFailedError, text))
        runner.phase = Phase.BACKOFF
        runner.retry_at_ms = now_ms + min(FIRST_RETRY_MS * 2 ** min(runner.failures, 16), MAX_RETRY_MS)
        runner.failures += 1

    def _let_go(self, key: str, now_ms: float) -> None:
        """It may have gone in the meantime."""
        runner = self._runners.get(key)
        if runner is None or not runner.kept_for:
            return
        runner.kept_for = ""
        if runner.phase in (Phase.LOADING, Phase.BACKOFF):
            self._condemn(runner, "asked")
        elif runner.is_idle:
            runner.idle_since_ms = now_ms

    def _end_all(self, failure: Failure, reason: str, is_forced: bool) -> None:
        """Nobody waits any more, and all leave; is_forced: now, else once they are idle."""
        for request_id in self._pending:
            self._effects.append(Fail(request_id, failure))
        self._pending.clear()
        for runner in self.runners:
            self._fail_waiting(runner, failure)
            if is_forced:
                self._forget_served(runner)
            self._condemn(runner, reason)

    # -- what follows from the state ---------------------------------------------------------------------------------

    def _settle(self, memory: MemoryMeasured | None, now_ms: float) -> None:
        self._join(now_ms)
        self._stop_unwanted(now_ms)
        self._restart(now_ms)
        while self._place_head(memory, now_ms):
            self._join(now_ms)

    def _join(self, now_ms: float) -> None:
        """Requests in line go to the replica with the least to do, those at the front of its line get its slots."""
        passed: set[tuple[str, bool]] = set()
        for request in tuple(self._pending.values()):
            kind = request.spec.key, bool(request.keep_for)
            willing = [one for one in self._replicas(request.spec.key) if kind not in passed and one.accepts(request)]
            if willing:
                self._enter(min(willing, key=lambda one: (not one.has_free_slot, one.load)), request)
            else:
                passed.add(kind)
        for runner in self._runners.values():
            while runner.has_free_slot and (request_id := self._first_for(runner)) is not None:
                self._runner_of[request_id].waiting.pop(request_id)
                self._runner_of[request_id] = runner
                self._keeping.discard(request_id)
                runner.serving.add(request_id)
                self._effects.append(Grant(request_id, runner.key))
        for runner in self._runners.values():
            if not runner.is_idle:
                runner.idle_since_ms = None
            elif runner.idle_since_ms is None and runner.phase is not Phase.LOADING:
                runner.idle_since_ms = now_ms

    def _first_for(self, runner: Runner) -> int | None:
        """Who has waited longest for this replica, or for another like it; a wish to keep waits for its own."""
        if len(self._runners) == 1 or runner.condemned:
            return next(iter(runner.waiting), None)
        lines = (one.waiting for one in self._runners.values() if one.waiting and runner.is_like(one))
        first = (next((it for it in line if it in runner.waiting or it not in self._keeping), None) for line in lines)
        return min((it for it in first if it is not None), default=None)

    def _enter(self, runner: Runner, request: Acquire) -> None:
        del self._pending[request.request_id]
        if request.keep_for:
            runner.kept_for = request.keep_for
            self._keeping.add(request.request_id)
        runner.waiting[request.request_id] = None
        self._runner_of[request.request_id] = runner
        if request.keep_alive_ms is not None:
            runner.keep_alive_ms = request.keep_alive_ms

    def _stop_unwanted(self, now_ms: float) -> None:
        for runner in self.runners:
            if runner.phase is Phase.LOADING and runner.deadline_ms <= now_ms:
                self._fail_waiting(runner, too_slow(runner.spec, self._config.load_timeout_ms))
                self._stop(runner, "load_timeout")
            elif runner.phase in (Phase.READY, Phase.BACKOFF) and _or_never(runner.expires_at_ms) <= now_ms:
                self._stop(runner, runner.condemned or "expired")
            elif runner.condemned and runner.is_idle:
                self._stop(runner, runner.condemned)

    def _restart(self, now_ms: float) -> None:
        due = [r for r in self._runners.values() if r.phase is Phase.BACKOFF and r.retry_at_ms <= now_ms]
        if due and not self._is_any(Phase.LOADING):
            self._load(min(due, key=lambda runner: (runner.retry_at_ms, runner.key)), now_ms)

    def _place_head(self, memory: MemoryMeasured | None, now_ms: float) -> bool:
        """Make room for the head of the line and load it, or fail it. True: look again, something gave way at once."""
        if not self._pending or self._is_any(Phase.LOADING) or self._is_any(Phase.STOPPING):
            return False
        request = next(iter(self._pending.values()))
        old = self._in_the_way(request)
        if old is not None:
            self._condemn(old, "reload")
            return old.key not in self._runners
        if memory is None:
            if not self._is_measuring:
                self._is_measuring = True
                self._effects.append(MeasureMemory())
            return False
        if request.sizings[-1].need_bytes > memory.total_bytes:
            del self._pending[request.request_id]
            self._effects.append(Fail(request.request_id, too_large(request, memory.total_bytes)))
            return True
        sizing = self._sizing(request, memory)
        if sizing is None:
            return self._evict_one(request)
        self._launch(request, sizing, now_ms)
        return True

    def _sizing(self, request: Acquire, memory: MemoryMeasured) -> Sizing | None:
        """The number of slots to launch with; None if another runner must leave first."""
        if not self._runners:
            return choose_parallel(request.sizings, memory.free_bytes) or request.sizings[-1]
        limit = self._config.max_loaded or _LOADED_PER_GPU * max(memory.gpus, 1)
        if not request.keep_for and sum(not runner.kept_for for runner in self._runners.values()) >= limit:
            return None
        # Weights that are mapped from a file count as free memory although they are in use, and a runner that is to be
        # restarted has nothing now but will need it again.
        asleep_bytes = sum(r.need_bytes for r in self._runners.values() if r.phase is Phase.BACKOFF)
        unclaimed_bytes = memory.total_bytes - sum(r.need_bytes for r in self._runners.values())
        return choose_parallel(request.sizings, FIT_SHARE * min(memory.free_bytes - asleep_bytes, unclaimed_bytes))

    def _in_the_way(self, request: Acquire) -> Runner | None:
        """What has to leave first, as it was launched otherwise and nobody keeps it: best one that leaves anyway."""
        old = [one for one in self._replicas(request.spec.key) if not one.kept_for]
        return min(old, key=lambda one: (not one.condemned, one.load), default=None)

    def _evict_one(self, request: Acquire) -> bool:
        """An idle runner, else, unless one is leaving, a busy one. True: it, or a request beside kept ones, is gone."""
        free = [runner for runner in self._runners.values() if not runner.kept_for]
        idle = [runner for runner in free if runner.is_idle]
        if not idle and any(runner.condemned for runner in self._runners.values()):
            return False
        own = [] if request.keep_for else self._replicas(request.spec.key)
        if not free and not own:
            del self._pending[request.request_id]
            self._effects.append(Fail(request.request_id, all_kept(request)))
            return True
        # Where all are kept, one of the request's own model is launched anew as it wants it.
        victim = min(idle or free or own, key=lambda runner: runner.eviction_rank)
        self._condemn(victim, "evicted" if free else "reload")
        return victim.key not in self._runners

    def _launch(self, request: Acquire, sizing: Sizing, now_ms: float) -> None:
        runner = Runner(
            spec=replace(request.spec, key=free_key(request.spec.key, self._runners), parallel=sizing.parallel),
            model_key=request.spec.key,
            need_bytes=sizing.need_bytes,
            keep_alive_ms=self._config.keep_alive_ms,
            deadline_ms=0.0,
            serving=set(),
            waiting={},
        )
        self._runners[runner.key] = runner
        self._enter(runner, request)
        self._load(runner, now_ms)

    def _load(self, runner: Runner, now_ms: float) -> None:
        timeout_ms = self._config.load_timeout_ms
        runner.phase = Phase.LOADING
        runner.deadline_ms = now_ms + timeout_ms if timeout_ms > 0 else _NEVER_MS
        self._effects.append(StartLoad(runner.spec, runner.need_bytes))

    def _condemn(self, runner: Runner, reason: str) -> None:
        """It is to go, for the first reason given; at once if nobody needs it."""
        runner.condemned = runner.condemned or reason
        if runner.is_idle:
            self._stop(runner, runner.condemned)

    def _stop(self, runner: Runner, reason: str) -> None:
        assert runner.is_idle, "someone needs it"
        if runner.phase is Phase.BACKOFF:
            del self._runners[runner.key]
        elif runner.phase is not Phase.STOPPING:
            runner.phase = Phase.STOPPING
            self._effects.append(StopRunner(runner.key, reason))

    def _fail_waiting(self, runner: Runner, failure: Failure) -> None:
        for request_id in runner.waiting:
            del self._runner_of[request_id]
            self._keeping.discard(request_id)
            self._effects.append(Fail(request_id, failure))
        runner.waiting.clear()

    def _forget_served(self, runner: Runner) -> None:
        """Their streams have broken, or are about to; their Release will be of no consequence."""
        for request_id in runner.serving:
            del self._runner_of[request_id]
        runner.serving.clear()

    def _replicas(self, model_key: str) -> list[Runner]:
        """Oldest first."""
        return [runner for runner in self._runners.values() if runner.model_key == model_key]

    def _is_any(self, phase: Phase) -> bool:
        return any(runner.phase is phase for runner in self._runners.values())


def _or_never(deadline_ms: float | None) -> float:
    return _NEVER_MS if deadline_ms is None else deadline_ms
