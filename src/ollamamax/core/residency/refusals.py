"""Why a request gets nothing, in words."""

from typing import Final

from ollamamax.core.errors import LoadTimeout, NoMemory, ShuttingDown
from ollamamax.core.residency.events import Acquire, Failure
from ollamamax.core.types import LaunchSpec

SHUTTING_DOWN: Final = Failure(ShuttingDown, "the node is shutting down")
DRAINED: Final = Failure(ShuttingDown, "the node was drained")


def too_slow(spec: LaunchSpec, limit_ms: float) -> Failure:
    """It took more than the limit to load."""
    text = f"model {spec.name} was not loaded within {limit_ms / 1000:g} s; engine.load_timeout_s allows more"
    return Failure(LoadTimeout, text)


def too_large(request: Acquire, total_bytes: int) -> Failure:
    """The machine could not hold it even if it were empty."""
    return Failure(
        NoMemory,
        f"model {request.spec.name} needs {_least(request)} with a context of {request.spec.ctx_tokens} tokens, but "
        f"this machine has {_gib(total_bytes)}; use a smaller quantisation of it or a smaller num_ctx",
    )


def all_kept(request: Acquire) -> Failure:
    """There is no room, and nobody who could be evicted."""
    return Failure(
        NoMemory,
        f"model {request.spec.name} needs {_least(request)}, and there is not enough memory beside the models that "
        "are placed on this machine; `ollamamax placements` lists them",
    )


def _least(request: Acquire) -> str:
    return _gib(request.sizings[-1].need_bytes)


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB"
