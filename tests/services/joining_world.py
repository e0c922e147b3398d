"""A cluster whose members let others in over real TLS on loopback; what they agree on is in memory.

async with Cluster(tmp_path) as cluster:
    token = await cluster.founder.token()
    identity = await cluster.newcomer("box").join(token)
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from free_ports import free_port
from loopback import LoopbackServer
from ollamamax.adapters.identity.authority import FileAuthority
from ollamamax.adapters.identity.node_identity import FileIdentityStore
from ollamamax.adapters.network.join_client import TlsJoinLink
from ollamamax.adapters.network.peer_link import TlsPeerLink
from ollamamax.adapters.network.peer_server import PeerServer
from ollamamax.core.catalog.commands import AddToken, FoundCluster
from ollamamax.core.catalog.join_token import JoinToken, encode, parse, secret_hash
from ollamamax.core.errors import OllamaMaxError
from ollamamax.core.types import ClusterMeta, NodeRecord, TokenRecord
from ollamamax.ports import Identity, JoinLink, NodeKeys
from ollamamax.services.control import Control
from ollamamax.services.issuing import Issuer
from ollamamax.services.joining import found, join
from ollamamax.services.replica import Replica
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.state import MemorySnapshot, MemoryState

HOUR_MS = 3_600_000
VERSION = "1.2.3"


class Member:
    """A node that answers. authority: None where it has no key."""

    def __init__(
        self,
        cluster: "Cluster",
        store: FileIdentityStore,
        identity: Identity,
        authority: FileAuthority | None,
        port: int,
    ) -> None:
        self.cluster = cluster
        self.store = store
        self.identity = identity
        self.authority = authority
        self.port = port
        self.link = TlsPeerLink(identity.keys)
        self.replica = Replica(cluster.state, MemorySnapshot(), cluster.clock, cluster.dice)
        self.control = Control(cluster.state, self.replica, cluster.dice)
        self.issuer = Issuer(
            authority=lambda: self.authority,
            store=store,
            identity=identity,
            control=self.control,
            replica=self.replica,
            link=self.link,
            clock=cluster.clock,
            dice=cluster.dice,
            version=VERSION,
        )
        self.server = PeerServer([self.issuer.methods()], identity.keys, self._is_revoked)

    def _is_revoked(self, node_id: str, key_hash: str) -> bool:
        return node_id in self.replica.catalog.revoked

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def record(self) -> NodeRecord:
        return self.replica.catalog.nodes[self.identity.node_id]

    async def start(self) -> None:
        await self.replica.open()
        await self.server.start("127.0.0.1", self.port)

    async def stop(self) -> None:
        await self.server.close(0)
        await self.link.close()

    async def token(self, ttl_ms: int = HOUR_MS, uses: int = 1, only: "Member | None" = None) -> str:
        """only: name that member's address alone."""
        text = (await self.issuer.create_token(ttl_ms, uses)).token
        return text if only is None else changed(text, addresses=(only.address,))


class Newcomer:
    """A node that is no member yet, or will be one again."""

    def __init__(self, cluster: "Cluster", name: str, directory: Path) -> None:
        self.cluster = cluster
        self.name = name
        self.port = free_port()
        self.store = FileIdentityStore(directory)

    async def join(self, token: str, link: JoinLink | None = None, version: str = VERSION) -> Identity:
        async with asyncio.timeout(20):
            return await join(
                token,
                link or TlsJoinLink(2.0, 5.0),
                self.store,
                name=self.name,
                addresses=(f"127.0.0.1:{self.port}",),
                version=version,
                clock=self.cluster.clock,
                dice=self.cluster.dice,
            )


class Cluster:
    """founder: has the key and the state."""

    def __init__(self, folder: Path, cluster_id: str = "c0ffee00c0ffee00", seed: int = 0) -> None:
        self.folder = folder
        self.cluster_id = cluster_id
        self.clock = FakeClock(wall_ns=time.time_ns())
        self.dice = SeededDice(seed)
        self.state = MemoryState(self.clock)
        self.founder: Member
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        now_ns = self.clock.wall_ns()
        directory = self.folder / "founder" / "cluster"
        authority = FileAuthority.create(directory, self.cluster_id, "home", None, now_ns)
        store = FileIdentityStore(directory)
        identity = found(store, authority, self.dice.token_hex(8), "founder", now_ns)
        self.founder = Member(self, store, identity, authority, free_port())
        record = NodeRecord(
            node_id=identity.node_id,
            name="founder",
            addresses=(self.founder.address,),
            sequence=1,
            joined_ns=now_ns,
            key_hash=store.facts(identity.keys.certificate).key_hash,
            version=VERSION,
        )
        meta = ClusterMeta(cluster_id=self.cluster_id, name="home", created_ns=now_ns, holder_id=identity.node_id)
        await self.founder.control.run(FoundCluster(meta=meta, node=record))
        await self._started(self.founder)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        await self.state.close()

    def newcomer(self, name: str, directory: Path | None = None) -> Newcomer:
        return Newcomer(self, name, directory or self.folder / name / "cluster")

    async def member(self, name: str) -> Member:
        """One that joined, without the authority's key, and answers."""
        newcomer = self.newcomer(name)
        identity = await newcomer.join(await self.founder.token())
        return await self._started(Member(self, newcomer.store, identity, None, newcomer.port))

    async def refreshed(self, *members: Member) -> None:
        """They have seen what happened."""
        for member in members:
            await member.replica.refresh()

    async def _started(self, member: Member) -> Member:
        await member.start()
        self._stack.push_async_callback(member.stop)
        return member


def changed(token: str, **parts: object) -> str:
    """A token with other parts, well-formed."""
    old = parse(token)
    fields = {name: getattr(old, name) for name in old.__struct_fields__}
    return encode(JoinToken(**{**fields, **parts}))


async def with_secret(cluster: Cluster, secret: str, uses: int = 1) -> str:
    """A token whose secret is known to the test."""
    now_ns = cluster.clock.wall_ns()
    token = changed(await cluster.founder.token(), secret=secret, token_id="ab" * 8)
    record = TokenRecord(
        token_id="ab" * 8,
        secret_hash=secret_hash(secret),
        created_ns=now_ns,
        expires_ns=now_ns + HOUR_MS * 10**6,
        uses_left=uses,
    )
    await cluster.founder.control.run(AddToken(record=record))
    return token


class RawTlsServer(LoopbackServer):
    """Speaks TLS with some papers, reads the head of a request, and answers with what `answer` says; None: never.

    heard: what came, after decryption.
    """

    def __init__(self, keys: NodeKeys, folder: Path, answer: Callable[[bytes], bytes | None]) -> None:
        path = folder / f"raw-{keys.node_id}.pem"
        path.write_bytes(keys.private_key + keys.certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        super().__init__(context)
        self._answer = answer
        self.heard: list[bytes] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heard.append(head)
            answer = self._answer(head)
            if answer is None:
                await asyncio.Event().wait()
            writer.write(answer or b"")
            await writer.drain()
        finally:
            writer.transport.abort()


class Meddler:
    """A JoinLink between a newcomer and a cluster. Each hook gets what was answered and says what arrives."""

    def __init__(
        self,
        on_hello: Callable[[bytes], bytes] = lambda data: data,
        on_join: Callable[[bytes], bytes] = lambda data: data,
    ) -> None:
        self._real = TlsJoinLink(2.0, 5.0)
        self._on_hello = on_hello
        self._on_join = on_join
        self.joins = 0

    async def hello(self, address: str) -> bytes:
        return self._on_hello(await self._real.hello(address))

    async def join(self, address: str, ca: bytes, cluster_id: str, body: bytes) -> bytes:
        self.joins += 1
        return self._on_join(await self._real.join(address, ca, cluster_id, body))


async def assert_refused(cluster: Cluster, token: str, kind: type[OllamaMaxError], text: str) -> None:
    """It is, in these words, and nothing is left of it."""
    newcomer = cluster.newcomer("stranger")
    with pytest.raises(kind, match=text) as told:
        await newcomer.join(token)
    assert type(told.value) is kind
    assert parse(token).secret not in str(told.value)
    assert newcomer.store.load() is None
    await cluster.refreshed(cluster.founder)
    assert [node.name for node in cluster.founder.replica.catalog.nodes.values()] == ["founder"]
