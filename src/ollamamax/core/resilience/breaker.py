"""A circuit breaker: after some failures in a row nothing is asked for a while, then one probe decides.

::

    state       started     responded           succeeded           failed                  abandoned
    CLOSED      CLOSED      CLOSED              CLOSED, forget      CLOSED, or OPEN if      CLOSED
                                                                    it was the last straw
    OPEN        HALF_OPEN   OPEN                OPEN                OPEN                    OPEN
    HALF_OPEN   (never)     CLOSED, on trial    CLOSED, forget      OPEN                    OPEN, due now

- OPEN lasts `open_ms`; then one attempt may start, the probe, and the state is HALF_OPEN.
- In HALF_OPEN only the probe's news counts: it is the one attempt that began since.
- "On trial": the probe's first token came, so others may go, but one more failure opens at once. Only a whole
  answer forgets former failures; else an engine that always dies in the middle would never be left out.
- One crash ends all attempts under way. So a failure counts only if its attempt began after the last failure that
  counted; silence (a time-out) counts always, each being news of its own.
- Failures more than `window_ms` apart are no row.

The caller sends only failures that speak of the engine: never a client's own mistake. Invariants B1 to B4:
docs/invariants.md. Source of the pattern: M. Nygard, Release It!, chapter "Stability Patterns".
"""

from enum import Enum
from typing import Final

from msgspec import Struct


class State(Enum):
    """closed: all may pass.  open: none.  half_open: a probe is under way."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerConfig(Struct, frozen=True, kw_only=True):
    """failures: in a row, until it opens.  window_ms: how close they must follow.  open_ms: until a probe may go."""

    failures: int = 3
    window_ms: float = 60_000.0
    open_ms: float = 10_000.0


class Started(Struct, frozen=True, gc=False):
    """An attempt begins; `allows` must have said yes."""


class Responded(Struct, frozen=True, gc=False):
    """The first token of an attempt that began then."""

    began_ms: float


class Succeeded(Struct, frozen=True, gc=False):
    """The whole answer of an attempt that began then."""

    began_ms: float


class Failed(Struct, frozen=True, gc=False):
    """The failure of an attempt that began then. is_silence: it ran into a deadline."""

    began_ms: float
    is_silence: bool = False


class Abandoned(Struct, frozen=True, gc=False):
    """The client went away before the attempt showed anything."""

    began_ms: float


Event = Started | Responded | Succeeded | Failed | Abandoned


class Changed(Struct, frozen=True, gc=False):
    """The effect of a step that changed the state: for the log."""

    state: State


_NEVER: Final = float("-inf")


class Breaker:
    """The machine of one thing that can fail."""

    def __init__(self, config: BreakerConfig) -> None:
        _check(config)
        self._config = config
        self.state = State.CLOSED
        self.failures = 0
        self._last_failure_ms = _NEVER
        self._row_ms = _NEVER
        """When the row of failures last went on: with a failure, or with the trial."""
        self._due_ms = _NEVER
        """When a probe may go, while open."""
        self._probe_ms = _NEVER
        """When the last probe began."""

    def reconfigure(self, config: BreakerConfig) -> None:
        """Other limits from now on. Its state stays, and so does the time at which a probe may go."""
        _check(config)
        self._config = config
        self.failures = min(self.failures, config.failures - 1) if self.state is State.CLOSED else config.failures

    def allows(self, now_ms: float) -> bool:
        """Whether an attempt may start now. Reads only."""
        return self.state is State.CLOSED or (self.state is State.OPEN and now_ms >= self._due_ms)

    @property
    def is_clean(self) -> bool:
        """Closed and without a past: as good as new."""
        return self.state is State.CLOSED and self.failures == 0

    def step(self, event: Event, now_ms: float) -> Changed | None:
        """Advance. Mutates self; returns what there is to say."""
        before = self.state
        match event:
            case Started():
                self._start(now_ms)
            case Responded(began_ms) if self._is_probes(began_ms):
                self.state, self.failures, self._row_ms = State.CLOSED, self._config.failures - 1, now_ms
            case Succeeded(began_ms) if self.state is State.CLOSED or self._is_probes(began_ms):
                self.state, self.failures = State.CLOSED, 0
            case Failed(began_ms, is_silence):
                self._fail(began_ms, is_silence, now_ms)
            case Abandoned(began_ms) if self._is_probes(began_ms):
                self.state, self._due_ms = State.OPEN, now_ms
            case _:
                pass
        return Changed(self.state) if self.state is not before else None

    def _start(self, now_ms: float) -> None:
        assert self.allows(now_ms), "an attempt starts only where it is allowed"
        if self.state is State.OPEN:
            self.state, self._probe_ms = State.HALF_OPEN, now_ms

    def _is_probes(self, began_ms: float) -> bool:
        return self.state is State.HALF_OPEN and began_ms >= self._probe_ms

    def _fail(self, began_ms: float, is_silence: bool, now_ms: float) -> None:
        if self._is_probes(began_ms):
            self._open(now_ms)
        elif self.state is State.CLOSED and (is_silence or began_ms > self._last_failure_ms):
            in_row = now_ms - self._row_ms <= self._config.window_ms
            self.failures = self.failures + 1 if in_row else 1
            self._last_failure_ms = self._row_ms = now_ms
            if self.failures >= self._config.failures:
                self._open(now_ms)

    def _open(self, now_ms: float) -> None:
        self.state = State.OPEN
        self.failures = self._config.failures
        self._last_failure_ms = self._row_ms = now_ms
        self._due_ms = now_ms + self._config.open_ms

    def check_invariants(self) -> None:
        """B1 to B4 of docs/invariants.md. Raises: AssertionError."""
        is_closed = self.state is State.CLOSED
        assert 0 <= self.failures <= self._config.failures, "B1: failures are counted up to the limit"
        assert is_closed == (self.failures < self._config.failures), "B2: it is closed just below the limit"
        assert is_closed or self._last_failure_ms > _NEVER, "B3: only a failure opens it"
        assert self.state is not State.HALF_OPEN or self._probe_ms >= self._due_ms, "B4: no probe before its time"


def _check(config: BreakerConfig) -> None:
    assert config.failures >= 1, "it opens after some failure"
    assert config.open_ms > 0, "an open breaker stays so for a while"
