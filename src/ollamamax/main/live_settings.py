"""A node's settings while it runs: its own with the cluster's below them, and who is told when they change.

What the cluster sets at run time acts at once where the setting says so, else from the next start on; what a newer
program wrote and this one does not understand is left out, logged once, and shown.
"""

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import structlog
from msgspec.structs import replace

from ollamamax.core.types import ClusterSettings, NodeRecord, NodeSettings
from ollamamax.main.roots import Roots
from ollamamax.ports import Clock
from ollamamax.services.membership import Membership
from ollamamax.services.membership_config import Follower
from ollamamax.services.shared_settings import SharedSettings
from ollamamax.settings import Loaded, Settings, Source
from ollamamax.settings import shared as sharing

_LOG: Final = structlog.get_logger("settings")
_T = TypeVar("_T")


class LiveSettings:
    """Made before the parts of the node are; begin() gives the settings that they are made with.

    own: what the machine says.
    """

    def __init__(self, own: Loaded) -> None:
        self._own = own
        self._begun = self._wanted = own
        self._shared = ClusterSettings()
        self._node_id = ""
        self._problems: tuple[str, ...] = ()
        self._acts: list[Callable[[Settings, Settings], None]] = []
        self._watchers: list[Callable[[], None]] = []
        self.settings = own.settings
        """As they hold now."""
        self.name: Callable[[], str] = lambda: ""
        """Of this node."""

    @property
    def version(self) -> int:
        """Of the cluster's settings that were taken over, 0 = none."""
        return self._shared.version

    def begin(self, shared: ClusterSettings, node_id: str) -> Settings:
        """What the node starts with, as far as it knows what the cluster says."""
        self._node_id = node_id
        self._overlay(shared)
        self._begun = self._wanted
        self.settings = self._begun.settings
        return self.settings

    def connect(self, config: Callable[[Settings], _T], reconfigure: Callable[[_T], None]) -> None:
        """Have `reconfigure` called with what `config` makes of the settings, when that is another one."""

        def act(former: Settings, settings: Settings) -> None:
            wanted = config(settings)
            if wanted != config(former):
                reconfigure(wanted)

        self._acts.append(act)

    def watch(self, callback: Callable[[], None]) -> None:
        """Have it called when another version was taken over."""
        self._watchers.append(callback)

    def follow(self, replica: Follower) -> None:
        """Take over what the cluster says, now and whenever it changes."""
        replica.watch(lambda old, new: self.take(new.settings))
        self.take(replica.catalog.settings)

    def take(self, shared: ClusterSettings) -> None:
        """What the cluster says now."""
        if shared == self._shared:
            return
        self._overlay(shared)
        values = {key: source.value for key, source in self._holding().items()}
        former, self.settings = self.settings, Settings.of(values)
        if self.settings != former:
            _LOG.info("settings taken over", version=shared.version, change=shared.change)
        for act in self._acts:
            act(former, self.settings)
        for callback in self._watchers:
            callback()

    # --- for people -------------------------------------------------------------------------------------------------

    def check(self, key: str, text: str | None) -> None:
        """Whether the cluster may set that; None: unset. Raises: SettingsError."""
        sharing.check(key, text)

    def applies(self, key: str) -> str:
        """Whether at once or at the next start ("live", "restart"); "" for what the cluster can't set."""
        return sharing.shareable().get(key, "")

    def shown(self) -> NodeSettings:
        """All of them, as they hold now, and what waits for the next start."""
        rows = sharing.shown(self._holding())
        told = {**self._shared.values, **self._shared.node_values.get(self._node_id, {})}
        for key, text in told.items():
            if key in rows and self._own.sources[key].origin != sharing.DEFAULT:
                rows[key] = replace(rows[key], cluster_value=text)
        for key, applies in sharing.differences(self._begun, self._wanted).items():
            if applies == "restart":
                later = self._wanted.sources[key]
                rows[key] = replace(rows[key], next_value=sharing.plain(key, later.value), next_source=later.origin)
        return NodeSettings(settings=rows, node=self.name(), version=self.version, problems=self._problems)

    # --- parts ------------------------------------------------------------------------------------------------------

    def _overlay(self, shared: ClusterSettings) -> None:
        self._shared = shared
        self._wanted, problems = sharing.overlaid(self._own, shared, self._node_id)
        for problem in problems:
            if problem not in self._problems:
                _LOG.warning("a setting of the cluster is left out", reason=problem)
        self._problems = problems

    def _holding(self) -> Mapping[str, Source]:
        """What takes effect at a start is as it was at the last one."""
        live = {key for key, applies in sharing.shareable().items() if applies == "live"}
        begun = self._begun.sources
        return {key: source if key in live else begun[key] for key, source in self._wanted.sources.items()}


def build_shared(
    live: LiveSettings, roots: Roots, membership: Membership, record: Callable[[str], NodeRecord], clock: Clock
) -> SharedSettings:
    """The settings that the cluster shares, as this node changes and shows them. record: where a node is found now."""
    return SharedSettings(roots.me.node_id, live, roots.replica, roots.control, membership, roots.link, record, clock)
