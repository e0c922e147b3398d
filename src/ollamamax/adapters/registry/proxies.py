"""Proxies from the environment: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in either case.

As in Ollama, this machine itself is never asked for through one.

Deliberate limits: HTTP proxies only; NO_PROXY knows names, domains and addresses, but no networks.
"""

import ipaddress
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ollamamax.core.errors import RegistryError

_SCHEMES: Final = ("http", "https")


def proxy_for(url: str) -> str | None:
    """The URL of the proxy to ask for `url`, None for a direct connection. Raises: RegistryError for one of no use."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_this_machine(host):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if urlsplit(proxy).scheme.lower() not in _SCHEMES:
        scheme = urlsplit(proxy).scheme
        raise RegistryError(f"a {scheme} proxy can't be used; set {parts.scheme.upper()}_PROXY to an HTTP one")
    return proxy


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
