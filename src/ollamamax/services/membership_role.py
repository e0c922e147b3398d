"""How this node takes part in the mesh: its role, its papers, whom it connects to; opened anew when that changes."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import structlog
from msgspec import Struct

from ollamamax.core.errors import OllamaMaxError
from ollamamax.core.membership import backbone
from ollamamax.core.membership.backbone import Backbone, BackboneConfig
from ollamamax.core.types import NodeRecord
from ollamamax.ports import Clock, Dice, Mesh, MeshConfig, MeshRole, NodeKeys

_LOG: Final = structlog.get_logger(__name__)
_FIRST_RETRY_MS: Final = 1_000.0
_LAST_RETRY_MS: Final = 15_000.0
_LOOK_MS: Final = 5_000.0
_GATHER_MS: Final = 50.0
_SPREAD_MS_PER_NODE: Final = 10.0
_MAX_SPREAD_MS: Final = 5_000.0


class Surroundings(Struct, frozen=True, kw_only=True):
    """What the decision is made from. nodes: all members in the order of joining, this one too.  gone: ids of those.

    routers: ids of those that say they are.  denied: ids of removed nodes.  is_apart: the mesh was
    not heard, or hardly, for so long that it is worth to begin anew.
    """

    nodes: Mapping[str, NodeRecord]
    gone: Collection[str] = ()
    routers: Collection[str] = ()
    denied: frozenset[str] = frozenset()
    is_apart: bool = False


class MeshPart:
    """listen: host:port of the mesh.  seeds: mesh addresses to try last.  opened: called after each change."""

    def __init__(
        self,
        me: str,
        mesh: Mesh,
        clock: Clock,
        dice: Dice,
        look: Callable[[], Surroundings],
        opened: Callable[[], None],
        *,
        keys: Callable[[], NodeKeys],
        listen: str,
        seeds: Sequence[str],
        multicast: bool,
        lease_ms: int,
        backbone_config: BackboneConfig,
    ) -> None:
        self._me = me
        self._mesh = mesh
        self._clock = clock
        self._dice = dice
        self._look = look
        self._opened = opened
        self._keys = keys
        self._listen = listen
        self._seeds = tuple(seeds)
        self._multicast = multicast
        self._lease_ms = lease_ms
        self._backbone = Backbone(me, backbone_config)
        self._size = backbone_config.size
        self._current: MeshConfig | None = None
        self._retry_ms = _FIRST_RETRY_MS
        self._changed = asyncio.Event()

    @property
    def role(self) -> MeshRole:
        """What this node is now; a client before the mesh was ever open."""
        return MeshRole.CLIENT if self._current is None else self._current.role

    def touch(self) -> None:
        """Something that matters may have changed."""
        self._changed.set()

    async def run(self) -> None:
        """Keep the mesh as it ought to be, until cancelled."""
        while True:
            self._changed.clear()
            wait_ms = await self._adjust()
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    await self._changed.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(_GATHER_MS / 1000)  # changes come in crowds

    async def _adjust(self) -> float:
        """Open it as it ought to be. Returns when to look again at the latest, in ms."""
        seen = self._look()
        now_ms = self._clock.now_ms()
        decision = self._backbone.step(list(seen.nodes), seen.gone, now_ms)
        config = self._config(MeshRole.ROUTER if decision.is_router else MeshRole.CLIENT, seen)
        wait_ms = min(_LOOK_MS, decision.again_ms - now_ms) if decision.again_ms is not None else _LOOK_MS
        if self._current is not None and not seen.is_apart and not _is_other(self._current, config):
            return max(wait_ms, 1.0)
        await self._wait_in_line(config, len(seen.nodes))
        try:
            await self._mesh.open(config)
        except OllamaMaxError as error:
            _LOG.warning("the mesh can't be opened: other nodes are asked directly", reason=str(error))
            self._current = None
            await asyncio.sleep(self._retry_ms * (0.5 + self._dice.random() / 2) / 1000)
            self._retry_ms = min(self._retry_ms * 2, _LAST_RETRY_MS)
            return 1.0
        _LOG.info("the mesh is open", role=config.role.value, connect=list(config.connect))
        self._current, self._retry_ms = config, _FIRST_RETRY_MS
        self._opened()
        return 1.0

    def _config(self, role: MeshRole, seen: Surroundings) -> MeshConfig:
        is_router = role is MeshRole.ROUTER
        targets = backbone.targets(self._me, list(seen.nodes), seen.gone, seen.routers, self._size, is_router=is_router)
        connect = [address for node in targets for address in backbone.mesh_addresses(seen.nodes[node].addresses)]
        return MeshConfig(
            keys=self._keys(),
            role=role,
            listen=self._listen,
            connect=tuple(dict.fromkeys([*connect, *self._seeds])),
            denied=seen.denied,
            lease_ms=self._lease_ms,
            multicast=self._multicast,
        )

    async def _wait_in_line(self, config: MeshConfig, nodes: int) -> None:
        """Where a removal has all clients of a large cluster open anew, they do not do so in the same moment."""
        current = self._current
        if current is not None and config.role is MeshRole.CLIENT and current.denied != config.denied:
            spread_ms = min(nodes * _SPREAD_MS_PER_NODE, _MAX_SPREAD_MS)
            await asyncio.sleep(self._dice.random() * spread_ms / 1000)


def _is_other(current: MeshConfig, wanted: MeshConfig) -> bool:
    """Whether it is worth to begin anew. Other targets alone are not."""
    return (current.role, current.keys, current.denied) != (wanted.role, wanted.keys, wanted.denied)
