"""How blobs are moved to and from registries: in which parts, and how often what fails is tried again."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

from msgspec import Struct

from ollamamax.core.errors import RegistryError, RegistryUnavailable, Retry
from ollamamax.core.modelspec import names
from ollamamax.core.modelspec.parts import MAX_PART_BYTES, MIN_PART_BYTES, part_sizes
from ollamamax.core.types import Progress, TransferRequest
from ollamamax.ports import Dice, Remote

_TELL_EVERY_S: Final = 0.1
_MAX_PAUSE_S: Final = 64.0


class TransferConfig(Struct, frozen=True, kw_only=True):
    """min_part_bytes, max_part_bytes: of a blob's parts.  connections: parts of one blob at once.

    tries: of a part in a row that brought no byte.  pause_ms: after the first failure; it doubles with each.
    """

    min_part_bytes: int = MIN_PART_BYTES
    max_part_bytes: int = MAX_PART_BYTES
    connections: int = 16
    tries: int = 6
    pause_ms: float = 1_000.0

    def part_sizes(self, size_bytes: int) -> list[int]:
        """Of a blob's parts, in order."""
        return part_sizes(size_bytes, self.min_part_bytes, self.max_part_bytes)


class Patience:
    """With one part, or one question. Mutable: counts failures in a row."""

    def __init__(self, config: TransferConfig, dice: Dice) -> None:
        self._config = config
        self._dice = dice
        self._failures = 0

    async def bear(self, error: RegistryError, has_progressed: bool = False) -> None:
        """Pause for a while, longer each time. has_progressed: since the last failure.

        Raises: the error, if a repeat won't help; RegistryUnavailable after too many in a row.
        """
        if error.retry is not Retry.LATER:
            raise error
        self._failures = 1 if has_progressed else self._failures + 1
        if self._failures >= self._config.tries:
            raise RegistryUnavailable(f"max retries exceeded: {error}") from error
        pause_s = min(self._config.pause_ms / 1000 * 2 ** (self._failures - 1), _MAX_PAUSE_S)
        asked_s = error.wait_s if isinstance(error, RegistryUnavailable) else 0.0
        await asyncio.sleep(max(pause_s * (0.5 + self._dice.random() / 2), asked_s))


async def follow(
    work: "asyncio.Future[Any]", verb: str, digest: str, total: int, done: Callable[[], int]
) -> AsyncGenerator[Progress, None]:
    """A blob's progress until the work has ended. Raises: what the work raised."""
    async with aclosing(told(work, title(verb, digest), digest, total, done)) as steps:
        async for step in steps:
            yield step


async def told(
    work: "asyncio.Future[Any]", status: str, digest: str, total: int, done: Callable[[], int]
) -> AsyncGenerator[Progress, None]:
    """Progress of work until it has ended, ten times a second at most. Raises: what the work raised."""
    before = -1
    while not work.done():
        if (now := done()) != before:
            before = now
            yield Progress(status, digest, total, now)
        await asyncio.wait({work}, timeout=_TELL_EVERY_S)
    work.result()
    yield Progress(status, digest, total, total)


def title(verb: str, digest: str) -> str:
    """`pulling 6a0746a1ec1a`."""
    return f"{verb} {digest.partition(':')[2][:12]}"


def remote_of(request: TransferRequest) -> Remote:
    """Which model of which registry is meant. Raises: InvalidName, RegistryError for http that is not allowed."""
    name = names.parse(request.model)
    if request.model.lower().startswith("http://") and not request.insecure:
        raise RegistryError("insecure protocol http")
    return Remote(name, request.insecure)


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first, where several tasks worked on one thing."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
