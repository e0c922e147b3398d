"""Looks for nodes on the LAN by zenoh's multicast scouting. Whatever answers is unverified."""

import asyncio
import threading
from typing import Any, Final

import structlog
import zenoh

from ollamamax.adapters.network import zenoh_config
from ollamamax.adapters.network.zenoh_threads import Calls
from ollamamax.ports import ScoutedNode

_LOG: Final = structlog.get_logger(__name__)
_START_S: Final = 5.0
_MAX_NODES: Final = 256
_MAX_ADDRESSES: Final = 16
_PREFIX: Final = "tls/"


class ZenohScout:
    """See ports: Scout."""

    async def scout(self, timeout_ms: float) -> list[ScoutedNode]:
        """Routers that answer within that time; none where multicast does not work."""
        found: dict[str, tuple[str, ...]] = {}
        lock = threading.Lock()

        def hear(hello: zenoh.Hello) -> None:
            addresses = _peer_addresses(hello.locators)
            with lock:
                if addresses and len(found) < _MAX_NODES:
                    found.setdefault(str(hello.zid), addresses)

        handler: Any = hear
        calls = Calls()
        try:
            scout = await calls.run(
                lambda: zenoh.scout(handler, "router|peer", zenoh_config.scout_config()), _START_S, too_late=_stop
            )
        except (zenoh.ZError, TimeoutError) as error:
            _LOG.warning("the LAN can't be scouted", reason=zenoh_config.reason(error))
            return []
        try:
            await asyncio.sleep(timeout_ms / 1000)
        finally:
            await calls.run(scout.stop, _START_S)
        with lock:
            return [ScoutedNode(addresses) for addresses in dict.fromkeys(found.values())]


def _stop(scout: Any) -> None:
    scout.stop()


def _peer_addresses(locators: list[str]) -> tuple[str, ...]:
    """Of the peer listener, one port below, IPv4 first. Link-local ones mean nothing without their interface."""
    addresses = []
    for locator in locators[: 4 * _MAX_ADDRESSES]:
        host, _, port = str(locator).removeprefix(_PREFIX).rpartition(":")
        is_usable = str(locator).startswith(_PREFIX) and host and not host.lower().startswith("[fe80:")
        if is_usable and port.isdecimal() and 2 <= int(port) <= 65_535:
            addresses.append(f"{host}:{int(port) - 1}")
    addresses.sort(key=lambda address: address.startswith("["))
    return tuple(addresses[:_MAX_ADDRESSES])
