"""Texts that become values: Go durations, OLLAMA_HOST, allowed origins. Pure functions.

Raises ValueError with a sentence that says what is allowed; the loader adds the key and the source.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from ollamamax.core.catalog import grammar
from ollamamax.core.dialects.durations import keep_alive_ms
from ollamamax.core.errors import BadRequest

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 11434
DEFAULT_PEER_PORT: Final = 11435
OFF: Final = "off"

_SCHEME_PORTS: Final = {"http": 80, "https": 443}


def seconds_or_duration_ms(text: str) -> int:
    """Milliseconds of a Go duration, or of a bare integer, which means seconds; FOREVER_MS for what is below zero.

    "5m" -> 300000, "300ms" -> 300, "10" -> 10000, "-1" -> FOREVER_MS.
    """
    text = text.strip()
    whole = re.fullmatch(r"[+-]?[0-9]{1,18}", text)
    try:
        milliseconds = keep_alive_ms(int(text) if whole else text)
    except BadRequest:
        raise ValueError('should be a duration such as "300ms", "90s", "5m" or "1h30m", or whole seconds') from None
    assert milliseconds is not None, "only None gives None"
    return milliseconds


@dataclass(frozen=True)
class Endpoint:
    """What OLLAMA_HOST says. path: without a trailing slash, "" mostly; only clients use scheme and path."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def url(self) -> str:
        """Where a client finds it: the unspecified addresses become loopback."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{self.port}{self.path}"


def parse_endpoint(text: str) -> Endpoint:
    """Read host, host:port, :port or scheme://host[:port][/path]; IPv6 with or without brackets.

    A scheme changes the default port (http 80, https 443), as with Ollama. `:port` alone is all interfaces there, so
    the host is then 0.0.0.0. Unlike Ollama, which falls back to the default port, a bad port is an error.
    """
    text = text.strip().strip("\"'").strip()
    if text == "ollama.com":
        return Endpoint("https", text, 443)
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    if scheme not in _SCHEME_PORTS:
        raise ValueError(f"scheme {scheme!r} is not known; use http or https")
    rest, _, path = rest.partition("/")
    host, port_text = _split_port(rest)
    default_port = _SCHEME_PORTS[scheme] if separator else DEFAULT_PORT
    path = path.rstrip("/")
    return Endpoint(scheme, check_host(host), _port(port_text, default_port), f"/{path}" if path else "")


def _split_port(text: str) -> tuple[str, str]:
    """(host, port), "" where the port is not said."""
    bare = text.strip("[]")
    if is_address(bare) and (":" not in text or text.count(":") > 1) and not re.search(r"\]:", text):
        return bare, ""
    host, separator, port = text.rpartition(":")
    if not separator:
        return text or DEFAULT_HOST, ""
    if not port:
        raise ValueError(f"{text!r} ends in a colon; write the port behind it")
    return (host.strip("[]") if host.startswith("[") else host) or "0.0.0.0", port


def _port(text: str, default: int) -> int:
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError(f"port {text!r} is not a number from 0 to 65535")
    return int(text)


def is_address(text: str) -> bool:
    """True for a literal IPv4 or IPv6 address without brackets."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def check_host(text: str) -> str:
    """The same text if it is an address or a host name (RFC 1123, underscores allowed)."""
    if is_address(text):
        return text
    if not re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?", text) or ".." in text:
        raise ValueError(f"{text!r} is neither an IP address nor a host name; write e.g. 127.0.0.1, ::1 or 0.0.0.0")
    return text


def is_loopback(host: str) -> bool:
    """Whether a listener there can be reached from this machine alone."""
    return ip_address(host).is_loopback if is_address(host) else host.lower() == "localhost"


def check_address(text: str) -> str:
    """An address under which others find a peer listener, in its one form; a host alone means the usual port."""
    with _as_value_error():
        return grammar.peer_address(grammar.address(text.strip(), DEFAULT_PEER_PORT))


def parse_peer_listen(text: str) -> tuple[str, int]:
    """(host, port) of --peer-listen: host:port, :port (host "": every interface), a host alone, or "off"."""
    text = text.strip()
    if text == OFF:
        return OFF, DEFAULT_PEER_PORT
    if text.startswith(":") and not is_address(text):
        return "", _port(text[1:], DEFAULT_PEER_PORT)
    with _as_value_error():
        return grammar.split_address(grammar.address(text, DEFAULT_PEER_PORT))


def check_peer_host(text: str) -> str:
    """The same text if the peer listener can be told to listen there: a host, "" (every interface) or "off"."""
    return text and check_host(text)


def check_node_name(text: str) -> str:
    """The same text if a node can be called so, or nothing."""
    with _as_value_error():
        return text and grammar.node_name(text)


def check_cluster_name(text: str) -> str:
    """The same text if a cluster can be called so."""
    with _as_value_error():
        return grammar.cluster_name(text)


@contextmanager
def _as_value_error() -> Iterator[None]:
    try:
        yield
    except BadRequest as error:
        raise ValueError(str(error)) from None


def check_origin(text: str) -> str:
    """The same text if it is an origin: scheme://host[:port], with at most one `*`, or `*` anywhere alone."""
    if text.count("*") > 1:
        raise ValueError(f"origin {text!r} has more than one *; one is allowed")
    if not re.fullmatch(r"\S+", text) or ("*" not in text and "://" not in text):
        raise ValueError(f"{text!r} is no origin; write e.g. https://example.com, http://localhost:* or *")
    return text


def ollama_flag(text: str) -> bool:
    """Ollama's reading of a truth value: what Go's ParseBool calls false is false, any other text is true."""
    return text not in ("0", "f", "F", "false", "FALSE", "False")
