"""A cluster's authority and papers for the peer listener's tests, and nodes that listen on loopback."""

import asyncio
import datetime
import functools
import hashlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from certificates import builder
from ollamamax.adapters.network.peer_link import TlsPeerLink
from ollamamax.adapters.network.peer_pool import LinkLimits
from ollamamax.adapters.network.peer_server import ListenerLimits, PeerServer
from ollamamax.core.types import NodeRecord
from ollamamax.ports import NodeKeys, PeerMethods

A, B, C = "a" * 16, "b" * 16, "c" * 16
LIMIT_S = 30.0
DAY = datetime.timedelta(days=1)


Test = TypeVar("Test", bound=Callable[..., Awaitable[None]])


def bounded(test: Test) -> Test:
    """A test that is over within LIMIT_S."""

    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(LIMIT_S):
            await test(*args, **kwargs)

    return run  # type: ignore[return-value]


class Cluster:
    """An authority that signs whatever a test needs."""

    def __init__(self, cluster_id: str = "c1" * 8) -> None:
        self.cluster_id = cluster_id
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(cluster_id, "authority")
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        made = builder(self._name, self._name, self._key)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.ca = made.add_extension(usage, critical=True).sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def keys(self, node_id: str, ends_in: datetime.timedelta = DAY, ca: bytes = b"", common_name: str = "") -> NodeKeys:
        """Papers of a node. ca: whom it trusts, if not this authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(self.cluster_id, common_name or node_id)
        made = builder(subject, self._name, key, 2 * DAY, ends_in)
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{node_id}.ollamamax")]), False)
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        made = made.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        certificate = made.sign(self._key, hashes.SHA256())
        return NodeKeys(
            node_id=node_id,
            cluster_id=self.cluster_id,
            private_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            certificate=certificate.public_bytes(Encoding.PEM),
            ca=ca or self.ca,
            not_before_ns=int(certificate.not_valid_before_utc.timestamp() * 1e9),
            expires_ns=int(certificate.not_valid_after_utc.timestamp() * 1e9),
        )


def key_hash(keys: NodeKeys) -> str:
    public = x509.load_pem_x509_certificate(keys.certificate).public_key()
    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def record(node_id: str, *ports_or_addresses: int | str) -> NodeRecord:
    addresses = tuple(one if isinstance(one, str) else f"127.0.0.1:{one}" for one in ports_or_addresses)
    return NodeRecord(
        node_id=node_id,
        name=f"node-{node_id[0]}",
        addresses=addresses,
        sequence=1,
        joined_ns=0,
        key_hash="",
        version="0.1.0",
    )


class Listening:
    """A node that listens. revoked: ids of nodes that were removed.  record: of it, as others know it."""

    def __init__(self, server: PeerServer, keys: NodeKeys, port: int, revoked: set[str]) -> None:
        self.server = server
        self.keys = keys
        self.port = port
        self.revoked = revoked
        self.record = record(keys.node_id, port)


@asynccontextmanager
async def listening(
    cluster: Cluster, methods: Sequence[PeerMethods], node_id: str = B, limits: ListenerLimits | None = None
) -> AsyncGenerator[Listening, None]:
    revoked: set[str] = set()
    keys = cluster.keys(node_id)
    server = PeerServer(methods, keys, lambda one, _: one in revoked, limits)
    port = await server.start("127.0.0.1", 0)
    try:
        yield Listening(server, keys, port, revoked)
    finally:
        await server.close(0)


@asynccontextmanager
async def linked(
    keys: NodeKeys,
    limits: LinkLimits | None = None,
    incoming: Callable[[str], Awaitable[None]] | None = None,
) -> AsyncGenerator[TlsPeerLink, None]:
    link = TlsPeerLink(keys, incoming, limits or LinkLimits(connect_s=5.0))
    try:
        yield link
    finally:
        await link.close()


def open_files() -> int:
    """Descriptors of this process; without /dev/null, of which an event loop may keep one in reserve."""
    if not Path("/proc/self/fd").is_dir():
        return psutil.Process().num_fds()
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists them
            found += os.readlink(f"/proc/self/fd/{name}") != os.devnull
    return found


def _name(organization: str, common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )
