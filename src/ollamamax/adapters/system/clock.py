"""The real clock and the real dice."""

import os
import random
import time


class SystemClock:
    """Clock over the operating system's monotonic and wall clocks."""

    def now_ms(self) -> float:
        """Monotonic milliseconds."""
        return time.monotonic() * 1000.0

    def wall_ns(self) -> int:
        """Unix time in nanoseconds."""
        return time.time_ns()


class SystemDice:
    """Dice over the operating system's entropy for tokens, a Mersenne twister for choices."""

    def random(self) -> float:
        """Uniform in [0, 1)."""
        return random.random()  # noqa: S311 - jitter and tie-breaks, never secrets

    def token_hex(self, count: int) -> str:
        """`count` unpredictable bytes as hex."""
        return os.urandom(count).hex()
