"""Models that come from other nodes: whole, in parts, from the next holder when one fails."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec
import pytest

import gguf_bytes
from ollamamax.core.errors import ModelNotFound, PeerProtocol, PeerUnavailable
from ollamamax.core.modelspec import names
from ollamamax.core.types import CreateRequest, ModelEntry, NodeRecord
from ollamamax.ports import Caller, PeerMethods
from ollamamax.services.library import Library
from ollamamax.services.transfer import BlobRange, ManifestOf, Transfer, TransferHost, entry_of
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.making import MemoryGgufMaker
from ollamamax.testing.registry import MemoryRegistry
from ollamamax.testing.store import MemoryStore


class Wire:
    """Calls the methods of other nodes directly; breaks a stream after so many frames."""

    def __init__(self) -> None:
        self.nodes: dict[str, PeerMethods] = {}
        self.breaks_after: dict[str, int] = {}
        self.read: list[tuple[str, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def call(self, node: NodeRecord, method: str, body: bytes, *, timeout_ms: float) -> bytes:
        await self.gate.wait()
        if node.node_id not in self.nodes:
            raise PeerUnavailable(f"node '{node.name}' can't be reached")
        return await self.nodes[node.node_id].unary[method](Caller("me"), body)

    async def stream(
        self, node: NodeRecord, method: str, body: bytes, *, idle_ms: float
    ) -> AsyncGenerator[list[bytes], None]:
        self.read.append((node.name, msgspec.msgpack.decode(body, type=BlobRange).offset))
        left = self.breaks_after.get(node.node_id, 1 << 30)
        async with aclosing(self.nodes[node.node_id].streams[method](Caller("me"), body)) as frames:
            async for batch in frames:
                if left == 0:
                    raise PeerUnavailable(f"node '{node.name}' closed the connection")
                left -= 1
                yield batch

    async def forget(self, node_id: str) -> None:
        raise AssertionError("not used")

    async def close(self) -> None:
        raise AssertionError("not used")


def record(number: int) -> NodeRecord:
    return NodeRecord(
        node_id=f"{number:016x}",
        name=f"n{number}",
        addresses=(f"10.0.0.{number}:11435",),
        sequence=number,
        joined_ns=0,
        key_hash="",
        version="0",
    )


class World:
    """Nodes n1, n2, ... that have the model `big`; this node, that has nothing."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.clock = FakeClock()
        self.mine = MemoryStore()
        self.holders: list[NodeRecord] = []
        self.entry: ModelEntry | None = None
        self.arrivals = 0
        self.transfer = Transfer(
            self.mine, self.wire, self.clock, lambda _: self.entry, lambda _: self.holders, self._arrived
        )

    async def _arrived(self) -> None:
        self.arrivals += 1

    async def add_holder(self) -> MemoryStore:
        store = MemoryStore()
        digest, _ = await store.put_bytes(gguf_bytes.llama() + bytes(20_000))
        library = Library(store, MemoryRegistry(), MemoryGgufMaker(store.at), self.clock, SeededDice())
        async for _ in library.create(CreateRequest(model="big", files={"big.gguf": digest})):
            pass
        number = len(self.holders) + 1
        self.holders.append(record(number))
        self.wire.nodes[record(number).node_id] = TransferHost(store).methods()
        [stored] = await store.manifests()
        self.entry = entry_of(stored, 5)
        return store


async def test_a_model_arrives_with_all_its_blobs() -> None:
    world = World()
    theirs = await world.add_holder()
    await world.transfer.ensure("big:latest")
    assert [digest for digest, _, _ in await world.mine.blobs()] == [digest for digest, _, _ in await theirs.blobs()]
    assert [one.data for one in await world.mine.manifests()] == [one.data for one in await theirs.manifests()]
    assert world.arrivals == 1
    asked = len(world.wire.read)
    await world.transfer.ensure("big:latest")
    assert (world.arrivals, len(world.wire.read)) == (1, asked)


async def test_the_next_holder_goes_on_where_the_first_broke_off() -> None:
    world = World()
    await world.add_holder()
    await world.add_holder()
    world.wire.breaks_after[record(1).node_id] = 3
    await world.transfer.ensure("big:latest")
    assert world.arrivals == 1
    resumed = [offset for name, offset in world.wire.read if name == "n2" and offset]
    assert resumed == [3 * 4096]


async def test_equal_wishes_share_one_transfer_that_outlives_its_askers() -> None:
    world = World()
    await world.add_holder()
    world.wire.gate.clear()
    first, second = (asyncio.create_task(world.transfer.ensure("big:latest")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    world.wire.gate.set()
    await second
    assert world.arrivals == 1


async def test_a_model_that_nobody_has_any_more() -> None:
    world = World()
    await world.add_holder()
    world.wire.nodes.clear()
    with pytest.raises(ModelNotFound, match=r"big.*n1: node 'n1' can't be reached"):
        await world.transfer.ensure("big:latest")
    world.holders.clear()
    with pytest.raises(ModelNotFound, match="no node that has it"):
        await world.transfer.ensure("big:latest")


async def test_what_the_catalog_does_not_know_is_left_to_the_store() -> None:
    world = World()
    await world.transfer.ensure("other:latest")
    assert world.arrivals == 0


async def test_a_local_version_serves_while_nobody_has_the_right_one() -> None:
    world = World()
    store = await world.add_holder()
    [stored] = await store.manifests()
    other = stored.data + b" "
    await world.mine.put_manifest(names.parse("big"), other)
    world.holders.clear()
    await world.transfer.ensure("big:latest")
    assert world.arrivals == 0


async def test_a_manifest_that_was_not_asked_for_is_refused() -> None:
    world = World()
    await world.add_holder()

    async def forged(_: Caller, body: bytes) -> bytes:
        return b"{}"

    node_id = record(1).node_id
    world.wire.nodes[node_id] = PeerMethods(unary={"models.manifest": forged})
    with pytest.raises(ModelNotFound, match="sent another manifest"):
        await world.transfer.ensure("big:latest")
    assert await world.mine.manifests() == []


async def test_close_ends_what_is_under_way() -> None:
    world = World()
    await world.add_holder()
    world.wire.gate.clear()
    waiting = asyncio.create_task(world.transfer.ensure("big:latest"))
    await asyncio.sleep(0)
    await world.transfer.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize("body", [b"", b"\xc1", msgspec.msgpack.encode({"digest": 5})])
async def test_questions_that_are_none(body: bytes) -> None:
    methods = TransferHost(MemoryStore()).methods()
    with pytest.raises(PeerProtocol):
        await methods.unary["models.manifest"](Caller("x"), body)
    with pytest.raises(PeerProtocol):
        await anext(methods.streams["blobs.read"](Caller("x"), body))


async def test_another_version_is_not_given_for_the_one_that_was_asked_for() -> None:
    world = World()
    await world.add_holder()
    question = msgspec.msgpack.encode(ManifestOf("big:latest", "0" * 64))
    with pytest.raises(ModelNotFound):
        await world.wire.nodes[record(1).node_id].unary["models.manifest"](Caller("x"), question)


@pytest.mark.parametrize("change", [lambda data: data + b"x", lambda data: data[:-1], lambda data: b""])
async def test_a_node_that_sends_too_much_or_too_little(change: Callable[[bytes], bytes]) -> None:
    world = World()
    theirs = await world.add_holder()

    async def wrong(_: Caller, body: bytes) -> AsyncGenerator[list[bytes], None]:
        asked = msgspec.msgpack.decode(body, type=BlobRange)
        yield [change((await theirs.read_blob(asked.digest))[asked.offset :])]

    methods = world.wire.nodes[record(1).node_id]
    world.wire.nodes[record(1).node_id] = PeerMethods(unary=methods.unary, streams={"blobs.read": wrong})
    with pytest.raises(ModelNotFound, match=r"(bytes|more) of sha256"):
        await world.transfer.ensure("big:latest")
    assert (await world.mine.manifests(), await world.mine.blobs()) == ([], [])


async def test_steps_tell_how_much_is_here_until_it_is_all_here() -> None:
    world = World()
    await world.add_holder()
    world.wire.gate.clear()
    steps = world.transfer.steps("big:latest")
    assert await anext(steps) == 0
    world.wire.gate.set()
    rest = [done_bytes async for done_bytes in steps]
    assert rest == sorted(rest)
    assert world.arrivals == 1


async def test_a_node_that_has_it_is_looked_for_as_long_as_one_has_patience() -> None:
    world = World()
    await world.add_holder()
    late, world.holders = world.holders, []
    with pytest.raises(ModelNotFound):
        [step async for step in world.transfer.steps("big:latest")]
    steps = world.transfer.steps("big:latest", patience_ms=60_000)
    await anext(steps)
    await anext(steps)
    world.holders = late
    async for _ in steps:
        pass
    assert world.arrivals == 1
