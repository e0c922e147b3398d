"""The client of registries against servers that misbehave: redirects, refusals, silence, broken answers."""

import asyncio
import ssl
from pathlib import Path

import pytest
from aiohttp import web

from certificates import Authority
from ollamamax.adapters.registry import client as client_module
from ollamamax.adapters.registry.client import RegistryClient
from ollamamax.adapters.registry.wire import is_same_site
from ollamamax.core.errors import (
    RangeIgnored,
    RegistryDenied,
    RegistryError,
    RegistryNotFound,
    RegistryProtocol,
    RegistryUnavailable,
)
from ollamamax.core.modelspec import names
from ollamamax.core.types import DEFAULT_HOST
from ollamamax.ports import Registry, Remote
from registry_servers import DATA, DIGEST, remote, serving


async def read(registry: Registry, at: Remote, start: int = 0, end: int = len(DATA)) -> bytes:
    return b"".join([piece async for piece in registry.read_blob(at, DIGEST, start, end)])


def ranged(request: web.Request) -> web.Response:
    """The part of DATA that was asked for."""
    start, end = (int(text) for text in request.headers["Range"].removeprefix("bytes=").split("-"))
    return web.Response(
        status=206,
        body=DATA[start : end + 1],
        headers={"Content-Range": f"bytes {start}-{end}/{len(DATA)}"},
    )


# --- what is asked --------------------------------------------------------------------------------------------


async def test_who_asks_and_for_what(registry: RegistryClient) -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(body=b"{}")

    async with serving(handler) as host:
        assert await registry.manifest(remote(host)) == b"{}"
    assert seen[0].path == "/v2/me/m/manifests/v1"
    assert seen[0].headers["Accept"].startswith("application/vnd.docker.distribution.manifest.v2+json")
    assert seen[0].headers["User-Agent"].startswith("ollamamax/0.1 (")
    assert seen[0].headers["Accept-Encoding"] == "identity"
    assert "Authorization" not in seen[0].headers


def test_insecure_is_plain_http_but_never_for_the_default_registry() -> None:
    url_of = client_module._repository
    assert url_of(remote("h:1")) == "http://h:1/v2/me/m"
    assert url_of(remote("h:1", insecure=False)) == "https://h:1/v2/me/m"
    assert url_of(Remote(names.parse("me/m"), insecure=True)) == f"https://{DEFAULT_HOST}/v2/me/m"
    assert url_of(Remote(names.parse("m"))) == f"https://{DEFAULT_HOST}/v2/library/m"
    assert url_of(Remote(names.parse("hf.co/Me/m-GGUF:Q4"))) == "https://hf.co/v2/Me/m-GGUF"


def tls(authority: Authority) -> ssl.SSLContext:
    """A server's, as localhost."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("localhost"))
    return context


async def test_a_certificate_of_nobody_is_refused_for_good(registry: RegistryClient, tmp_path: Path) -> None:
    async def handler(_: web.Request) -> web.Response:
        raise AssertionError("nothing is to be asked")

    async with serving(handler, tls(Authority(tmp_path))) as host:
        with pytest.raises(RegistryError, match="no safe connection to") as caught:
            await registry.manifest(remote(host.replace("127.0.0.1", "localhost"), insecure=False))
        assert not isinstance(caught.value, RegistryUnavailable)


async def test_what_begins_encrypted_stays_so(
    registry: RegistryClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    trusting = ssl.create_default_context(cafile=str(authority.path))
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)

    async def nobody(_: web.Request) -> web.Response:
        raise AssertionError("nothing is to be asked")

    async with serving(nobody) as plain:

        async def handler(request: web.Request) -> web.Response:
            match request.path.rpartition("/")[2]:
                case "v1":
                    return web.Response(body=b"{}")
                case "away":
                    return web.Response(status=307, headers={"Location": f"http://{plain}/"})
            return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="http://{plain}/token"'})

        async with serving(handler, tls(authority)) as host:
            name = host.replace("127.0.0.1", "localhost")
            assert await registry.manifest(remote(name, insecure=False)) == b"{}"
            for tag in ("away", "token"):
                with pytest.raises(RegistryProtocol, match="nothing is encrypted"):
                    await registry.manifest(Remote(names.parse(f"{name}/me/m:{tag}")))


async def test_nobody_is_there(registry: RegistryClient) -> None:
    async def handler(_: web.Request) -> web.Response:
        raise AssertionError

    async with serving(handler) as host:
        pass
    with pytest.raises(RegistryUnavailable, match=f"the connection to {host} failed"):
        await registry.manifest(remote(host))


# --- statuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "wait_s"),
    [
        (400, RegistryError, 0),
        (403, RegistryDenied, 0),
        (404, RegistryNotFound, 0),
        (416, RegistryError, 0),
        (429, RegistryUnavailable, 7),
        (408, RegistryUnavailable, 7),
        (500, RegistryUnavailable, 7),
        (503, RegistryUnavailable, 7),
    ],
)
async def test_refusals_are_told_in_the_registrys_words(
    registry: RegistryClient, status: int, kind: type[RegistryError], wait_s: float
) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, text="the reason\n", headers={"Retry-After": "7"})

    async with serving(handler) as host:
        for call in (registry.manifest(remote(host)), read(registry, remote(host))):
            with pytest.raises(RegistryError) as caught:
                await call
            assert type(caught.value) is kind
            assert str(caught.value) == f"{status}: the reason"
            assert getattr(caught.value, "wait_s", 0) == wait_s


@pytest.mark.parametrize(("said", "wait_s"), [("", 0), ("soon", 0), ("-1", 0), ("99999", 60), ("1.5", 0)])
async def test_how_long_to_wait(registry: RegistryClient, said: str, wait_s: float) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": said})

    async with serving(handler) as host:
        with pytest.raises(RegistryUnavailable) as caught:
            await registry.manifest(remote(host))
    assert caught.value.wait_s == wait_s


async def test_a_manifest_without_end(registry: RegistryClient) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=bytes(5 << 20))

    async with serving(handler) as host:
        with pytest.raises(RegistryProtocol, match="more than 4194304 bytes"):
            await registry.manifest(remote(host))


# --- redirects ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed_without_credentials(registry: RegistryClient, status: int) -> None:
    seen: list[tuple[str, str | None, str | None]] = []

    async def there(request: web.Request) -> web.Response:
        seen.append((request.path_qs, request.headers.get("Authorization"), request.headers["Range"]))
        return ranged(request)

    async with serving(there) as other:

        async def handler(request: web.Request) -> web.Response:
            if request.path == "/token":
                return web.json_response({"token": "secret"})
            if request.headers.get("Authorization") != "Bearer secret":
                realm = f'Bearer realm="http://{request.host}/token"'
                return web.Response(status=401, headers={"WWW-Authenticate": realm})
            if not request.query:
                return web.Response(status=status, headers={"Location": f"{request.path}?again=1"})
            return web.Response(status=status, headers={"Location": f"http://{other}/x%2Fy?sign=a%3D%2Bb"})

        async with serving(handler) as host:
            assert await read(registry, remote(host), 5, 500) == DATA[5:500]
    assert seen == [("/x%2Fy?sign=a%3D%2Bb", None, "bytes=5-499")]


async def test_redirects_without_end(registry: RegistryClient) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": request.path})

    async with serving(handler) as host:
        with pytest.raises(RegistryProtocol, match="redirects without end"):
            await registry.manifest(remote(host))


@pytest.mark.parametrize("location", ["ftp://x/y", "http://[/", "javascript:1"])
async def test_redirects_to_nowhere(registry: RegistryClient, location: str) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": location})

    async with serving(handler) as host:
        with pytest.raises(RegistryProtocol, match="URL that can't be used"):
            await registry.manifest(remote(host))


async def test_an_expired_address_elsewhere_may_be_asked_for_again(registry: RegistryClient) -> None:
    async def there(_: web.Request) -> web.Response:
        return web.Response(status=403, text="expired")

    async with serving(there) as other:

        async def handler(_: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"http://{other}/x"})

        async with serving(handler) as host:
            with pytest.raises(RegistryUnavailable, match=r"^403: expired"):
                await read(registry, remote(host))


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("https://a/x", "https://a/y", True),
        ("https://a/x", "https://A:443/y", True),
        ("https://a/x", "https://b/x", False),
        ("https://a/x", "https://a:444/x", False),
        ("https://a/x", "http://a/x", False),
        ("http://a/x", "https://a/x", True),
        ("http://a:5000/x", "https://a:5000/x", False),
        ("http://a:5000/x", "http://a:5000/x", True),
        ("https://a/x", "https://a@evil/x", False),
    ],
)
def test_who_counts_as_the_same(one: str, two: str, same: bool) -> None:
    assert is_same_site(one, two) is same


# --- blobs ----------------------------------------------------------------------------------------------------


async def test_a_registry_that_knows_no_ranges(registry: RegistryClient) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=DATA)

    async with serving(handler) as host:
        assert await read(registry, remote(host), 0, 700) == DATA[:700]
        with pytest.raises(RangeIgnored):
            await read(registry, remote(host), 1, 700)


@pytest.mark.parametrize(
    ("status", "headers"), [(206, {}), (206, {"Content-Range": "bytes 0-9/10"}), (204, {}), (304, {})]
)
async def test_other_bytes_than_were_asked_for(registry: RegistryClient, status: int, headers: dict[str, str]) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, headers=headers, body=b"" if status != 206 else DATA)

    async with serving(handler) as host:
        with pytest.raises(RegistryProtocol, match="other bytes"):
            await read(registry, remote(host), 5, 9)


async def test_a_part_that_ends_too_early(registry: RegistryClient) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=206, headers={"Content-Range": "bytes 0-9/10"}, body=DATA[:7])

    async with serving(handler) as host:
        with pytest.raises(RegistryUnavailable, match="3 bytes too early"):
            await read(registry, remote(host), 0, 10)


async def test_a_part_that_falls_silent(registry: RegistryClient) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=206, headers={"Content-Range": "bytes 0-9/10", "Content-Length": "10"})
        await response.prepare(request)
        await response.write(DATA[:3])
        await asyncio.Event().wait()
        return response

    async with serving(handler) as host:
        pieces = registry.read_blob(remote(host), DIGEST, 0, 10)
        assert await anext(pieces) == DATA[:3]
        with pytest.raises(RegistryUnavailable, match="said nothing for too long"):
            await anext(pieces)
