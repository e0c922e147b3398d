"""Gives a model's files to other nodes ahead of time: each takes them from a node that has them, with its progress."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence, Set
from contextlib import aclosing
from typing import Final

import msgspec
from msgspec import Struct

from ollamamax.core.errors import BadRequest, Conflict, ModelNotFound, OllamaMaxError, PeerError, PeerUnavailable
from ollamamax.core.modelspec import names
from ollamamax.core.types import ModelEntry, NodeRecord, Progress
from ollamamax.ports import Caller, PeerLink, PeerMethods
from ollamamax.services.replica import Replica
from ollamamax.services.transfer import Transfer, decoded

_IDLE_MS: Final = 10_000.0
_CATCH_UP_MS: Final = 10_000.0
_QUEUED: Final = 64


class BringOrder(Struct, frozen=True):
    """What `models.bring` asks for: a model key, known as of that revision of the state."""

    key: str
    revision: int


class BringStep(Struct, frozen=True):
    """How far it is."""

    done_bytes: int


class SpreadHost:
    """Has this node fetch what another one tells it to."""

    def __init__(self, replica: Replica, transfer: Transfer) -> None:
        self._replica = replica
        self._transfer = transfer

    def methods(self) -> PeerMethods:
        """models.bring."""
        return PeerMethods(streams={"models.bring": self._bring})

    async def _bring(self, _: Caller, body: bytes) -> AsyncGenerator[list[bytes], None]:
        wanted = decoded(body, BringOrder)
        await self._replica.caught_up(wanted.revision, _CATCH_UP_MS)
        if wanted.key not in self._replica.catalog.models:
            raise ModelNotFound(f"model '{wanted.key}' was deleted")
        # Who has it is told a moment after the state.
        async with aclosing(self._transfer.steps(wanted.key, _CATCH_UP_MS)) as steps:
            async for done_bytes in steps:
                yield [msgspec.msgpack.encode(BringStep(done_bytes))]


class Spread:
    """holders: other nodes that are known to have a model in that version.  reachable: all that can be reached."""

    def __init__(
        self,
        node_id: str,
        replica: Replica,
        link: PeerLink,
        transfer: Transfer,
        holders: Callable[[ModelEntry], Sequence[NodeRecord]],
        reachable: Callable[[], Sequence[NodeRecord]],
    ) -> None:
        self._node_id = node_id
        self._replica = replica
        self._link = link
        self._transfer = transfer
        self._holders = holders
        self._reachable = reachable

    async def spread(self, model: str, nodes: str) -> AsyncGenerator[Progress, None]:
        """Have it on these nodes: "all", how many in all, or labels (key=value with commas). Steps by node.

        Raises: InvalidName, ModelNotFound, BadRequest, Conflict if there are fewer nodes, PeerError of those that
        could not get it, when the others have it.
        """
        key = names.parse(model).key
        catalog = self._replica.catalog
        entry = catalog.models.get(key)
        if entry is None:
            raise ModelNotFound(f"model '{model}' is on no node of the cluster: `ollamamax pull {model}` gets it")
        having = {node.node_id for node in self._holders(entry)}
        if await self._transfer.has(key):
            having.add(self._node_id)
        chosen = self._chosen(having, nodes)
        reachable = {node.node_id: node for node in self._reachable()}
        steps: asyncio.Queue[Progress | None] = asyncio.Queue(_QUEUED)
        failures: list[str] = []
        bugs: list[Exception] = []

        async def one(node: NodeRecord) -> None:
            try:
                async with aclosing(self._bring(reachable.get(node.node_id), node, entry)) as found:
                    async for done_bytes in found:
                        await steps.put(_step(node, entry, done_bytes))
            except OllamaMaxError as error:
                failures.append(f"{node.name}: {error}")
            except Exception as error:  # noqa: BLE001 - a bug of ours, raised where it is waited for
                bugs.append(error)
            await steps.put(None)

        tasks = [asyncio.get_running_loop().create_task(one(node)) for node in chosen]
        try:
            left = len(tasks)
            while left:
                step = await steps.get()
                if step is None:
                    left -= 1
                else:
                    yield step
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if bugs:
            raise bugs[0]
        if failures:
            raise PeerError(f"not all nodes have model '{entry.name}': {'; '.join(failures)}")
        yield Progress("success")

    async def _bring(
        self, reached: NodeRecord | None, node: NodeRecord, entry: ModelEntry
    ) -> AsyncGenerator[int, None]:
        """Bytes that the node has of it, the whole in the end. Raises: PeerError, what its transfer raises."""
        key = names.key(entry.name)
        if node.node_id == self._node_id:
            async with aclosing(self._transfer.steps(key)) as steps:
                async for done_bytes in steps:
                    yield done_bytes
        elif reached is None:
            raise PeerUnavailable("can't be reached; it gets the model when it needs it")
        else:
            question = msgspec.msgpack.encode(BringOrder(key, self._replica.catalog.revision))
            async with aclosing(self._link.stream(reached, "models.bring", question, idle_ms=_IDLE_MS)) as frames:
                async for batch in frames:
                    for frame in batch:
                        yield decoded(frame, BringStep).done_bytes
        yield entry.size_bytes

    def _chosen(self, having: Set[str], nodes: str) -> list[NodeRecord]:
        """Raises: BadRequest, Conflict."""
        catalog = self._replica.catalog
        if nodes == "all":
            return list(catalog.nodes.values())
        if nodes.isdecimal():
            return self._fewest(having, int(nodes))
        labels = dict(word.partition("=")[::2] for word in nodes.split(","))
        if "" in labels or not all("=" in word for word in nodes.split(",")):
            raise BadRequest(f"nodes are all, a number, or labels like gpu=4090, not {nodes[:80]!r}")
        chosen = [one for one in catalog.nodes.values() if all(one.labels.get(k) == v for k, v in labels.items())]
        if not chosen:
            raise Conflict(f"no node has the label {nodes[:80]}; `ollamamax node label` gives it to one")
        return chosen

    def _fewest(self, having: Set[str], count: int) -> list[NodeRecord]:
        """As many nodes: those that have it first, then those that can be reached and take work."""
        catalog = self._replica.catalog
        reachable = {node.node_id for node in self._reachable()} | {self._node_id}
        first = [one for node_id, one in catalog.nodes.items() if node_id in having]
        able = [node_id for node_id in catalog.nodes if node_id in reachable and catalog.takes_work(node_id)]
        chosen = [*first, *(catalog.nodes[node_id] for node_id in able if node_id not in having)][:count]
        if not 1 <= count <= len(chosen):
            raise Conflict(f"{len(chosen)} nodes could have the model now, not {count}")
        return chosen


def _step(node: NodeRecord, entry: ModelEntry, done_bytes: int) -> Progress:
    completed = min(max(done_bytes, 0), entry.size_bytes)
    return Progress(f"{node.name}: copying {entry.name}", total=entry.size_bytes, completed=completed)
