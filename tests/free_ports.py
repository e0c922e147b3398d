"""Free ports for servers that tests start in processes of their own, or start anew at the same place."""

import random
import socket

_RANGE = range(10_000, 32_000)
"""Below the ports that outgoing connections take theirs from: a port of a node that is down stays its own."""
_TRIES = 1_000


def free_port(count: int = 1) -> int:
    """The first of so many consecutive ports of loopback that nobody listens at now."""
    for _ in range(_TRIES):
        first = random.choice(_RANGE[:-count])
        if all(_is_free(first + number) for number in range(count)):
            return first
    raise AssertionError(f"no {count} consecutive ports are free")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
