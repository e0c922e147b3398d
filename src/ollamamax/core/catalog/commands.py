"""What can be asked of the catalog: one frozen struct per change, the same bytes for the same command.

Times are the sender's wall clock in nanoseconds. What each does, and when it is refused: core/catalog/apply.py and
the modules next to it.
"""

from typing import Final

import msgspec
from msgspec import Struct

from ollamamax.core.catalog import versioned
from ollamamax.core.errors import BadRequest
from ollamamax.core.types import (
    Assignment,
    ClusterMeta,
    Drain,
    ModelEntry,
    NodeRecord,
    Placement,
    StateHome,
    TokenRecord,
)

COMMAND_VERSION: Final = 1
"""The newest form of commands that this program understands, and the one that it writes."""


class FoundCluster(Struct, frozen=True, tag=True):
    """Make a cluster of one. node: the founder, who holds the state; its sequence becomes 1."""

    meta: ClusterMeta
    node: NodeRecord


class AddNode(Struct, frozen=True, tag=True):
    """A node joins by a token. key_hash: sha256 of its public key, hex.  secret_hash: join_token.secret_hash().

    level: as NodeRecord.level.
    """

    node_id: str
    name: str
    addresses: tuple[str, ...]
    key_hash: str
    version: str
    token_id: str
    secret_hash: str
    at_ns: int
    level: int = 1


class RemoveNode(Struct, frozen=True, tag=True):
    """A node leaves for ever: its certificates are refused from now on."""

    node_id: str
    at_ns: int


class RenameNode(Struct, frozen=True, tag=True):
    """A node gets another name."""

    node_id: str
    name: str


class SetAddresses(Struct, frozen=True, tag=True):
    """Where a node's peer listener is reached, best first, and which program it runs. level: as NodeRecord.level."""

    node_id: str
    addresses: tuple[str, ...]
    version: str
    level: int = 1


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

    replaces_digest: only if the name stands for that one now; "" = only if it is new, and this manifest was not deleted
    under that name; None = whatever it stands for.
    """

    entry: ModelEntry
    replaces_digest: str | None = None


class DropModel(Struct, frozen=True, tag=True):
    """A model name stands for nothing any more, and this is remembered. name: the short name with its tag."""

    name: str
    at_ns: int = 0


class SetPlacement(Struct, frozen=True, tag=True):
    """A model ought to run like that, whatever was asked for before. record.name: the short name with its tag."""

    record: Placement


class DropPlacement(Struct, frozen=True, tag=True):
    """Nobody asks any more that a model runs; what was decided for it goes, too. name: the short name with its tag."""

    name: str


class SetAssignment(Struct, frozen=True, tag=True):
    """The planner decided which nodes run a model; one without nodes of a model without a placement takes it away.

    planner: node id of who decided.  placement_revision, assignment_revision: of the two keys, as the planner saw
    them (Catalog.revision_of; 0 = there was none): it counts only while they stand.
    """

    record: Assignment
    planner: str
    placement_revision: int
    assignment_revision: int


class TakePlanner(Struct, frozen=True, tag=True):
    """A node decides where models run, for as long as its lease lives."""

    node_id: str
    lease_id: int


class SetDrain(Struct, frozen=True, tag=True):
    """A node is emptied and gets no new work. One that is drained already keeps `since_ns`."""

    record: Drain


class EndDrain(Struct, frozen=True, tag=True):
    """A node is drained no more. Whether it is cordoned is another thing."""

    node_id: str


class ChangeSettings(Struct, frozen=True, tag=True):
    """Settings that all share get values, or lose them. node_id: of the one node that they are for; "" = all.

    by: who asks, for people.  expected: only if that is the newest version now; None = whatever it is.
    """

    at_ns: int
    set: dict[str, str] = {}
    unset: tuple[str, ...] = ()
    node_id: str = ""
    by: str = ""
    expected: int | None = None


class RollbackSettings(Struct, frozen=True, tag=True):
    """The settings become what they were in a version; 0 = before anything was set. by, expected: as above."""

    version: int
    at_ns: int
    by: str = ""
    expected: int | None = None


class BeginMove(Struct, frozen=True, tag=True):
    """A node begins to copy the state to another home; from now on nothing else is written.

    target: its kind, hosts and endpoints count; the whole is Catalog.home.target then.
    """

    target: StateHome
    mover: str


class FinishMove(Struct, frozen=True, tag=True):
    """The state lives in its new home. Written there first, and in the old one as its last change.

    home: what Catalog.home.target told.
    """

    home: StateHome


class UndoMove(Struct, frozen=True, tag=True):
    """The state stays where it was. Only while the new home was not told that it is one. target: as of FinishMove."""

    target: StateHome


class SetHosts(Struct, frozen=True, tag=True):
    """Other nodes hold the state, in the same home. endpoints: None = as they are.

    expected: only if those are the hosts now, in any order; None = whoever they are.
    """

    hosts: tuple[str, ...]
    endpoints: tuple[str, ...] | None = None
    expected: tuple[str, ...] | None = None


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
    | SetPlacement
    | DropPlacement
    | SetAssignment
    | TakePlanner
    | SetDrain
    | EndDrain
    | ChangeSettings
    | RollbackSettings
    | BeginMove
    | FinishMove
    | UndoMove
    | SetHosts
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
