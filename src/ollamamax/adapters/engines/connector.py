"""Makes clients of attached engines, over one shared HTTP session."""

from urllib.parse import urlsplit

import aiohttp

from ollamamax.adapters.engines.http import Deadlines, new_session
from ollamamax.adapters.engines.ollama import OllamaEngine
from ollamamax.adapters.engines.openai import OpenAIEngine
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import AttachedEngine, EngineKind
from ollamamax.ports import Clock, Dice, Engine


class Connector:
    """One per event loop. The session is made when first needed; `aclose` ends it and with it all connections."""

    def __init__(self, clock: Clock, dice: Dice, deadlines: Deadlines | None = None) -> None:
        self._clock = clock
        self._dice = dice
        self._deadlines = deadlines
        self._session: aiohttp.ClientSession | None = None

    def connect(self, engine: AttachedEngine) -> Engine:
        """The client of an engine; nothing is sent yet. Raises: BadRequest for a url that can't be used."""
        _check(engine)
        if self._session is None or self._session.closed:
            self._session = new_session()
        if engine.kind is EngineKind.OLLAMA:
            return OllamaEngine(engine, self._session, self._deadlines)
        if engine.kind is EngineKind.OPENAI:
            return OpenAIEngine(engine, self._session, self._clock, self._dice, self._deadlines)
        raise BadRequest(f"an engine of kind {engine.kind.value} can't be attached; use ollama or openai")

    async def aclose(self) -> None:
        """Close the session. Idempotent."""
        if self._session is not None:
            await self._session.close()


def _check(engine: AttachedEngine) -> None:
    hint = "give it as http://host:port or https://host"
    try:
        parts = urlsplit(engine.url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise BadRequest(f"engine {engine.name}: url {engine.url!r} can't be used ({error}); {hint}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise BadRequest(f"engine {engine.name}: url {engine.url!r} can't be used; {hint}")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise BadRequest(
            f"engine {engine.name}: url may hold no user, query or fragment; a key goes into api_key; {hint}"
        )
