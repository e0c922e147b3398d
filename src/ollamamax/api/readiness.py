"""Whether this node wants requests: its phase, and whether its store can be used."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Final

from ollamamax.core.errors import OllamaMaxError

_PROBE_S: Final = 2.0


class Phase(Enum):
    """Where a node is in its life; the value is the reason why it wants no requests, "" if it does."""

    STARTING = "the node is starting"
    SERVING = ""
    DRAINING = "the node is stopping"


class NodeReadiness:
    """`phase` is set by whoever starts the node. probe: raises an OllamaMaxError if the store is unusable.

    drains: called when the node is to take no new requests.
    """

    def __init__(self, probe: Callable[[], Awaitable[object]], drains: Sequence[Callable[[], None]] = ()) -> None:
        self.phase = Phase.STARTING
        self._probe = probe
        self._drains = drains

    def drain(self) -> None:
        """Take no new requests; those under way go on."""
        self.phase = Phase.DRAINING
        for begin_drain in self._drains:
            begin_drain()

    async def reasons(self) -> list[str]:
        """Why no requests should come here; empty = ready."""
        reasons = [self.phase.value] if self.phase.value else []
        try:
            async with asyncio.timeout(_PROBE_S):
                await self._probe()
        except TimeoutError:
            reasons.append("the model store does not answer")
        except OllamaMaxError as error:
            reasons.append(f"the model store can't be used: {error}")
        return reasons
