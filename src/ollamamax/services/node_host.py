"""What a node answers when another one asks whether it is there."""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from ollamamax.core.errors import PeerProtocol
from ollamamax.ports import Caller, PeerMethods

PING: Final = "node.ping"


class Pong(Struct, frozen=True, kw_only=True):
    """The answer to a ping. instance: drawn at its start.  revision: of the state that it has seen.  See NodeFacts."""

    node_id: str
    instance: str
    version: str
    revision: int = 0
    draining: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Pong).decode


class NodeHost:
    """Answers `node.ping`."""

    def __init__(
        self, node_id: str, instance: str, version: str, revision: Callable[[], int], draining: Callable[[], bool]
    ) -> None:
        self._node_id = node_id
        self._instance = instance
        self._version = version
        self._revision = revision
        self._draining = draining

    def methods(self) -> PeerMethods:
        """For the peer listener."""
        return PeerMethods(unary={PING: self._ping})

    async def _ping(self, caller: Caller, body: bytes) -> bytes:
        return _encode(
            Pong(
                node_id=self._node_id,
                instance=self._instance,
                version=self._version,
                revision=self._revision(),
                draining=self._draining(),
            )
        )


def decode_pong(body: bytes) -> Pong:
    """Raises: PeerProtocol."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PeerProtocol(f"the answer to a ping can't be understood: {error}") from None
