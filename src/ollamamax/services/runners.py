"""The owner of the residency machine and of the engine processes: turns requests for slots into running engines.

`step` is called from one place, on the event loop, and never while another step is under way; each effect is carried
out at once or started as a task whose result comes back as an event.
"""

import asyncio
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import structlog
from msgspec import Struct

from ollamamax.core.errors import EngineCrashed, GgufError, LoadTimeout, OllamaMaxError, ShuttingDown
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
from ollamamax.core.residency.fit import Sizing
from ollamamax.core.residency.machine import Residency, ResidencyConfig
from ollamamax.core.residency.runner import Phase, Runner
from ollamamax.core.types import LaunchSpec
from ollamamax.ports import Clock, EngineLauncher, MachineProbe, Meter, RunningEngine

_LOG: Final = structlog.get_logger(__name__)
_NOTICE_S: Final = 1.0


class LaunchPlan(Struct, frozen=True):
    """How a request would have its model launched; fields as in residency's Acquire."""

    spec: LaunchSpec
    sizings: tuple[Sizing, ...]
    automatic: frozenset[str]


class Slot:
    """A place at a running engine. key: the runner's.  is_completed: set it once the answer has ended regularly."""

    def __init__(self, engine: RunningEngine, key: str) -> None:
        self.engine = engine
        self.key = key
        self.is_completed = False


class _Process:
    """One launch, from start to end."""

    def __init__(self, spec: LaunchSpec) -> None:
        self.spec = spec
        self.engine: RunningEngine | None = None
        self.stop = asyncio.Event()
        self.stop_reason = ""
        self.ended = asyncio.Event()


class RunnerPool:
    """Needs `run()` as a task. gpu_overhead_bytes: memory of each GPU that models leave free."""

    def __init__(
        self,
        launcher: EngineLauncher,
        probe: MachineProbe,
        clock: Clock,
        meter: Meter,
        config: ResidencyConfig,
        gpu_overhead_bytes: int = 0,
    ) -> None:
        self._launcher = launcher
        self._probe = probe
        self._clock = clock
        self._meter = meter
        self._gpu_overhead_bytes = gpu_overhead_bytes
        self._machine = Residency(config)
        self._processes: dict[str, _Process] = {}
        self._waiting: dict[int, asyncio.Future[Slot]] = {}
        self._last_id = 0
        self._group: asyncio.TaskGroup | None = None
        self._started = asyncio.Event()
        self._is_over = False
        self._wake = asyncio.Event()
        self._armed_ms: float | None = None
        self._changed = asyncio.Event()
        self._shown: dict[str, int] = {}
        self.gpus = 0
        """As of the last measurement."""
        self.last_load_ms = 0.0

    def reconfigure(self, config: ResidencyConfig, gpu_overhead_bytes: int) -> None:
        """Other limits for what is loaded from now on."""
        self._machine.reconfigure(config)
        self._gpu_overhead_bytes = gpu_overhead_bytes

    @property
    def runners(self) -> tuple[Runner, ...]:
        """All runners; to be read only."""
        return self._machine.runners

    def check_invariants(self) -> None:
        """Those of the machine, and that it knows the processes that there are. Raises: AssertionError."""
        self._machine.check_invariants()
        alive = {runner.key for runner in self.runners if runner.phase is not Phase.BACKOFF}
        assert self._is_over or alive == set(self._processes), "runners and processes belong together"

    async def run(self) -> None:
        """Own the processes and watch the time, until `close` has ended or this is cancelled; stops all engines."""
        assert self._group is None, "runs once"
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._started.set()
            try:
                while not self._is_over:
                    await self._rest()
            finally:
                self._end()

    def _end(self) -> None:
        """From here on nothing is done any more, and nobody waits."""
        self._is_over = True
        self._changed.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(_shutting_down())

    def tick(self) -> None:
        """Do what is due by now."""
        self._post(Tick())

    @asynccontextmanager
    async def slot(self, plan: LaunchPlan, keep_alive_ms: int | None, keep_for: str = "") -> AsyncIterator[Slot]:
        """A slot of the model, loaded if need be, for as long as the context. None = keep the runner's keep-alive.

        keep_for: of one more replica, which from the moment that there is one stays for that model key.

        Raises: LoadFailed, LoadTimeout, NoMemory, GgufError, ShuttingDown.
        """
        await self._started.wait()
        if self._is_over:
            raise _shutting_down()
        self._last_id += 1
        request_id = self._last_id
        future = self._waiting[request_id] = asyncio.get_running_loop().create_future()
        slot: Slot | None = None
        try:
            self._post(
                Acquire(
                    request_id=request_id,
                    spec=plan.spec,
                    sizings=plan.sizings,
                    automatic=plan.automatic,
                    keep_alive_ms=keep_alive_ms,
                    keep_for=keep_for,
                )
            )
            slot = await future
            yield slot
        except EngineCrashed:
            await self._noticed(slot)
            raise
        finally:
            del self._waiting[request_id]
            self._post(Release(request_id, is_completed=slot is not None and slot.is_completed))

    def unload(self, model_key: str) -> None:
        """The model leaves memory once those who use it or wait for it are done; replicas that are kept stay."""
        self._post(UnloadAsked(model_key))

    def let_go(self, key: str) -> None:
        """A replica is kept no more."""
        self._post(LetGo(key))

    def stop_serving(self) -> None:
        """All answers end now, and all runners leave."""
        self._post(StopServing())

    async def close(self, grace_ms: float) -> None:
        """No new work; wait for running requests, at most so long; stop everything. Idempotent."""
        self._post(Shutdown())
        try:
            async with asyncio.timeout(grace_ms / 1000):
                await self._all_gone()
        except TimeoutError:
            self._post(Shutdown(is_forced=True))
            await self._all_gone()
        self._is_over = True
        self._wake.set()

    async def _noticed(self, slot: Slot | None) -> None:
        """Until the end of the process is known here too, so that whoever asks next is not given a dead engine."""
        process = self._processes.get(slot.key) if slot is not None else None
        if process is not None and slot is not None and process.engine is slot.engine:
            with suppress(TimeoutError):
                async with asyncio.timeout(_NOTICE_S):
                    await process.ended.wait()

    async def gone(self, keys: Set[str], limit_ms: float) -> None:
        """Returns once none of these runners is there any more, or when the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_ms / 1000):
                while not self._is_over and any(runner.key in keys for runner in self.runners):
                    self._changed.clear()
                    await self._changed.wait()

    async def _all_gone(self) -> None:
        while self.runners and not self._is_over:
            self._changed.clear()
            await self._changed.wait()

    async def _rest(self) -> None:
        """Until the next deadline, or until there is another one."""
        self._armed_ms = self._machine.next_deadline_ms
        self._wake.clear()
        delay_s = None if self._armed_ms is None else max(self._armed_ms - self._clock.now_ms(), 0.0) / 1000
        try:
            async with asyncio.timeout(delay_s):
                await self._wake.wait()
        except TimeoutError:
            self.tick()

    # -- events in, effects out --------------------------------------------------------------------------------------

    def _post(self, event: Event) -> None:
        if self._is_over:
            return
        for effect in self._machine.step(event, self._clock.now_ms()):
            self._carry_out(effect)
        if self._machine.next_deadline_ms != self._armed_ms:
            self._wake.set()
        shown: dict[str, int] = {}
        for runner in self.runners:
            if runner.phase is Phase.READY:
                shown[runner.spec.name] = shown.get(runner.spec.name, 0) + runner.need_bytes
        if shown != self._shown:
            self._shown = shown
            self._meter.loaded(shown)
        self._changed.set()

    def _carry_out(self, effect: Effect) -> None:
        """Never posts an event by itself: tasks do, later."""
        match effect:
            case Grant(request_id, key):
                engine = self._processes[key].engine
                assert engine is not None, "granted on an engine that is not there"
                if not self._waiting[request_id].done():
                    self._waiting[request_id].set_result(Slot(engine, key))
            case Fail(request_id, failure):
                if not self._waiting[request_id].done():
                    self._waiting[request_id].set_exception(failure.error())
            case StartLoad(spec, need_bytes):
                _LOG.info("loading", model=spec.name, ctx=spec.ctx_tokens, slots=spec.parallel, bytes=need_bytes)
                process = self._processes[spec.key] = _Process(spec)
                self._spawn(self._own(process), f"runner {spec.name}")
            case StopRunner(key, reason):
                self._processes[key].stop_reason = reason
                self._processes[key].stop.set()
            case MeasureMemory():
                self._spawn(self._measure(), "measure memory")

    def _spawn(self, work: "asyncio._CoroutineLike[None]", name: str) -> None:
        assert self._group is not None
        self._group.create_task(work, name=name)

    async def _measure(self) -> None:
        def look() -> tuple[int, int, int]:
            return self._probe.gpu_count(), self._probe.free_memory_bytes(), self._probe.total_memory_bytes()

        self.gpus, free_bytes, total_bytes = await asyncio.to_thread(look)
        kept_bytes = self._gpu_overhead_bytes * self.gpus
        self._post(MemoryMeasured(max(free_bytes - kept_bytes, 0), max(total_bytes - kept_bytes, 0), self.gpus))

    # -- one process -------------------------------------------------------------------------------------------------

    async def _own(self, process: _Process) -> None:
        last = await self._live(process)
        del self._processes[process.spec.key]
        self._post(last)
        process.ended.set()

    async def _live(self, process: _Process) -> Event:
        """Launch, serve, end. The last word on the process; it is gone when this returns."""
        spec = process.spec
        stop = asyncio.ensure_future(process.stop.wait())
        launch = asyncio.ensure_future(self._launcher.launch(spec))
        try:
            failure = await self._launched(process, launch, stop)
            if failure is not None:
                return LoadFailed(spec.key, failure)
            if process.engine is None:
                return Stopped(spec.key)
            self._post(Loaded(spec.key))
            return await self._served(process, process.engine, stop)
        finally:
            stop.cancel()
            launch.cancel()
            await asyncio.gather(launch, stop, return_exceptions=True)
            if not launch.cancelled() and launch.exception() is None:
                await launch.result().close()

    async def _launched(
        self, process: _Process, launch: "asyncio.Future[RunningEngine]", stop: "asyncio.Future[Any]"
    ) -> Failure | None:
        """Sets process.engine once it runs; leaves it None if it was told to stop before."""
        name, began_ms = process.spec.name, self._clock.now_ms()
        await asyncio.wait((launch, stop), return_when=asyncio.FIRST_COMPLETED)
        took_ms = self._clock.now_ms() - began_ms
        if not launch.done():
            _LOG.info("load abandoned", model=name, reason=process.stop_reason)
            if process.stop_reason == LoadTimeout.code:
                self._meter.load(name, took_ms, LoadTimeout.code)
            return None
        try:
            process.engine = launch.result()
        except (OllamaMaxError, OSError) as error:
            kind = type(error) if isinstance(error, GgufError | LoadFailedError) else LoadFailedError
            _LOG.warning("load failed", model=name, reason=str(error))
            self._meter.load(name, took_ms, kind.code)
            return Failure(kind, str(error))
        except Exception as error:  # noqa: BLE001 - one launch's oddity must not end the node
            _LOG.error("load failed unexpectedly", model=name, exc_info=error)
            self._meter.load(name, took_ms, LoadFailedError.code)
            return Failure(LoadFailedError, f"model {name} could not be loaded: internal error; see the log")
        self.last_load_ms = took_ms
        _LOG.info("loaded", model=name, ms=round(took_ms), pid=process.engine.pid)
        self._meter.load(name, took_ms, "")
        return None

    async def _served(self, process: _Process, engine: RunningEngine, stop: "asyncio.Future[Any]") -> Event:
        name = process.spec.name
        exited = asyncio.ensure_future(engine.exited())
        try:
            await asyncio.wait((exited, stop), return_when=asyncio.FIRST_COMPLETED)
            if not stop.done():
                _LOG.warning("engine ended by itself", model=name, reason=exited.result())
                self._meter.engine_exit(name)
                return Exited(process.spec.key, exited.result())
            _LOG.info("unloading", model=name, reason=process.stop_reason)
            self._meter.unload(name, process.stop_reason)
            return Stopped(process.spec.key)
        finally:
            exited.cancel()
            await asyncio.gather(exited, return_exceptions=True)


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("the node is shutting down")
