"""Proxies from the environment."""

import pytest
from aiohttp import web

from ollamamax.adapters.registry.client import RegistryClient
from ollamamax.adapters.registry.proxies import proxy_for
from ollamamax.core.errors import (
    RegistryError,
)
from registry_servers import remote, serving


async def test_a_proxy_of_the_environment_is_asked(registry: RegistryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str | None]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((str(request.url), request.headers.get("Proxy-Authorization")))
        return web.Response(body=b"{}")

    async with serving(handler) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@{proxy}")
        assert await registry.manifest(remote("registry.example")) == b"{}"
    assert seen == [("http://registry.example/v2/me/m/manifests/v1", "Basic bWU6c2VjcmV0")]


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, "https://a.example/x", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://a.example/x", "http://p:1"),
        ({"https_proxy": "p:1"}, "https://a.example/x", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://a.example/x", None),
        ({"ALL_PROXY": "http://p:1"}, "https://a.example/x", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.example,b"}, "https://a.example/x", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": ".example"}, "https://u@a.example:5000/x", None),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "b"}, "https://a.example/x", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "http://localhost:5000/x", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://127.0.0.1:5000/x", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://[::1]:5000/x", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://10.0.0.1/x", "http://p:1"),
    ],
)
def test_which_proxy(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, proxy: str | None) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(url) == proxy


def test_a_proxy_of_no_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://p:1")
    with pytest.raises(RegistryError, match="a socks5 proxy can't be used"):
        proxy_for("https://a.example/x")
