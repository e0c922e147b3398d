"""What a joining node and a member say to each other: MessagePack maps; fields that are not known are ignored."""

from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from ollamamax.core.errors import BadRequest, PeerProtocol
from ollamamax.core.types import PROTOCOL_MAX, PROTOCOL_MIN, StateRange

HELLO: Final = "cluster.hello"
JOIN: Final = "cluster.join"
FORWARD: Final = "cluster.join.forward"
RENEW: Final = "cluster.renew"

_T = TypeVar("_T")


class Hello(Struct, frozen=True, kw_only=True):
    """What a member says of itself to anybody. ca: the cluster's authority, PEM."""

    cluster_id: str
    cluster_name: str
    node_id: str
    node_name: str
    version: str
    ca: bytes
    protocol_min: int = PROTOCOL_MIN
    protocol_max: int = PROTOCOL_MAX


class JoinRequest(Struct, frozen=True, kw_only=True):
    """secret: of the token, 32 hex.  request: a signing request, PEM.  node_id: drawn by the joining node, or its own
    from before.  name: what it would like to be called.  addresses: where it thinks that its peer listener is reached.
    level: as NodeRecord.level.
    """

    token_id: str
    secret: str
    request: bytes
    node_id: str
    name: str
    addresses: tuple[str, ...]
    version: str
    level: int = 1

    def __repr__(self) -> str:
        return f"JoinRequest(token_id={self.token_id!r}, secret=..., node_id={self.node_id!r})"


class ForwardedJoin(Struct, frozen=True, kw_only=True):
    """A joining that a member passes on. source: the address that it came from, as the member saw it."""

    join: JoinRequest
    source: str


class JoinAnswer(Struct, frozen=True, kw_only=True):
    """Papers, and the whole state: with it the node can start even if the holder goes. name: what it is called."""

    certificate: bytes
    ca: bytes
    cluster_id: str
    holder_id: str
    node_id: str
    name: str
    state: StateRange


class RenewRequest(Struct, frozen=True, kw_only=True):
    """request: a signing request (PEM) for the key that the node has."""

    request: bytes


class RenewAnswer(Struct, frozen=True, kw_only=True):
    """certificate: PEM."""

    certificate: bytes


encode: Final = msgspec.msgpack.Encoder().encode


def asked(body: bytes, kind: type[_T]) -> _T:
    """What a caller sent. Raises: BadRequest for garbage."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError):  # its text could quote what was sent
        raise BadRequest(f"a {kind.__name__} that can't be read") from None


def answered(body: bytes, kind: type[_T]) -> _T:
    """What another node answered. Raises: PeerProtocol for garbage."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError):
        raise PeerProtocol("it gave an answer that can't be read: is that an OllamaMax node?") from None
