"""Makes clients of attached engines."""

from urllib.parse import urlsplit
from weakref import WeakSet

from ollamamax.adapters.engines.http import Deadlines
from ollamamax.adapters.engines.ollama import OllamaEngine
from ollamamax.adapters.engines.openai import OpenAIEngine
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import AttachedEngine, EngineKind
from ollamamax.ports import Clock, Dice, Engine


class Connector:
    """Any number of engines, each with connections of its own; `aclose` ends those of all that still live."""

    def __init__(self, clock: Clock, dice: Dice, deadlines: Deadlines | None = None) -> None:
        self._clock = clock
        self._dice = dice
        self._deadlines = deadlines
        self._made: WeakSet[Engine] = WeakSet()

    def connect(self, engine: AttachedEngine) -> Engine:
        """The client of an engine; nothing is sent yet. Raises: BadRequest for a url or a key that can't be used."""
        _check(engine)
        try:
            made = self._make(engine)
        except ValueError as error:
            raise BadRequest(f"engine {engine.name}: {error}") from None
        self._made.add(made)
        return made

    def _make(self, engine: AttachedEngine) -> Engine:
        if engine.kind is EngineKind.OLLAMA:
            return OllamaEngine(engine, self._deadlines)
        if engine.kind is EngineKind.OPENAI:
            return OpenAIEngine(engine, self._clock, self._dice, self._deadlines)
        raise BadRequest(f"an engine of kind {engine.kind.value} can't be attached; use ollama or openai")

    async def aclose(self) -> None:
        """Close all engines. Idempotent."""
        for engine in tuple(self._made):
            await engine.close()


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
