"""Which models are in this node's memory: who loads, who waits, who leaves. A pure state machine.

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
from ollamamax.core.errors import LoadTimeout, NoMemory, ShuttingDown
from ollamamax.core.residency.events import (
    Acquire,
    Effect,
    Event,
    Exited,
    Fail,
    Failure,
    Grant,
    Loaded,
    LoadFailed,
    MeasureMemory,
    MemoryMeasured,
    Release,
    Shutdown,
    StartLoad,
    Stopped,
    StopRunner,
    Tick,
    UnloadAsked,
)
from ollamamax.core.residency.fit import Sizing, choose_parallel
from ollamamax.core.residency.invariants import check
from ollamamax.core.residency.runner import Phase, Runner

FIT_SHARE: Final = 0.8
"""Share of the free memory that a model may take beside others."""

FIRST_RETRY_MS: Final = 1_000.0
MAX_RETRY_MS: Final = 30_000.0
FORGIVEN_AFTER_MS: Final = 60_000.0
MAX_FAILED_RESTARTS: Final = 5
_LOADED_PER_GPU: Final = 3
_NEVER_MS: Final = float("inf")
_SHUTTING_DOWN: Final = Failure(ShuttingDown, "the node is shutting down")


class ResidencyConfig(Struct, frozen=True, kw_only=True):
    """How long, how many, how patient.

    keep_alive_ms: where no request says one.  max_loaded: 0 = three per GPU, or three.  load_timeout_ms: 0 = none.
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
        check(self._runners, self._pending, self._runner_of, self._is_measuring, self._is_shutting_down)

    def step(self, event: Event, now_ms: float) -> list[Effect]:
        """Take an event; what is to be done, in order. now_ms never decreases."""
        memory = None
        match event:
            case Acquire():
                self._acquire(event)
            case Release():
                self._release(event)
            case UnloadAsked(key):
                if key in self._runners:
                    self._condemn(self._runners[key], "asked")
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
                self._shut_down(is_forced)
            case _:
                assert isinstance(event, Tick), "an unknown event"
        self._settle(memory, now_ms)
        effects, self._effects = self._effects, []
        return effects

    # -- events ------------------------------------------------------------------------------------------------------

    def _acquire(self, request: Acquire) -> None:
        assert request.request_id not in self._pending, "request ids are used once"
        assert request.request_id not in self._runner_of, "request ids are used once"
        if self._is_shutting_down:
            self._effects.append(Fail(request.request_id, _SHUTTING_DOWN))
        else:
            self._pending[request.request_id] = request

    def _release(self, event: Release) -> None:
        """Unknown ids are of requests that failed, or whose runner has exited."""
        self._pending.pop(event.request_id, None)
        runner = self._runner_of.pop(event.request_id, None)
        if runner is not None:
            runner.serving.discard(event.request_id)
            runner.waiting.pop(event.request_id, None)
            if event.is_completed:
                runner.failures = 0

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

    def _shut_down(self, is_forced: bool) -> None:
        self._is_shutting_down = True
        for request_id in self._pending:
            self._effects.append(Fail(request_id, _SHUTTING_DOWN))
        self._pending.clear()
        for runner in self.runners:
            self._fail_waiting(runner, _SHUTTING_DOWN)
            if is_forced:
                self._forget_served(runner)
            self._condemn(runner, "shutdown")

    # -- what follows from the state ---------------------------------------------------------------------------------

    def _settle(self, memory: MemoryMeasured | None, now_ms: float) -> None:
        self._join(now_ms)
        self._stop_unwanted(now_ms)
        self._restart(now_ms)
        while self._place_head(memory, now_ms):
            self._join(now_ms)

    def _join(self, now_ms: float) -> None:
        """Requests in line go to runners that accept them, those at the front of a runner's own line get its slots."""
        passed: set[str] = set()
        for request in tuple(self._pending.values()):
            runner = self._runners.get(request.spec.key)
            if runner is None or request.spec.key in passed or not runner.accepts(request):
                passed.add(request.spec.key)
                continue
            self._enter(runner, request)
        for runner in self._runners.values():
            while runner.phase is Phase.READY and runner.waiting and len(runner.serving) < runner.spec.parallel:
                request_id = next(iter(runner.waiting))
                del runner.waiting[request_id]
                runner.serving.add(request_id)
                self._effects.append(Grant(request_id, runner.key))
            if not runner.is_idle:
                runner.idle_since_ms = None
            elif runner.idle_since_ms is None and runner.phase is not Phase.LOADING:
                runner.idle_since_ms = now_ms

    def _enter(self, runner: Runner, request: Acquire) -> None:
        del self._pending[request.request_id]
        runner.waiting[request.request_id] = None
        self._runner_of[request.request_id] = runner
        if request.keep_alive_ms is not None:
            runner.keep_alive_ms = request.keep_alive_ms

    def _stop_unwanted(self, now_ms: float) -> None:
        for runner in self.runners:
            if runner.phase is Phase.LOADING and runner.deadline_ms <= now_ms:
                seconds = f"{self._config.load_timeout_ms / 1000:g}"
                text = f"model {runner.spec.name} was not loaded within {seconds} s; engine.load_timeout_s allows more"
                self._fail_waiting(runner, Failure(LoadTimeout, text))
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
        old = self._runners.get(request.spec.key)
        if old is not None:
            self._condemn(old, "reload")
            return old.key not in self._runners
        if memory is None:
            if not self._is_measuring:
                self._is_measuring = True
                self._effects.append(MeasureMemory())
            return False
        least_bytes = request.sizings[-1].need_bytes
        if least_bytes > memory.total_bytes:
            del self._pending[request.request_id]
            self._effects.append(Fail(request.request_id, _too_large(request, least_bytes, memory.total_bytes)))
            return True
        sizing = self._sizing(request, memory)
        if sizing is None:
            return self._evict_one()
        self._launch(request, sizing, now_ms)
        return True

    def _sizing(self, request: Acquire, memory: MemoryMeasured) -> Sizing | None:
        """The number of slots to launch with; None if another runner must leave first."""
        if not self._runners:
            return choose_parallel(request.sizings, memory.free_bytes) or request.sizings[-1]
        limit = self._config.max_loaded or _LOADED_PER_GPU * max(memory.gpus, 1)
        if len(self._runners) >= limit:
            return None
        # Weights that are mapped from a file count as free memory although they are in use, and a runner that is to be
        # restarted has nothing now but will need it again.
        asleep_bytes = sum(r.need_bytes for r in self._runners.values() if r.phase is Phase.BACKOFF)
        unclaimed_bytes = memory.total_bytes - sum(r.need_bytes for r in self._runners.values())
        return choose_parallel(request.sizings, FIT_SHARE * min(memory.free_bytes - asleep_bytes, unclaimed_bytes))

    def _evict_one(self) -> bool:
        """An idle runner, else, unless one is already leaving, a busy one. True: it is gone at once."""
        idle = [runner for runner in self._runners.values() if runner.is_idle]
        if not idle and any(runner.condemned for runner in self._runners.values()):
            return False
        victim = min(idle or self._runners.values(), key=lambda runner: runner.eviction_rank)
        self._condemn(victim, "evicted")
        return victim.key not in self._runners

    def _launch(self, request: Acquire, sizing: Sizing, now_ms: float) -> None:
        spec = replace(request.spec, parallel=sizing.parallel)
        runner = Runner(
            spec=spec,
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

    # -- small steps -------------------------------------------------------------------------------------------------

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
            self._effects.append(Fail(request_id, failure))
        runner.waiting.clear()

    def _forget_served(self, runner: Runner) -> None:
        """Their streams have broken, or are about to; their Release will be of no consequence."""
        for request_id in runner.serving:
            del self._runner_of[request_id]
        runner.serving.clear()

    def _is_any(self, phase: Phase) -> bool:
        return any(runner.phase is phase for runner in self._runners.values())


def _or_never(deadline_ms: float | None) -> float:
    return _NEVER_MS if deadline_ms is None else deadline_ms


def _too_large(request: Acquire, need_bytes: int, total_bytes: int) -> Failure:
    return Failure(
        NoMemory,
        f"model {request.spec.name} needs {_gib(need_bytes)} with a context of {request.spec.ctx_tokens} tokens, but "
        f"this machine has {_gib(total_bytes)}; use a smaller quantisation of it or a smaller num_ctx",
    )


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB"
