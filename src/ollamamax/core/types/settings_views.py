"""Settings for people and programs outside: what holds on a node, what the cluster says, what came of a change."""

from typing import Any

from msgspec import Struct


class SettingView(Struct, frozen=True, kw_only=True):
    """One setting of a node. value: in the form that JSON has; of a secret only that there is one.

    source: where it comes from.  applies: "live", "restart" or "local".  cluster_value: what the cluster says, where
    something of the machine's own wins; None = nothing, or that holds.  next_value, next_source: from the node's next
    start; None and "" = as now.
    """

    value: Any
    source: str
    applies: str
    cluster_value: str | None = None
    next_value: Any = None
    next_source: str = ""


class NodeSettings(Struct, frozen=True, kw_only=True):
    """All settings of a node, by key. node: its name, "" = none runs, or it has no cluster.

    version: of the cluster's settings that it has taken over; 0 = none.  problems: what the cluster says and this
    node's program does not understand.
    """

    settings: dict[str, SettingView]
    node: str = ""
    version: int = 0
    problems: tuple[str, ...] = ()


class SettingKept(Struct, frozen=True, kw_only=True):
    """A node where something else wins over what the cluster says. source: what."""

    node: str
    key: str
    value: Any
    source: str


class SettingsChange(Struct, frozen=True, kw_only=True):
    """What came of a change. version: the newest now.  changed: False = it was so already.  change: for people.

    Nodes by name: applied: have taken it over.  away: can't be reached, and take it over when they return.  late: are
    there, and have not told in time that they took it over.  kept: have it, and something else wins there.
    next_start: keys that take effect when a node starts.
    """

    version: int
    changed: bool
    change: str = ""
    applied: tuple[str, ...] = ()
    away: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    kept: tuple[SettingKept, ...] = ()
    next_start: tuple[str, ...] = ()


class SettingDifference(Struct, frozen=True, kw_only=True):
    """One setting in two versions. node: the name of the one that it is for, "" = all.  before, after: None = unset."""

    key: str
    node: str
    before: str | None
    after: str | None
