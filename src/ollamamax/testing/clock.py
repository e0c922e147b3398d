"""Time and chance under a test's control."""

import random


class FakeClock:
    """Stands still until it is advanced."""

    def __init__(self, now_ms: float = 0.0, wall_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now_ms = now_ms
        self._wall_ns = wall_ns

    def now_ms(self) -> float:
        """Monotonic milliseconds."""
        return self._now_ms

    def wall_ns(self) -> int:
        """Unix time in nanoseconds."""
        return self._wall_ns

    def advance(self, ms: float) -> None:
        """Both clocks move on by `ms`."""
        assert ms >= 0, "time does not run backwards"
        self._now_ms += ms
        self._wall_ns += int(ms * 1_000_000)


class SeededDice:
    """The same throws for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a test's dice

    def random(self) -> float:
        """Uniform in [0, 1)."""
        return self._random.random()

    def token_hex(self, count: int) -> str:
        """`count` bytes as hex."""
        return self._random.randbytes(count).hex()
