"""What every Registry does: the client over HTTP with a real registry behind it, and its twin in memory."""

import hashlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path

import pytest

from docker_registry import docker_registry
from ollamamax.adapters.registry.client import RegistryClient
from ollamamax.adapters.registry.late import LateRegistry
from ollamamax.core.errors import RegistryError, RegistryNotFound
from ollamamax.core.modelspec import manifest, names
from ollamamax.core.modelspec.manifest import Layer
from ollamamax.core.types import ModelName
from ollamamax.ports import Body, Registry, Remote
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.registry import MemoryRegistry

DATA = random.Random(2).randbytes(10_000)
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
NOBODY = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as port:
        yield port


@pytest.fixture(params=["http", "memory"])
async def registry(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Registry]:
    if request.param == "memory":
        yield MemoryRegistry()
        return
    client = LateRegistry(lambda: RegistryClient(FakeClock(), SeededDice(), "0.1", tmp_path / "no-key"))
    await client.close()
    yield client
    await client.close()
    await client.close()


@pytest.fixture
def remote(request: pytest.FixtureRequest, port: int) -> Remote:
    """A model of its own for each test."""
    return Remote(names.parse(f"127.0.0.1:{port}/me/m{abs(hash(request.node.name))}:v1"), insecure=True)


def body(data: bytes) -> Body:
    async def pieces() -> AsyncGenerator[bytes, None]:
        for at in range(0, len(data), 999):
            yield data[at : at + 999]

    return pieces


async def send(registry: Registry, remote: Remote, data: bytes, *cuts: int) -> str:
    """Upload in parts that end at the cuts; the digest."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    session = await registry.begin_upload(remote, digest, None)
    start = 0
    for end in (*cuts, len(data)):
        if end > start:
            reply = await registry.send_part(remote, session, body(data[start:end]), start, end)
            assert reply.direct == ""
            session, start = reply.session, end
    await registry.end_upload(remote, session, digest, "")
    return digest


async def read(registry: Registry, remote: Remote, digest: str, start: int, end: int) -> bytes:
    return b"".join([piece async for piece in registry.read_blob(remote, digest, start, end)])


async def test_a_blob_goes_there_and_comes_back(registry: Registry, remote: Remote) -> None:
    assert not await registry.has_blob(remote, DIGEST)
    assert await send(registry, remote, DATA, 1, 4000, 9999) == DIGEST
    assert await registry.has_blob(remote, DIGEST)
    for start, end in ((0, 10_000), (0, 1), (9_999, 10_000), (1234, 5678)):
        assert await read(registry, remote, DIGEST, start, end) == DATA[start:end]


async def test_an_empty_blob(registry: Registry, remote: Remote) -> None:
    assert await registry.has_blob(remote, await send(registry, remote, b""))


async def test_other_bytes_are_refused(registry: Registry, remote: Remote) -> None:
    session = await registry.begin_upload(remote, DIGEST, None)
    reply = await registry.send_part(remote, session, body(b"other"), 0, 5)
    with pytest.raises(RegistryError, match=r"^400: .*DIGEST_INVALID"):
        await registry.end_upload(remote, reply.session, DIGEST, "")
    assert not await registry.has_blob(remote, DIGEST)


async def test_an_upload_says_what_has_arrived(registry: Registry, remote: Remote) -> None:
    session = await registry.begin_upload(remote, DIGEST, None)
    assert (await registry.arrived(remote, session))[0] == 0
    session = (await registry.send_part(remote, session, body(DATA[:5000]), 0, 5000)).session
    arrived, session = await registry.arrived(remote, session)
    assert arrived == 5000
    session = (await registry.send_part(remote, session, body(DATA[5000:]), 5000, 10_000)).session
    await registry.end_upload(remote, session, DIGEST, "")
    assert await registry.has_blob(remote, DIGEST)
    with pytest.raises(RegistryNotFound):
        await registry.arrived(remote, session)


async def test_a_blob_is_taken_over_from_another_model(registry: Registry, remote: Remote) -> None:
    await send(registry, remote, DATA)
    name = remote.name
    other = Remote(ModelName(name.host, name.namespace, name.model + "-other", "v1"), insecure=True)
    assert await registry.begin_upload(other, DIGEST, name) == ""
    assert await registry.has_blob(other, DIGEST)
    assert await registry.begin_upload(other, NOBODY, name) != ""


async def test_a_manifest_comes_back_byte_for_byte(registry: Registry, remote: Remote) -> None:
    with pytest.raises(RegistryNotFound, match=r"^404: .*MANIFEST_UNKNOWN"):
        await registry.manifest(remote)
    config = await send(registry, remote, b"{}")
    await send(registry, remote, DATA)
    data = manifest.encode(
        Layer(manifest.CONFIG_TYPE, config, 2), [Layer(manifest.MODEL, DIGEST, len(DATA), from_model="tiny:latest")]
    )
    await registry.put_manifest(remote, data, manifest.MANIFEST_TYPE)
    assert await registry.manifest(remote) == data


async def test_a_blob_that_is_not_there(registry: Registry, remote: Remote) -> None:
    with pytest.raises(RegistryNotFound, match=r"^404: .*BLOB_UNKNOWN"):
        await read(registry, remote, NOBODY, 0, 10)


async def test_reading_may_end_early(registry: Registry, remote: Remote) -> None:
    await send(registry, remote, DATA)
    pieces = registry.read_blob(remote, DIGEST, 0, len(DATA))
    assert DATA.startswith(await anext(pieces))
    await pieces.aclose()
    assert await read(registry, remote, DIGEST, 0, len(DATA)) == DATA
