"""What nodes say to each other about holding the state: MessagePack maps; fields that are not known are ignored."""

from typing import Final

from msgspec import Struct

from ollamamax.core.types import Seat

LOOK: Final = "ha.look"
PREPARE: Final = "ha.prepare"
READY: Final = "ha.ready"
CANCEL: Final = "ha.cancel"
REPORT: Final = "ha.report"
ENABLE: Final = "ha.enable"
DISABLE: Final = "ha.disable"
REPLACE: Final = "ha.replace"


class Look(Struct, frozen=True, kw_only=True):
    """Whether a node could run a member of etcd. etcd: its version.  trouble: what is in the way, "" = nothing."""

    etcd: str = ""
    free_bytes: int = 0
    trouble: str = ""


class LookAsk(Struct, frozen=True, kw_only=True):
    """external: whether an etcd that others run is to be reached; else one is to be run."""

    external: bool = False


class Prepare(Struct, frozen=True, kw_only=True):
    """Run a member, and be able to sign. key, certificate: of the cluster's authority, PEM."""

    generation: int
    seat: Seat
    key: bytes
    certificate: bytes

    def __repr__(self) -> str:  # without the key: this may end up in a log
        return f"Prepare(generation={self.generation})"


class Which(Struct, frozen=True, kw_only=True):
    """A member, by the generation that it began with."""

    generation: int


class EnableAsk(Struct, frozen=True, kw_only=True):
    """voters: how many; 0 = as many as are named.  nodes: names or ids.  external: into the etcd of the settings."""

    voters: int = 3
    nodes: tuple[str, ...] = ()
    external: bool = False


class DisableAsk(Struct, frozen=True, kw_only=True):
    """node: whose it is to be then, by name or id; "" = that of who is asked."""

    node: str = ""


class ReplaceAsk(Struct, frozen=True, kw_only=True):
    """old, new: by name or id. new: "" = one that is there, in the order of joining; "-" = nobody."""

    old: str
    new: str = ""
