"""Tokens for registries: fetched where a 401 says, kept per repository. Source: distribution `spec/auth/token`.

Only a realm on the registry's own host is told who we are: Ollama's registry asks for a signature. Another realm, as
plain registries have it, is asked for what anybody gets.
"""

import asyncio
import base64
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from ollamamax.adapters.registry.challenge import Challenge, bearer
from ollamamax.adapters.registry.keys import KeyFile
from ollamamax.adapters.registry.wire import Wire, check, host_of
from ollamamax.core.errors import RegistryDenied, RegistryProtocol
from ollamamax.ports import Clock, Dice

_MAX_TOKEN_BYTES: Final = 64 << 10
_KEPT: Final = 256
_NONCE_BYTES: Final = 16
DENIED: Final = "unauthorized: access denied"


class Tokens:
    """By the base URL of a repository."""

    def __init__(self, wire: Wire, clock: Clock, dice: Dice, key: KeyFile) -> None:
        self._wire = wire
        self._clock = clock
        self._dice = dice
        self._key = key
        self._known: dict[str, str] = {}
        self._renewing: dict[str, asyncio.Lock] = {}

    def of(self, repository: str) -> str:
        """The token to try; "" if none is known."""
        return self._known.get(repository, "")

    async def renew(self, repository: str, refused: str, asked: Iterable[str]) -> None:
        """Get one in place of `refused`, unless another caller has done so. asked: the WWW-Authenticate headers.

        Raises: RegistryDenied, RegistryUnavailable, RegistryProtocol.
        """
        async with self._renewing.setdefault(repository, asyncio.Lock()):
            if self.of(repository) != refused:
                return
            challenge = bearer(asked)
            if challenge is None:
                raise RegistryDenied(DENIED)
            self._known.pop(repository, None)
            self._known[repository] = await self._fetch(repository, challenge)
            while len(self._known) > _KEPT:
                oldest = next(iter(self._known))
                del self._known[oldest]
                self._renewing.pop(oldest, None)

    async def _fetch(self, repository: str, challenge: Challenge) -> str:
        realm = challenge.parameters["realm"]
        if not realm.startswith(("https://", "http://")):
            raise RegistryDenied(DENIED)
        if repository.startswith("https:") and realm.startswith("http:"):
            raise RegistryProtocol(f"{host_of(repository)} has its tokens fetched where nothing is encrypted: {realm}")
        url = f"{realm}{'&' if '?' in realm else '?'}{self._question(challenge)}"
        is_own = host_of(realm) == host_of(repository)
        authorization = await asyncio.to_thread(self._key.authorization, url) if is_own else ""
        headers = {"Authorization": authorization} if authorization else {}
        async with self._wire.exchange("GET", url, headers) as response:
            if response.status in (401, 403):
                raise RegistryDenied(DENIED)
            await check(response)
            body = await response.content.read(_MAX_TOKEN_BYTES)
        return _token(body, host_of(realm))

    def _question(self, challenge: Challenge) -> str:
        """The query, its keys sorted: the signature covers it."""
        nonce = base64.urlsafe_b64encode(bytes.fromhex(self._dice.token_hex(_NONCE_BYTES))).rstrip(b"=").decode()
        parameters = challenge.parameters
        scopes = [("scope", scope) for scope in parameters.get("scope", "").split()]
        service = [("service", parameters["service"])] if "service" in parameters else []
        stamp = ("ts", str(self._clock.wall_ns() // 10**9))
        return urlencode([("nonce", nonce), *scopes, *service, stamp])


def _token(body: bytes, host: str) -> str:
    try:
        answer: Any = msgspec.json.decode(body)
        token = answer.get("token") or answer["access_token"]
    except (msgspec.DecodeError, UnicodeDecodeError, AttributeError, KeyError):
        token = None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise RegistryProtocol(f"{host} answered without a token")
    return token
