"""Connections to one server that wait for their next request."""

from collections.abc import Callable

from ollamamax.adapters.wire.connection import Connection


class IdleConnections:
    """The one that was used last is taken first. keep_s: idle for longer, it is not used again."""

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._idle: list[Connection] = []  # ascending by the time it came to rest

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, is_wanted: Callable[[Connection], bool] | None = None) -> Connection | None:
        """One that is still good for a request; those that are not are closed."""
        while self._idle:
            connection = self._idle.pop()
            is_good = connection.idle_s() <= self._keep_s and connection.is_usable()
            if is_good and (is_wanted is None or is_wanted(connection)):
                return connection
            connection.abort()
        return None

    def give_back(self, connection: Connection) -> bool:
        """Its answer has come whole. False: it was not good for another one, and is closed."""
        connection.rest()
        if not connection.is_usable():
            connection.abort()
            return False
        self._idle.append(connection)
        return True

    def drop(self, older_than_s: float = 0.0) -> None:
        """Close those that nobody has used for so long."""
        while self._idle and self._idle[0].idle_s() >= older_than_s:
            self._idle.pop(0).abort()

    @property
    def longest_s(self) -> float | None:
        """For how long the oldest one has been idle; None: there is none."""
        return self._idle[0].idle_s() if self._idle else None
