"""The settings that the cluster shares: changed by way of any node, and followed until the others have taken them over.

What holds on a node is that node's own to say; what is written is checked here first, so that a bad value changes
nothing anywhere. Nodes tell by their facts which version they have taken over.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from ollamamax.core.catalog.catalog import Catalog
from ollamamax.core.catalog.commands import ChangeSettings, Command, RollbackSettings
from ollamamax.core.errors import BadRequest, NotFound, OllamaMaxError, PeerProtocol, SettingsError
from ollamamax.core.membership.detector import PeerState
from ollamamax.core.types import (
    ClusterSettings,
    NodeRecord,
    NodeSettings,
    SettingDifference,
    SettingKept,
    SettingsChange,
)
from ollamamax.ports import Caller, Clock, PeerLink, PeerMethods
from ollamamax.services.control import Control
from ollamamax.services.membership_config import PeerView
from ollamamax.services.replica import Replica
from ollamamax.services.transfer import decoded

_LOG: Final = structlog.get_logger(__name__)
SHOWN: Final = "settings.shown"
_WAIT_MS: Final = 4_000.0
_ASK_MS: Final = 2_000.0
_AT_ONCE: Final = 32


class OwnSettings(Protocol):
    """This node's. version: of the cluster's settings that it has taken over."""

    @property
    def version(self) -> int:
        """As above."""
        ...

    def check(self, key: str, text: str | None) -> None:
        """Whether the cluster may set that; None: unset. Raises: SettingsError."""
        ...

    def applies(self, key: str) -> str:
        """Whether at once or at the next start ("live", "restart"); "" for what the cluster can't set."""
        ...

    def shown(self) -> NodeSettings:
        """All of them, as they hold now."""
        ...


class Peers(Protocol):
    """The part of the Membership that is needed here."""

    def peers(self) -> Mapping[str, PeerView]:
        """The other members."""
        ...

    def watch(self, callback: Callable[[], None]) -> None:
        """Called after changes of it."""
        ...


class _Question(Struct, frozen=True):
    """keys: those wanted; none = all."""

    keys: tuple[str, ...] = ()


class SharedSettings:
    """node_id: this node's.  record: where a node is found now; raises NodeNotFound.

    wait_ms: how long a change waits for who is there to take it over.
    """

    def __init__(
        self,
        node_id: str,
        own: OwnSettings,
        replica: Replica,
        control: Control,
        peers: Peers,
        link: PeerLink,
        record: Callable[[str], NodeRecord],
        clock: Clock,
        *,
        wait_ms: float = _WAIT_MS,
    ) -> None:
        self._node_id = node_id
        self._own = own
        self._replica = replica
        self._control = control
        self._peers = peers
        self._link = link
        self._record = record
        self._clock = clock
        self._wait_ms = wait_ms
        self._news = asyncio.Event()
        peers.watch(self._tell)

    def methods(self) -> PeerMethods:
        """`settings.shown`: what holds on this node."""
        return PeerMethods(unary={SHOWN: self._answer})

    # --- looking ----------------------------------------------------------------------------------------------------

    async def shown(self, node: str) -> NodeSettings:
        """What holds on a node, by its name or id. Raises: NodeNotFound, PeerError."""
        return await self._ask(self._replica.catalog.node(node).node_id)

    def history(self) -> Sequence[ClusterSettings]:
        """The versions that are kept, oldest first."""
        return list(self._replica.catalog.history.values())

    def difference(self, before: int | None, after: int | None) -> tuple[int, int, Sequence[SettingDifference]]:
        """Between two versions, and which these are. after: None = the newest.  before: None = the one before that.

        Raises: NotFound.
        """
        newer = self._version(after if after is not None else self._replica.catalog.settings.version)
        older = self._version(before if before is not None else max(newer.version - 1, 0))
        return older.version, newer.version, differences(older, newer, self._replica.catalog)

    # --- changing ---------------------------------------------------------------------------------------------------

    async def change(self, put: Mapping[str, str], drop: Sequence[str], node: str, by: str) -> SettingsChange:
        """Set and unset for all nodes, or for one. Waits a few seconds for who is there.

        Raises: BadRequest, NodeNotFound, Conflict, StateUnavailable.
        """
        texts: dict[str, str | None] = {**dict.fromkeys(drop), **put}
        for key, text in texts.items():
            self._check(key, text)
        node_id = self._replica.catalog.node(node).node_id if node else ""
        command = ChangeSettings(self._clock.wall_ns(), dict(put), tuple(drop), node_id, by)
        change = await self._run(command, [node_id] if node_id else None)
        return self._told(change, await self._kept(change.applied, put, for_all=not node_id), texts)

    async def rollback(self, version: int, by: str) -> SettingsChange:
        """As they were in that version; 0 = before anything was set. Raises: as change(), NotFound."""
        before = self._replica.catalog.settings
        self._check_whole(self._replica.catalog.history.get(version, ClusterSettings()))
        change = await self._run(RollbackSettings(version, self._clock.wall_ns(), by), None)
        rows = differences(before, self._replica.catalog.settings, self._replica.catalog)
        kept = await self._kept(change.applied, {row.key for row in rows if row.after is not None}, for_all=False)
        return self._told(change, kept, sorted({row.key for row in rows}))

    def _check(self, key: str, text: str | None) -> None:
        try:
            self._own.check(key, text)
        except SettingsError as error:
            raise BadRequest(str(error)) from None

    def _check_whole(self, settings: ClusterSettings) -> None:
        """Raises: BadRequest for a version that this program does not understand."""
        for values in (settings.values, *settings.node_values.values()):
            for key, text in values.items():
                try:
                    self._own.check(key, text)
                except SettingsError as error:
                    raise BadRequest(
                        f"version {settings.version} has what this node's program can't read: {error}; "
                        "go back to it by way of a node with the program that wrote it"
                    ) from None

    async def _run(self, command: Command, wanted: Sequence[str] | None) -> SettingsChange:
        """Carry it out, and wait for these nodes, None = all. Nodes by id."""
        before = self._replica.catalog.settings.version
        settings = (await self._control.run(command)).settings
        try:
            async with asyncio.timeout(self._wait_ms / 1000):
                while self._late(settings.version, wanted):
                    await self._news.wait()
        except TimeoutError:
            pass
        late = self._late(settings.version, wanted)
        nodes = wanted if wanted is not None else list(self._replica.catalog.nodes)
        away = [node_id for node_id in nodes if self._is_away(node_id)]
        return SettingsChange(
            version=settings.version,
            changed=settings.version != before,
            change=settings.change if settings.version != before else "",
            applied=tuple(node_id for node_id in nodes if node_id not in late and node_id not in away),
            away=tuple(away),
            late=tuple(late),
        )

    def _late(self, version: int, wanted: Sequence[str] | None) -> list[str]:
        """Those that are there and have not told that they took that version over."""
        nodes = wanted if wanted is not None else self._replica.catalog.nodes
        return [node_id for node_id in nodes if not self._is_away(node_id) and self._taken(node_id) < version]

    def _taken(self, node_id: str) -> int:
        if node_id == self._node_id:
            return self._own.version
        view = self._peers.peers().get(node_id)
        return view.facts.settings_version if view is not None and view.facts is not None else 0

    def _is_away(self, node_id: str) -> bool:
        if node_id == self._node_id:
            return False
        view = self._peers.peers().get(node_id)
        return view is None or view.state is PeerState.GONE

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # --- where something else wins ----------------------------------------------------------------------------------

    async def _kept(self, nodes: Collection[str], keys: Collection[str], for_all: bool) -> list[SettingKept]:
        """Of these nodes, as far as they say it soon. for_all: what the cluster says for one node alone counts as
        something else, too.
        """
        places = asyncio.Semaphore(_AT_ONCE)
        end_s = asyncio.get_running_loop().time() + _ASK_MS / 1000
        apart = self._replica.catalog.settings.node_values if for_all else {}

        async def look(node_id: str) -> list[SettingKept]:
            try:
                async with asyncio.timeout_at(end_s), places:
                    rows = (await self._ask(node_id, tuple(keys))).settings
            except (OllamaMaxError, TimeoutError) as error:
                _LOG.debug("a node does not tell its settings", node=self._name(node_id), reason=str(error))
                return []
            return [
                SettingKept(node=self._name(node_id), key=key, value=row.value, source=row.source)
                for key, row in rows.items()
                if row.cluster_value is not None or key in apart.get(node_id, ())
            ]

        found = await asyncio.gather(*(look(node_id) for node_id in nodes)) if keys else []
        return [one for rows in found for one in rows]

    def _told(self, change: SettingsChange, kept: Sequence[SettingKept], keys: Collection[str]) -> SettingsChange:
        """With names for ids, and without those where something else wins among those where it applies."""
        elsewhere = {one.node for one in kept}
        applied = [name for node_id in change.applied if (name := self._name(node_id)) not in elsewhere]
        return replace(
            change,
            applied=tuple(applied),
            away=tuple([self._name(node_id) for node_id in change.away]),
            late=tuple([self._name(node_id) for node_id in change.late]),
            kept=tuple(kept),
            next_start=tuple([key for key in keys if self._own.applies(key) == "restart"]),
        )

    async def _ask(self, node_id: str, keys: tuple[str, ...] = ()) -> NodeSettings:
        """Raises: NodeNotFound, PeerError."""
        if node_id == self._node_id:
            return _only(self._own.shown(), keys)
        question = msgspec.msgpack.encode(_Question(keys))
        answer = await self._link.call(self._record(node_id), SHOWN, question, timeout_ms=_ASK_MS)
        try:
            return msgspec.msgpack.decode(answer, type=NodeSettings)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            name = self._name(node_id)
            raise PeerProtocol(f"what node {name} says of its settings can't be understood: {error}") from None

    async def _answer(self, caller: Caller, body: bytes) -> bytes:
        return msgspec.msgpack.encode(_only(self._own.shown(), decoded(body, _Question).keys))

    def _name(self, node_id: str) -> str:
        return _name(self._replica.catalog, node_id)

    def _version(self, version: int) -> ClusterSettings:
        """Raises: NotFound."""
        history = self._replica.catalog.history
        found = history.get(version) if version else ClusterSettings()
        if found is None:
            kept = f"{min(history)} to {max(history)} are kept" if history else "nothing was set yet"
            raise NotFound(f"there is no version {version} of the cluster's settings: {kept}; 0 is before the first")
        return found


def differences(before: ClusterSettings, after: ClusterSettings, catalog: Catalog) -> list[SettingDifference]:
    """By setting, those for all nodes first, then those for one."""
    nodes = sorted({*before.node_values, *after.node_values})
    parts = [("", before.values, after.values)]
    parts += [(_name(catalog, one), before.node_values.get(one, {}), after.node_values.get(one, {})) for one in nodes]
    return [
        SettingDifference(key=key, node=name, before=old.get(key), after=new.get(key))
        for name, old, new in parts
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]


def _name(catalog: Catalog, node_id: str) -> str:
    """Of a member, or the id of one that is none any more."""
    record = catalog.nodes.get(node_id)
    return record.name if record is not None else node_id


def _only(settings: NodeSettings, keys: Collection[str]) -> NodeSettings:
    """Those settings; all, if none is named."""
    if not keys:
        return settings
    return replace(settings, settings={key: row for key, row in settings.settings.items() if key in keys})
