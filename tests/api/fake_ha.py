"""The cluster's state on three nodes, as the API sees it; it remembers what it was asked to do."""

from collections.abc import AsyncGenerator, Sequence

from ollamamax.core.errors import OllamaMaxError
from ollamamax.core.types import HomeView, HostView, Progress

HOME = HomeView(
    kind="etcd",
    phase="steady",
    generation=1,
    hosts=(HostView(name="alpha", node_id="a" * 16, reachable=True, etcd="3.5.9", is_leader=True),),
)


class FakeHa:
    """asked: what for.  error: raised after the first step; early: before it."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.error: OllamaMaxError | None = None
        self.early: OllamaMaxError | None = None

    async def _work(self) -> AsyncGenerator[Progress, None]:
        if self.early is not None:
            raise self.early
        yield Progress("looking")
        if self.error is not None:
            raise self.error
        yield Progress("success")

    def enable(self, voters: int, nodes: Sequence[str], external: bool) -> AsyncGenerator[Progress, None]:
        self.asked.append(("enable", voters, tuple(nodes), external))
        return self._work()

    def disable(self, node: str) -> AsyncGenerator[Progress, None]:
        self.asked.append(("disable", node))
        return self._work()

    def replace(self, old: str, new: str) -> AsyncGenerator[Progress, None]:
        self.asked.append(("replace", old, new))
        return self._work()

    async def status(self) -> HomeView:
        return HOME

    async def backup(self) -> bytes:
        if self.early is not None:
            raise self.early
        return b"ollamamax-state\n\xff"
