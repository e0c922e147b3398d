"""Where models run, for people: what was asked for, what was decided, what is there."""

from msgspec import Struct


class ReplicasView(Struct, frozen=True, kw_only=True):
    """Replicas of one model on one node. replicas: that ought to be there.  ready: of those, answering now."""

    node: str
    replicas: int
    ready: int


class PlacementView(Struct, frozen=True, kw_only=True):
    """One model that somebody placed. pins: names of nodes; the id of one that has no name any more.

    ready: replicas where they ought to be that answer now.  missing: replicas that no node can hold.  extra: on top,
    since requests waited.  need_bytes: memory of one replica, 0 = not known.  is_guess: it was guessed from the size of
    the files.  why: lines for people.  decided_ns: 0 = nothing was decided yet.
    """

    name: str
    replicas: int
    ready: int
    missing: int
    extra: int
    nodes: tuple[ReplicasView, ...]
    pins: tuple[str, ...]
    labels: dict[str, str]
    max_replicas: int
    idle_ms: int
    need_bytes: int
    is_guess: bool
    why: tuple[str, ...]
    changed_ns: int
    decided_ns: int


class PlacementWish(Struct, frozen=True, kw_only=True):
    """What somebody asks for. Fields as of Placement; pins: names or ids of nodes."""

    replicas: int = 1
    pins: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    max_replicas: int = 0
    idle_ms: int = 300_000


class PlacementPlan(Struct, frozen=True, kw_only=True):
    """What would be decided of a wish now. text: the whole decision in lines.  moves: what else would change, in lines.

    missing: replicas that no node could hold.
    """

    name: str
    nodes: dict[str, int]
    missing: int
    text: str
    moves: tuple[str, ...] = ()
