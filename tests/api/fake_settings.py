"""Settings that remember what became of them."""

from collections.abc import Mapping, Sequence

from ollamamax.core.errors import NodeNotFound, OllamaMaxError
from ollamamax.core.types import (
    ClusterSettings,
    NodeSettings,
    SettingDifference,
    SettingKept,
    SettingsChange,
    SettingView,
)

LEVEL = SettingView(value="info", source="default", applies="live")
ORIGINS = SettingView(value=["http://a"], source="flag --origins", applies="live", cluster_value="http://b")
OWN = NodeSettings(settings={"log.level": LEVEL, "listen.origins": ORIGINS}, node="alpha", version=3)
KEPT = SettingKept(node="beta", key="log.level", value="debug", source="flag --log-level")
CHANGE = SettingsChange(version=4, changed=True, change="log.level: unset -> debug", applied=("alpha",), kept=(KEPT,))


class FakeOwnSettings:
    def shown(self) -> NodeSettings:
        return OWN


class FakeShared:
    """fault: raised by whatever writes."""

    def __init__(self) -> None:
        self.fault: OllamaMaxError | None = None
        self.done: list[tuple[object, ...]] = []
        self.versions = [ClusterSettings(version=1, values={"log.level": "debug"}, change="c", by="someone")]

    async def shown(self, node: str) -> NodeSettings:
        if node != "beta":
            raise NodeNotFound(f"no node '{node}' is in the cluster")
        return NodeSettings(settings={"log.level": LEVEL}, node="beta")

    async def change(self, put: Mapping[str, str], drop: Sequence[str], node: str, by: str) -> SettingsChange:
        return self._write("change", dict(put), list(drop), node, by)

    async def rollback(self, version: int, by: str) -> SettingsChange:
        return self._write("rollback", version, by)

    def history(self) -> Sequence[ClusterSettings]:
        return self.versions

    def difference(self, before: int | None, after: int | None) -> tuple[int, int, Sequence[SettingDifference]]:
        self._write("difference", before, after)
        return before or 0, after or 1, [SettingDifference(key="log.level", node="", before=None, after="debug")]

    def _write(self, *what: object) -> SettingsChange:
        if self.fault is not None:
            raise self.fault
        self.done.append(what)
        return CHANGE
