"""Whether somebody listens at an address, found out faster than zenoh does."""

import asyncio
from collections.abc import Sequence
from typing import Final

_LIMIT_S: Final = 1.0


async def reachable(addresses: Sequence[str]) -> list[str]:
    """Those of these addresses (host:port, [v6]:port) where a TCP connection is taken within a second, in order."""
    found = await asyncio.gather(*(_is_reachable(address) for address in addresses))
    return [address for address, is_there in zip(addresses, found, strict=True) if is_there]


async def _is_reachable(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_LIMIT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, ValueError):
        return False
    # Not closed in good form: nobody has said anything.
    writer.transport.abort()
    return True
