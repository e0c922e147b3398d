"""Which nodes carry the mesh: the first three in the order of joining that are not gone. The others hang on them.

Every node decides for itself from its own view; views agree soon after they stop changing. So that they may differ for
a while without harm, a node takes the role on only when its view has said so for some seconds, and lays it down
much later: one carrier too many costs little.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from msgspec import Struct

MAX_TARGETS: Final = 8
_SPARE: Final = 2
_FIRST_LOOK_ADDRESSES: Final = 3
_MAX_PORT: Final = 65_535


class BackboneConfig(Struct, frozen=True, kw_only=True):
    """size: so many nodes carry the mesh.  promote_ms, demote_ms: for how long the view must have been the same."""

    size: int = 3
    promote_ms: float = 2_000.0
    demote_ms: float = 30_000.0


class Decision(Struct, frozen=True):
    """is_router: what this node is now.  again_ms: when to look again if nothing changes; None = never."""

    is_router: bool
    again_ms: float | None = None


class Backbone:
    """What one node is. The first look decides at once; a node alone carries the mesh."""

    def __init__(self, me: str, config: BackboneConfig) -> None:
        self._me = me
        self._config = config
        self._is_router: bool | None = None
        self._since_ms: float | None = None
        """Since when the view says otherwise."""

    def step(self, ranking: Sequence[str], gone: Collection[str], now_ms: float) -> Decision:
        """Mutates self. ranking: all members in the order of joining, this one among them; gone: those that are."""
        wanted = not ranking or self._me in first(ranking, gone, self._config.size)
        if self._is_router is None or wanted == self._is_router:
            self._is_router, self._since_ms = wanted, None
            return Decision(wanted)
        if self._since_ms is None:
            self._since_ms = now_ms
        due_ms = self._since_ms + (self._config.promote_ms if wanted else self._config.demote_ms)
        if now_ms < due_ms:
            return Decision(self._is_router, due_ms)
        self._is_router, self._since_ms = wanted, None
        return Decision(wanted)


def first(ranking: Sequence[str], gone: Collection[str], size: int) -> list[str]:
    """The first `size` that are not gone."""
    return [node_id for node_id in ranking if node_id not in gone][:size]


def targets(
    me: str,
    ranking: Sequence[str],
    gone: Collection[str],
    routers: Collection[str],
    size: int = 3,
    *,
    is_router: bool = False,
) -> list[str]:
    """Whom to connect to, best first, eight at most, never this node.

    Those that say they are routers, those that ought to be, the next ones, and the first of all, gone or not: they
    come back. Nodes begin at different ones, so that each router carries its share. A router leaves the next ones out:
    it would knock at them every second for ever, and whoever becomes a router connects by itself.
    """
    likely = first(ranking, gone, size if is_router else size + _SPARE)
    telling = [node_id for node_id in ranking if node_id in routers and node_id not in gone]
    # However many say that they are routers, those that ought to be have their places.
    others = [node_id for node_id in telling if node_id not in likely[:size]][: MAX_TARGETS - size]
    best = _unique([*(node_id for node_id in telling if node_id in likely[:size]), *others, *likely[:size]], me)
    turn = sum(me.encode()) % len(best) if best else 0
    return _unique([*best[turn:], *best[:turn], *likely, *ranking[:size]], me)[:MAX_TARGETS]


def mesh_address(address: str) -> str:
    """Where the mesh of a node is found, from the address of its peer listener: the next port.

    Raises: ValueError for what is no address.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) >= _MAX_PORT:
        raise ValueError(f"{address[:80]!r} has no port to count from")
    return f"{host}:{int(port) + 1}"


def mesh_addresses(addresses: Iterable[str]) -> list[str]:
    """The same of a node's first addresses; what is no address is left out."""
    found = []
    for address in list(addresses)[:_FIRST_LOOK_ADDRESSES]:
        try:
            found.append(mesh_address(address))
        except ValueError:
            continue
    return found


def _unique(node_ids: Iterable[str], without: str) -> list[str]:
    return [node_id for node_id in dict.fromkeys(node_ids) if node_id != without]
