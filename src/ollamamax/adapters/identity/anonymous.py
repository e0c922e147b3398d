"""A node without authentication."""

from typing import Final

from ollamamax.core.types import Principal

ANONYMOUS: Final = Principal("anonymous", ("admin",))


class AnonymousVerifier:
    """A TokenVerifier that asks for nothing: everyone who reaches the listener is the operator.

    That is Ollama's own rule, and why the listener binds to loopback unless somebody decides otherwise. Credentials
    that clients send all the same (many always send some) are ignored.
    """

    async def verify(self, authorization: str | None) -> Principal:
        """Always the operator."""
        return ANONYMOUS
