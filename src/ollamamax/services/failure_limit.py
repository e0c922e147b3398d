"""Guessing does not pay: who failed too often has to wait."""

from ipaddress import IPv6Address, ip_address, ip_network

from ollamamax.core.errors import Busy
from ollamamax.ports import Clock


class FailureLimit:
    """Counts failed attempts by source; each is forgotten after a while. At most 4096 sources are remembered.

    burst: so many are free.  forget_ms: then one more per so long.  An IPv6 source stands for its /64.
    """

    def __init__(self, clock: Clock, burst: int = 10, forget_ms: float = 6_000.0, sources: int = 4_096) -> None:
        self._clock = clock
        self._burst = burst
        self._forget_ms = forget_ms
        self._sources = sources
        self._failures: dict[str, tuple[float, float]] = {}
        """Source -> (how many, when that was counted), the longest unchanged first."""

    def check(self, source: str) -> None:
        """Raises: Busy if it has failed too often."""
        if self._count(_group(source)) + 1.0 > self._burst:
            raise Busy(f"too many failed attempts to join came from {source}: wait a minute, then try again")

    def failed(self, source: str) -> None:
        """One more."""
        key = _group(source)
        count = self._count(key) + 1.0
        self._failures.pop(key, None)
        if len(self._failures) >= self._sources:
            del self._failures[next(iter(self._failures))]
        self._failures[key] = (count, self._clock.now_ms())

    def _count(self, key: str) -> float:
        count, at_ms = self._failures.get(key, (0.0, 0.0))
        return max(0.0, count - (self._clock.now_ms() - at_ms) / self._forget_ms)


def _group(source: str) -> str:
    try:
        address = ip_address(source.partition("%")[0])
    except ValueError:
        return source
    return str(ip_network((address, 64), strict=False)) if isinstance(address, IPv6Address) else source
