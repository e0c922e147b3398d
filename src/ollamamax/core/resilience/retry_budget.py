"""How many retries the node allows itself: a share of the recent requests, and a few in any case.

When everything fails, each request that is tried three times triples the load on what is left. Source: Finagle's
retry budgets (a token bucket over a sliding window: a deposit per request, a withdrawal per retry, and a minimum
reserve). Invariants T1 to T3: docs/invariants.md.
"""

from typing import Final

from msgspec import Struct

SLICES: Final = 10
"""The window moves on by a tenth of its length."""


class RetryConfig(Struct, frozen=True, kw_only=True):
    """ratio: retries per request.  min_per_window: allowed whatever the ratio.  window_ms: what counts as recent."""

    ratio: float = 0.2
    min_per_window: int = 10
    window_ms: float = 10_000.0


class Requested(Struct, frozen=True, gc=False):
    """A request begins: a deposit."""


class RetryAsked(Struct, frozen=True, gc=False):
    """May a failed attempt be repeated? If so, it is a withdrawal."""


class Granted(Struct, frozen=True, gc=False):
    """It may."""


class Refused(Struct, frozen=True, gc=False):
    """The budget is spent."""


Event = Requested | RetryAsked
_GRANTED: Final = Granted()
_REFUSED: Final = Refused()


class RetryBudget:
    """The machine."""

    def __init__(self, config: RetryConfig) -> None:
        assert config.window_ms > 0, "a window has a length"
        self._config = config
        self._slice_ms = config.window_ms / SLICES
        self._now = 0
        """Number of the current slice."""
        self._requests: dict[int, int] = {}
        self._retries: dict[int, int] = {}
        """Counts by number of slice, those of the window only."""

    def reconfigure(self, config: RetryConfig) -> None:
        """Another share from now on, also of what was counted already. The window keeps its length."""
        assert config.window_ms == self._config.window_ms, "what was counted belongs to slices of that length"
        self._config = config

    @property
    def balance(self) -> float:
        """Retries left in the window of the last step."""
        allowed = self._config.min_per_window + self._config.ratio * sum(self._requests.values())
        return allowed - sum(self._retries.values())

    def step(self, event: Event, now_ms: float) -> Granted | Refused | None:
        """Advance. Mutates self. RetryAsked is answered by Granted or Refused, Requested by None."""
        self._advance(now_ms)
        if isinstance(event, Requested):
            self._requests[self._now] = self._requests.get(self._now, 0) + 1
            return None
        if self.balance < 1:
            return _REFUSED
        self._retries[self._now] = self._retries.get(self._now, 0) + 1
        return _GRANTED

    def _advance(self, now_ms: float) -> None:
        now = int(now_ms // self._slice_ms)
        if now == self._now:
            return
        self._now = now
        for counts in (self._requests, self._retries):
            for old in [number for number in counts if number <= now - SLICES]:
                del counts[old]

    def check_invariants(self) -> None:
        """T1 to T3 of docs/invariants.md. Raises: AssertionError."""
        window = range(self._now - SLICES + 1, self._now + 1)
        for counts in (self._requests, self._retries):
            assert all(number in window for number in counts), "T1: only the window counts"
            assert all(count > 0 for count in counts.values()), "T2: no empty slices are kept"
        assert len(self._retries) <= SLICES, "T3: memory is bounded"
