"""Who may call from a browser: the Origin check (CORS) and the Host check against DNS rebinding.

Sources: Fetch standard, section 3.2 "CORS protocol"; the behaviour of Ollama's server.
"""

from ipaddress import ip_address
from typing import Final

from msgspec import Struct

Headers = list[tuple[bytes, bytes]]

_LOCAL_ORIGINS: Final = tuple(
    f"{scheme}://{host}{port}"
    for host in ("localhost", "127.0.0.1", "0.0.0.0")
    for scheme in ("http", "https")
    for port in ("", ":*")
)
_APP_ORIGINS: Final = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
_LOCAL_SUFFIXES: Final = (".localhost", ".local", ".internal")
_STAINLESS: Final = (
    "Arch",
    "Async",
    "Custom-Poll-Interval",
    "Helper-Method",
    "Lang",
    "Os",
    "Package-Version",
    "Poll-Helper",
    "Retry-Count",
    "Runtime",
    "Runtime-Version",
    "Timeout",
)
_ALLOW_HEADERS: Final = ",".join(
    (
        "Authorization",
        "Content-Type",
        "User-Agent",
        "Accept",
        "X-Requested-With",
        "Openai-Beta",
        *(f"X-Stainless-{name}" for name in _STAINLESS),
    )
)
_PREFLIGHT: Final[Headers] = [
    (b"access-control-allow-methods", b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    (b"access-control-allow-headers", _ALLOW_HEADERS.encode()),
    (b"access-control-max-age", b"43200"),
]
_MAX_REMEMBERED_HOSTS: Final = 256


class Verdict(Struct, frozen=True):
    """status: 0 = go on, else answer with it and an empty body. headers: for the reply, whatever it is."""

    status: int = 0
    headers: Headers = []


_GO_ON: Final = Verdict()


class OriginGuard:
    """Decides by the headers Origin and Host. Remembers what it decided of a Host."""

    def __init__(self, origins: tuple[str, ...], loopback: bool, local_hosts: frozenset[str]) -> None:
        allowed = tuple(origin.strip().lower() for origin in origins) + _LOCAL_ORIGINS + _APP_ORIGINS
        self._any_origin = "*" in allowed
        self._exact = frozenset(origin for origin in allowed if "*" not in origin)
        self._wild = tuple(tuple(origin.split("*", 1)) for origin in allowed if "*" in origin)
        self._loopback = loopback
        self._local_hosts = frozenset(host.lower() for host in local_hosts)
        self._hosts: dict[str, bool] = {}

    def judge(self, method: str, host: str, origin: str) -> Verdict:
        """host, origin: the headers' values, "" where missing."""
        verdict = self._judge_origin(method, host, origin) if origin else _GO_ON
        if verdict.status or not self._loopback:
            return verdict
        if not self._host_allowed(host):
            return Verdict(403)
        return Verdict(204) if method == "OPTIONS" else verdict

    def _judge_origin(self, method: str, host: str, origin: str) -> Verdict:
        if origin in (f"http://{host}", f"https://{host}"):
            return _GO_ON
        if not self._origin_allowed(origin.lower()):
            return Verdict(403)
        headers: Headers = [(b"access-control-allow-origin", b"*" if self._any_origin else origin.encode("latin-1"))]
        if not self._any_origin:
            headers.append((b"vary", b"Origin"))
        return Verdict(204, headers + _PREFLIGHT) if method == "OPTIONS" else Verdict(0, headers)

    def _origin_allowed(self, origin: str) -> bool:
        return (
            self._any_origin
            or origin in self._exact
            or any(
                len(origin) >= len(start) + len(end) and origin.startswith(start) and origin.endswith(end)
                for start, end in self._wild
            )
        )

    def _host_allowed(self, host: str) -> bool:
        known = self._hosts.get(host)
        if known is None:
            known = self._is_local(_without_port(host).lower())
            if len(self._hosts) < _MAX_REMEMBERED_HOSTS:
                self._hosts[host] = known
        return known

    def _is_local(self, host: str) -> bool:
        if host in ("", "localhost") or host in self._local_hosts or host.endswith(_LOCAL_SUFFIXES):
            return True
        try:
            address = ip_address(host)
        except ValueError:
            return False
        return address.is_loopback or address.is_private or address.is_unspecified


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host
