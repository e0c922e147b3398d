"""One replica of a model in memory, or on its way there or out of it."""

from collections.abc import Container
from enum import Enum
from itertools import chain, count
from typing import Final

from msgspec import Struct

from ollamamax.core.residency.events import Acquire
from ollamamax.core.types import FOREVER_MS, LaunchSpec

_FIELDS_THAT_MATTER: Final = (
    "ctx_tokens",
    "batch_tokens",
    "embedding",
    "adapter_paths",
    "projector_path",
    "gpu_layers",
    "main_gpu",
    "threads",
    "use_mmap",
    "kv_cache_type",
    "flash_attention",
    "context_shift",
)


class Phase(Enum):
    """Where a runner is in its life::

    LOADING --Loaded--> READY --Exited--> BACKOFF --time--> LOADING
    LOADING --LoadFailed--> gone (first load) or BACKOFF (restart)
    READY, LOADING --StopRunner--> STOPPING --Stopped--> gone
    BACKOFF --unwanted--> gone
    """

    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    BACKOFF = "backoff"


class Runner(Struct, kw_only=True):
    """The state of one runner. Changed by the machine alone; others read it.

    model_key: identity of the weights; spec.key is the runner's own.  kept_for: key of the model name that it is kept
    for: it has no keep-alive and is not evicted; "" = for nobody.
    serving: requests that hold a slot.  waiting: those in line for one, in order (a dict as an ordered set).
    condemned: why it is to stop once nobody needs it, "" if it is not.  idle_since_ms: None while someone does.
    failures: crashes and failed restarts in a row.  deadline_ms: of a load; inf = none.
    """

    spec: LaunchSpec
    model_key: str
    need_bytes: int
    keep_alive_ms: int
    deadline_ms: float
    phase: Phase = Phase.LOADING
    serving: set[int]
    waiting: dict[int, None]
    kept_for: str = ""
    condemned: str = ""
    idle_since_ms: float | None = None
    retry_at_ms: float = 0.0
    ready_since_ms: float = 0.0
    failures: int = 0

    @property
    def key(self) -> str:
        """Its own: that of the weights, or with a number for a further replica."""
        return self.spec.key

    @property
    def is_idle(self) -> bool:
        """Nobody uses it or waits for it."""
        return not self.serving and not self.waiting

    @property
    def load(self) -> int:
        """Requests that it serves, or that wait for it."""
        return len(self.serving) + len(self.waiting)

    @property
    def has_free_slot(self) -> bool:
        """It could serve one more at once."""
        return self.phase is Phase.READY and len(self.serving) < self.spec.parallel

    @property
    def is_restart(self) -> bool:
        """While LOADING: it has been ready before."""
        return self.failures > 0

    @property
    def expires_at_ms(self) -> float | None:
        """When its keep-alive ends; None while it is needed, and for those that stay for ever or are kept."""
        if self.idle_since_ms is None or self.keep_alive_ms == FOREVER_MS or self.kept_for:
            return None
        return self.idle_since_ms + self.keep_alive_ms

    @property
    def eviction_rank(self) -> tuple[float, str]:
        """The smallest goes first: shortest keep-alive, then key."""
        return (float("inf") if self.keep_alive_ms == FOREVER_MS else self.keep_alive_ms, self.key)

    def accepts(self, request: Acquire) -> bool:
        """Whether a request may be served by this launch, or must have the model launched anew."""
        if self.condemned or self.phase is Phase.STOPPING:
            return False
        if request.keep_for and self.kept_for:
            return False
        return all(
            name in request.automatic or getattr(self.spec, name) == getattr(request.spec, name)
            for name in _FIELDS_THAT_MATTER
        )

    def is_like(self, other: "Runner") -> bool:
        """Whether who waits for one of the two may be served by the other."""
        return self.model_key == other.model_key and all(
            getattr(self.spec, name) == getattr(other.spec, name) for name in _FIELDS_THAT_MATTER
        )


def free_key(model_key: str, taken: Container[str]) -> str:
    """For one more replica: the key of the weights itself, or that with the smallest number that is free."""
    names = chain((model_key,), (f"{model_key}#{number}" for number in count(1)))
    return next(name for name in names if name not in taken)
