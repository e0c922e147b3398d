"""Steps the residency machine for tests."""

from typing import Any

from ollamamax.core.errors import LoadFailed as LoadFailedError
from ollamamax.core.residency.events import (
    Acquire,
    Effect,
    Event,
    Fail,
    Failure,
    Grant,
    Loaded,
    MeasureMemory,
    MemoryMeasured,
    Release,
    StartLoad,
    Tick,
)
from ollamamax.core.residency.fit import Sizing
from ollamamax.core.residency.machine import Residency, ResidencyConfig
from ollamamax.core.residency.runner import Runner
from ollamamax.core.types import LaunchSpec

BROKEN = Failure(LoadFailedError, "broken")


class Driver:
    """Steps the machine, checks it after each step, and plays the part of memory and processes on demand."""

    def __init__(self, **config: Any) -> None:
        self.machine = Residency(ResidencyConfig(**config))
        self.now_ms = 1_000.0
        self.next_id = 1
        self.free_bytes = self.total_bytes = 1000
        self.gpus = 0

    def send(self, event: Event) -> list[Effect]:
        effects = self.machine.step(event, self.now_ms)
        self.machine.check_invariants()
        if MeasureMemory() in effects:
            effects.remove(MeasureMemory())
            effects += self.send(MemoryMeasured(self.free_bytes, self.total_bytes, self.gpus))
        return effects

    def acquire(
        self,
        key: str,
        need: int = 100,
        parallel: int = 1,
        automatic: tuple[str, ...] = (),
        keep_alive_ms: int | None = None,
        keep_for: str = "",
        **spec: Any,
    ) -> list[Effect]:
        sizing = (Sizing(parallel, need),)
        launch = LaunchSpec(**{"key": key, "name": key, "model_path": key, "ctx_tokens": 512, **spec})
        request = Acquire(
            request_id=self.next_id,
            spec=launch,
            sizings=sizing,
            automatic=frozenset(automatic),
            keep_alive_ms=keep_alive_ms,
            keep_for=keep_for,
        )
        self.next_id += 1
        return self.send(request)

    def load(self, key: str, **options: Any) -> int:
        """Acquire on an empty place, load, serve; the request's id."""
        started = self.acquire(key, **options)
        assert [type(effect) for effect in started] == [StartLoad]
        (grant,) = self.send(Loaded(key))
        assert isinstance(grant, Grant)
        return grant.request_id

    def load_idle(self, key: str, **options: Any) -> None:
        assert self.send(Release(self.load(key, **options), is_completed=True)) == []

    def keep(self, key: str, runner: str = "", **options: Any) -> None:
        """One more replica that is kept, loaded on an empty place. runner: its key."""
        (start,) = self.acquire(key, keep_for=key, **options)
        assert isinstance(start, StartLoad)
        assert start.spec.key == (runner or key)
        (grant,) = self.send(Loaded(start.spec.key))
        assert isinstance(grant, Grant)
        assert self.send(Release(grant.request_id, is_completed=True)) == []

    def wait(self, ms: float) -> list[Effect]:
        self.now_ms += ms
        return self.send(Tick())

    def runner(self, key: str) -> Runner:
        return next(runner for runner in self.machine.runners if runner.key == key)

    @property
    def keys(self) -> list[str]:
        return [runner.key for runner in self.machine.runners]


def failures(effects: list[Effect]) -> list[tuple[int, type[Exception]]]:
    return [(effect.request_id, effect.failure.kind) for effect in effects if isinstance(effect, Fail)]
