"""Sockets: where to listen, and how to notice that the other side is gone without a word."""

import asyncio
import errno
import socket
import sys
from typing import Any, Final, Protocol

from ollamamax.core.errors import Conflict, SettingsError

_BACKLOG: Final = 2048
# A peer that vanished (cable pulled, host off) is noticed while nothing is under way: 5 s + 3 times 2 s.
_KEEP_ALIVE: Final = (("TCP_KEEPIDLE", 5), ("TCP_KEEPALIVE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3))
_UNACKNOWLEDGED_MS: Final = 30_000
# "Every interface" is IPv4 alone on a machine where IPv6 is switched off.
_NO_SUCH_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


class Tunable(Protocol):
    """A socket, or what an event loop gives for one."""

    def setsockopt(self, level: int, option: int, value: int, /) -> Any:
        """As of socket.socket."""
        ...


def watch_over(one: Tunable) -> None:
    """Have the system end the connection when the other host is gone; without delays for small writes."""
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE:
        if hasattr(socket, name):
            one.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if sys.platform == "linux":
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)


async def listening(host: str, port: int, setting: str) -> list[socket.socket]:
    """Listening sockets on all addresses of `host` ("" = every interface; port 0 = one port that is free for all).

    setting: what to name as the way to choose another address.
    Raises: Conflict if the port is in use, SettingsError if the address is not this machine's or not allowed.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise SettingsError(f"can't listen on {host}: {error.strerror}; give an address of this machine") from None
    return bind(found, host, port, setting)


def bind(found: list[tuple[Any, Any, Any, Any, Any]], host: str, port: int, setting: str) -> list[socket.socket]:
    """The same, of what a look-up found. Raises: Conflict, SettingsError."""
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in sorted(set(found), key=lambda item: item[0]):
            bound_port = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(_bind_one(family, kind, protocol, (address[0], bound_port, *address[2:])))
            except OSError as error:
                if not (sockets and not host and error.errno in _NO_SUCH_FAMILY):
                    raise
    except OSError as error:
        for one in sockets:
            one.close()
        raise _explained(error, f"{host or '*'}:{port}", setting) from None
    return sockets


def _bind_one(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    one = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # there it would let two programs share the port
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
        one.listen(_BACKLOG)
        one.setblocking(False)
    except OSError:
        one.close()
        raise
    return one


def _explained(error: OSError, where: str, setting: str) -> Conflict | SettingsError:
    if error.errno == errno.EADDRINUSE:
        return Conflict(
            f"{where} is already in use; stop the program that listens there, or choose another address with {setting}"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return SettingsError(f"{where} is no address of this machine; choose another host with {setting}")
    if error.errno == errno.EACCES:
        return SettingsError(f"no permission to listen on {where}; choose a port above 1023")
    return SettingsError(f"can't listen on {where}: {error.strerror}")
