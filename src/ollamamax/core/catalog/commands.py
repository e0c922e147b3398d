"""What can be asked of the catalog: one frozen struct per change, the same bytes for the same command.

Times are the sender's wall clock in nanoseconds. What each does, and when it is refused: core/catalog/apply.py.
"""

from typing import Final

import msgspec
from msgspec import Struct

from ollamamax.core.catalog import versioned
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import ClusterMeta, ModelEntry, NodeRecord, TokenRecord

COMMAND_VERSION: Final = 1
"""The newest form of commands that this program understands, and the one that it writes."""


class FoundCluster(Struct, frozen=True, tag=True):
    """Make a cluster of one. node: the founder, who holds the state; its sequence becomes 1."""

    meta: ClusterMeta
    node: NodeRecord


class AddNode(Struct, frozen=True, tag=True):
    """A node joins by a token. key_hash: sha256 of its public key, hex.  secret_hash: join_token.secret_hash()."""

    node_id: str
    name: str
    addresses: tuple[str, ...]
    key_hash: str
    version: str
    token_id: str
    secret_hash: str
    at_ns: int


class RemoveNode(Struct, frozen=True, tag=True):
    """A node leaves for ever: its certificates are refused from now on."""

    node_id: str
    at_ns: int


class RenameNode(Struct, frozen=True, tag=True):
    """A node gets another name."""

    node_id: str
    name: str


class SetAddresses(Struct, frozen=True, tag=True):
    """Where a node's peer listener is reached, best first, and which program it runs."""

    node_id: str
    addresses: tuple[str, ...]
    version: str


class SetLabels(Struct, frozen=True, tag=True):
    """Labels that a node gets, and keys of those that it loses."""

    node_id: str
    set: dict[str, str] = {}
    unset: tuple[str, ...] = ()


class SetCordon(Struct, frozen=True, tag=True):
    """Whether a node takes new requests."""

    node_id: str
    cordoned: bool


class SetInstance(Struct, frozen=True, tag=True):
    """A process says that it runs as a node, for as long as its lease lives. expected: who may have done so before."""

    node_id: str
    instance: str
    lease_id: int
    expected: str = ""


class AddToken(Struct, frozen=True, tag=True):
    """A join token is good from now on."""

    record: TokenRecord


class DropToken(Struct, frozen=True, tag=True):
    """A join token is good no more."""

    token_id: str


class SweepTokens(Struct, frozen=True, tag=True):
    """Forget tokens that expired before that time, 100 at most at once."""

    at_ns: int


class SetModel(Struct, frozen=True, tag=True):
    """A model name stands for that manifest. entry.name: the short name with its tag.

    replaces_digest: only if the name stands for that one now; "" = only if it is new; None = whatever it stands for.
    """

    entry: ModelEntry
    replaces_digest: str | None = None


class DropModel(Struct, frozen=True, tag=True):
    """A model name stands for nothing any more. name: the short name with its tag."""

    name: str


Command = (
    FoundCluster
    | AddNode
    | RemoveNode
    | RenameNode
    | SetAddresses
    | SetLabels
    | SetCordon
    | SetInstance
    | AddToken
    | DropToken
    | SweepTokens
    | SetModel
    | DropModel
)
_DECODER: Final[msgspec.json.Decoder[Command]] = msgspec.json.Decoder(Command)


def encode(command: Command) -> bytes:
    """A command's bytes; the same for the same command, always."""
    return versioned.encode(command, COMMAND_VERSION)


def decode(data: bytes) -> Command:
    """The command again. Raises: StateTooNew (a newer program made it), BadRequest (nobody did)."""
    try:
        return versioned.decode(data, _DECODER, COMMAND_VERSION, "a command")
    except ValueError as error:
        raise BadRequest(f"a command that can't be read ({error}): send it again") from None
