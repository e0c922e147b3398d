"""Tokens: where they come from, who is told who we are, and how long one serves."""

import asyncio
import base64
import hashlib
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from structlog.testing import capture_logs

from ollamamax.adapters.registry.client import RegistryClient
from ollamamax.adapters.registry.wire import WireLimits
from ollamamax.core.errors import RegistryDenied, RegistryProtocol, RegistryUnavailable
from registry_servers import remote, serving

KEY = Ed25519PrivateKey.generate()


class Guard:
    """A registry that wants a token, and the place where it is had. valid: the one that opens."""

    def __init__(self) -> None:
        self.valid = "one"
        self.realm = ""
        self.scheme = "Bearer"
        self.token_reply: web.Response | None = None
        self.asked: list[web.Request] = []
        self.refused = 0

    async def registry(self, request: web.Request) -> web.Response:
        if request.path == "/token":
            return await self.token(request)
        if request.headers.get("Authorization") == f"Bearer {self.valid}":
            return web.Response(body=b"{}")
        self.refused += 1
        realm = self.realm or f"http://{request.host}/token"
        asked = f'{self.scheme} realm="{realm}",service="the service",scope="repository:me/m:pull repository:me/m:push"'
        return web.Response(status=401, headers={"WWW-Authenticate": asked})

    async def token(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        return self.token_reply or web.json_response({"token": self.valid})


@pytest.fixture
def limits() -> WireLimits:
    """A key takes its time."""
    return WireLimits(stall_s=5)


def write_key(path: Path, key: Ed25519PrivateKey = KEY) -> None:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


async def test_a_token_is_fetched_once_and_kept(registry: RegistryClient) -> None:
    guard = Guard()
    async with serving(guard.registry) as host:
        for _ in range(3):
            assert await registry.manifest(remote(host)) == b"{}"
        assert (guard.refused, len(guard.asked)) == (1, 1)
        query = parse_qs(guard.asked[0].query_string)
        assert query["scope"] == ["repository:me/m:pull", "repository:me/m:push"]
        assert query["service"] == ["the service"]
        assert query["ts"] == ["1700000000"]
        assert len(base64.urlsafe_b64decode(query["nonce"][0] + "==")) == 16
        assert list(query) == sorted(query)
        assert "Authorization" not in guard.asked[0].headers


async def test_an_old_token_is_renewed(registry: RegistryClient) -> None:
    guard = Guard()
    async with serving(guard.registry) as host:
        await registry.manifest(remote(host))
        guard.valid = "two"
        assert await registry.manifest(remote(host)) == b"{}"
    assert len(guard.asked) == 2


async def test_many_requests_share_a_renewal(registry: RegistryClient) -> None:
    guard = Guard()
    async with serving(guard.registry) as host:
        await asyncio.gather(*(registry.manifest(remote(host)) for _ in range(20)))
    assert len(guard.asked) == 1


async def test_a_key_signs_for_the_registrys_own_realm(registry: RegistryClient, key_path: Path) -> None:
    write_key(key_path)
    guard = Guard()
    async with serving(guard.registry) as host:
        assert await registry.manifest(remote(host)) == b"{}"
        request = guard.asked[0]
        public, _, signature = request.headers["Authorization"].partition(":")
        known = KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        assert known == f"ssh-ed25519 {public}"
        nothing = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
        signed = f"GET,http://{host}{request.path_qs},{nothing}"
        KEY.public_key().verify(base64.b64decode(signature), signed.encode())


async def test_another_host_is_not_told_who_we_are(registry: RegistryClient, key_path: Path) -> None:
    write_key(key_path)
    guard = Guard()
    async with serving(guard.token) as other, serving(guard.registry) as host:
        guard.realm = f"http://{other}/auth?kind=x"
        assert await registry.manifest(remote(host)) == b"{}"
    assert urlsplit(str(guard.asked[0].url)).path == "/auth"
    assert guard.asked[0].query["kind"] == "x"
    assert "Authorization" not in guard.asked[0].headers


async def test_a_key_of_no_use_is_told_and_left(registry: RegistryClient, key_path: Path) -> None:
    contents = (
        b"no key",
        KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
    )
    guard = Guard()
    async with serving(guard.registry) as host:
        for number, content in enumerate(contents):
            key_path.write_bytes(content)
            guard.valid = str(number)
            with capture_logs() as logs:
                assert await registry.manifest(remote(host)) == b"{}"
            assert "Authorization" not in guard.asked[-1].headers
            assert [log["log_level"] for log in logs] == ["warning"]


@pytest.mark.parametrize("status", [401, 403])
async def test_no_token_for_us(registry: RegistryClient, status: int) -> None:
    guard = Guard()
    guard.token_reply = web.Response(status=status, text="no")
    async with serving(guard.registry) as host:
        with pytest.raises(RegistryDenied, match=r"^unauthorized: access denied$"):
            await registry.manifest(remote(host))


async def test_a_token_that_does_not_open(registry: RegistryClient) -> None:
    guard = Guard()
    guard.token_reply = web.json_response({"token": "wrong"})
    async with serving(guard.registry) as host:
        with pytest.raises(RegistryDenied, match=r"^unauthorized: access denied$"):
            await registry.manifest(remote(host))
    assert (guard.refused, len(guard.asked)) == (2, 1)


@pytest.mark.parametrize("scheme", ["Basic", ""])
async def test_a_registry_that_wants_something_else(registry: RegistryClient, scheme: str) -> None:
    guard = Guard()
    guard.scheme = scheme
    async with serving(guard.registry) as host:
        with pytest.raises(RegistryDenied, match=r"^unauthorized: access denied$"):
            await registry.manifest(remote(host))


@pytest.mark.parametrize("realm", ["file:///etc/passwd", "Authentication required", "//x/y"])
async def test_a_realm_that_is_no_address(registry: RegistryClient, realm: str) -> None:
    guard = Guard()
    guard.realm = realm
    async with serving(guard.registry) as host:
        with pytest.raises(RegistryDenied, match=r"^unauthorized: access denied$"):
            await registry.manifest(remote(host))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"token": 1}', b"{}", b'{"token": "a\\nb"}', b'{"token": "\\u00fc"}', b"\xff"]
)
async def test_an_answer_without_a_token(registry: RegistryClient, body: bytes) -> None:
    guard = Guard()
    guard.token_reply = web.Response(body=body)
    async with serving(guard.registry) as host:
        with pytest.raises(RegistryProtocol, match="answered without a token"):
            await registry.manifest(remote(host))


async def test_tokens_are_not_to_be_had_now(registry: RegistryClient) -> None:
    guard = Guard()
    guard.token_reply = web.Response(status=503, text="later", headers={"Retry-After": "2"})
    async with serving(guard.registry) as host:
        with pytest.raises(RegistryUnavailable, match=r"^503: later$") as caught:
            await registry.manifest(remote(host))
    assert caught.value.wait_s == 2


async def test_a_401_from_elsewhere_asks_nothing_of_us(registry: RegistryClient, key_path: Path) -> None:
    write_key(key_path)
    guard = Guard()
    async with serving(guard.registry) as other:

        async def away(_: web.Request) -> web.Response:
            return web.Response(status=307, headers={"Location": f"http://{other}/x"})

        async with serving(away) as host:
            with pytest.raises(RegistryUnavailable, match=r"^401: "):
                await registry.manifest(remote(host))
    assert guard.asked == []
