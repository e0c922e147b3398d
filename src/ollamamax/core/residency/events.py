"""What the residency machine is told, and what it wants done. Frozen data.

A `key` names a runner: that of the weights, or with `#1`, `#2`, ... for further replicas. Only a LaunchSpec that comes
with Acquire, and UnloadAsked, speak of the weights.
"""

from msgspec import Struct

from ollamamax.core.errors import OllamaMaxError
from ollamamax.core.residency.fit import Sizing
from ollamamax.core.types import LaunchSpec


class Failure(Struct, frozen=True):
    """An error as data: `raise failure.error()`. kind takes one text."""

    kind: type[OllamaMaxError]
    text: str

    def error(self) -> OllamaMaxError:
        """A new exception each time, so that those who raise it share no traceback."""
        return self.kind(self.text)


class Acquire(Struct, frozen=True, kw_only=True):
    """A request wants a slot of a model.

    spec: how to launch it; its `parallel` is chosen here.  sizings: numbers of slots to try, most first, not empty.
    automatic: names of the spec's fields that nobody asked for; a running model that differs in these alone will do.
    keep_alive_ms: None = leave it as it is, 0 = unload when idle, FOREVER_MS = never.  keep_for: not a request, but the
    wish for one more replica that is kept for this model key: in one that nobody keeps, else in a new one.
    """

    request_id: int
    spec: LaunchSpec
    sizings: tuple[Sizing, ...]
    automatic: frozenset[str] = frozenset()
    keep_alive_ms: int | None = None
    keep_for: str = ""


class Release(Struct, frozen=True):
    """A request is over, whether it waited or was served. is_completed: its answer came to its regular end."""

    request_id: int
    is_completed: bool = False


class UnloadAsked(Struct, frozen=True):
    """The model is to leave memory once those that use it or wait for it are done; replicas that are kept stay."""

    model_key: str


class LetGo(Struct, frozen=True):
    """A replica is kept no more: its keep-alive begins; one that is not ready leaves once nobody waits for it."""

    key: str


class StopServing(Struct, frozen=True):
    """All answers end now, nobody waits any more, all runners leave, those that are kept, too."""


class Loaded(Struct, frozen=True):
    """A started load is ready to serve."""

    key: str


class LoadFailed(Struct, frozen=True):
    """A started load came to nothing; no process is left."""

    key: str
    failure: Failure


class Exited(Struct, frozen=True):
    """The process of a ready runner has ended without being asked. reason: one line."""

    key: str
    reason: str


class Stopped(Struct, frozen=True):
    """What StopRunner asked for is done; no process is left."""

    key: str


class MemoryMeasured(Struct, frozen=True):
    """The answer to MeasureMemory. free_bytes: for new models.  total_bytes: all there is.  gpus: devices in use."""

    free_bytes: int
    total_bytes: int
    gpus: int = 0


class Tick(Struct, frozen=True):
    """`next_deadline_ms` has come."""


class Shutdown(Struct, frozen=True):
    """No more work. is_forced: stop runners that still serve, too."""

    is_forced: bool = False


Event = (
    Acquire
    | Release
    | UnloadAsked
    | LetGo
    | StopServing
    | Loaded
    | LoadFailed
    | Exited
    | Stopped
    | MemoryMeasured
    | Tick
    | Shutdown
)


class StartLoad(Struct, frozen=True):
    """Start a process. Answered by Loaded or LoadFailed, unless StopRunner comes first."""

    spec: LaunchSpec
    need_bytes: int


class StopRunner(Struct, frozen=True):
    """End a process or a load under way. Answered by Stopped (LoadFailed or Exited if that came first).

    reason: "expired", "evicted", "asked", "reload", "drained", "shutdown" or "load_timeout".
    """

    key: str
    reason: str


class Grant(Struct, frozen=True):
    """The request has a slot, until it is released or its runner exits."""

    request_id: int
    key: str


class Fail(Struct, frozen=True):
    """The request gets nothing; it is forgotten here."""

    request_id: int
    failure: Failure


class MeasureMemory(Struct, frozen=True):
    """Tell what memory there is now. Answered by MemoryMeasured."""


Effect = StartLoad | StopRunner | Grant | Fail | MeasureMemory
