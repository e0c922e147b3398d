"""A real node and a real registry, with trouble between them."""

import asyncio
import hashlib
import json
import os
import random
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
from nodes import Node

from docker_registry import docker_registry
from ollamamax.adapters.registry.client import RegistryClient
from ollamamax.core.modelspec import manifest, names
from ollamamax.core.modelspec.manifest import Layer
from ollamamax.ports import Remote
from ollamamax.testing.clock import FakeClock, SeededDice
from registry_proxy import RegistryProxy
from tmpfs import tmpfs

LIMIT_S = 600
KILLS = 10
MB = 1_000_000
NewNode = Callable[..., Node]


@pytest.fixture(scope="module")
def registry_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as port:
        yield port


@pytest.fixture
async def proxy(registry_port: int) -> AsyncIterator[RegistryProxy]:
    async with asyncio.timeout(LIMIT_S), RegistryProxy(registry_port) as proxy:
        yield proxy


async def publish(port: int, model: str, weights: bytes) -> str:
    """Put a model of these weights into the registry, without the proxy; the digest of the weights."""
    remote = Remote(names.parse(f"127.0.0.1:{port}/{model}"), insecure=True)
    client = RegistryClient(FakeClock(), SeededDice(), "0.1", Path("/nonexistent"))
    layers = []
    for kind, data in ((manifest.CONFIG_TYPE, b"{}"), (manifest.MODEL, weights)):

        async def body(data: bytes = data) -> AsyncGenerator[bytes, None]:
            yield data

        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        session = await client.begin_upload(remote, digest, None)
        session = (await client.send_part(remote, session, body, 0, len(data))).session
        await client.end_upload(remote, session, digest, "")
        layers.append(Layer(kind, digest, len(data)))
    await client.put_manifest(remote, manifest.encode(layers[0], layers[1:]), manifest.MANIFEST_TYPE)
    await client.close()
    return layers[1].digest


async def pull(
    node: Node, model: str, hear: Callable[[dict[str, Any]], None] = lambda step: None
) -> list[dict[str, Any]]:
    """The lines of the answer; `hear` is called with each as it comes."""
    steps = []
    body = {"model": model, "insecure": True}
    async with (
        httpx.AsyncClient(base_url=node.url, timeout=LIMIT_S) as client,
        client.stream("POST", "/api/pull", json=body) as reply,
    ):
        assert reply.status_code == 200
        async for line in reply.aiter_lines():
            steps.append(json.loads(line))
            hear(steps[-1])
    return steps


def blob_of(node: Node, digest: str) -> Path:
    models = Path(node.env()["OLLAMA_MODELS"])
    return models / "blobs" / digest.replace(":", "-")


def kept(node: Node, digest: str) -> int:
    """How many bytes of a blob that is on its way are on the node's disk."""
    parts = [json.loads(path.read_bytes()) for path in blob_of(node, digest).parent.glob(f"*{digest[7:]}-partial-*")]
    return sum(part["Completed"] for part in parts)


async def until_kept(node: Node, digest: str, count: int) -> int:
    """Returns, once so many are, how many."""
    while (now := kept(node, digest)) < count:
        await asyncio.sleep(0.005)
    return now


def hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


async def test_a_model_goes_there_and_comes_back_and_answers(shared_node: Node, proxy: RegistryProxy) -> None:
    proxy.asks_token = True
    name = f"{proxy.host}/me/tiny:v1"
    async with ollama.AsyncClient(shared_node.url) as client:
        await client.copy("tiny", name)
        pushed = [step async for step in await client.push(name, insecure=True, stream=True)]
        assert (pushed[0].status, pushed[-2].status, pushed[-1].status) == (
            "retrieving manifest",
            "pushing manifest",
            "success",
        )
        before = next(model for model in (await client.list()).models if model.model == name)
        await client.delete(name)
        proxy.elsewhere = True
        pulled = [step async for step in await client.pull(name, insecure=True, stream=True)]
        assert (pulled[0].status, pulled[-1].status) == ("pulling manifest", "success")
        after = next(model for model in (await client.list()).models if model.model == name)
        assert (after.digest, after.size) == (before.digest, before.size)
        answer = await client.generate(name, "Hello", options={"num_predict": 4})
        assert answer.response
        assert not any("Authorization" in headers for headers in proxy.direct)
        await client.delete(name)


async def test_what_the_registry_says_reaches_the_client(shared_node: Node, proxy: RegistryProxy) -> None:
    name = f"{proxy.host}/me/nobody"
    assert await pull(shared_node, name) == [
        {"status": "pulling manifest"},
        {"error": "pull model manifest: file does not exist"},
    ]
    proxy.refusals.append((503, {}))
    assert (await pull(shared_node, name))[-1] == {"error": "pull model manifest: 503: refused with 503"}
    proxy.refusals.append((429, {}))
    assert (await pull(shared_node, name))[-1] == {"error": "pull model manifest: 429: refused with 429"}
    proxy.asks_token, proxy.no_token = True, 401
    assert (await pull(shared_node, name))[-1] == {"error": "pull model manifest: unauthorized: access denied"}
    async with httpx.AsyncClient(base_url=shared_node.url, timeout=LIMIT_S) as client:
        reply = await client.post("/api/pull", json={"model": f"http://{name}", "stream": False})
        assert (reply.status_code, reply.json()) == (500, {"error": "insecure protocol http"})


async def test_cuts_and_silence_are_survived(new_node: NewNode, proxy: RegistryProxy, registry_port: int) -> None:
    digest = await publish(registry_port, "me/cut:v1", os.urandom(5 * MB))
    node = new_node()
    proxy.cuts.extend([300_000, 700_000, 1])
    steps = await pull(node, f"{proxy.host}/me/cut:v1")
    assert steps[-1] == {"status": "success"}
    assert hash_of(blob_of(node, digest)) == digest
    assert proxy.by_path[f"/v2/me/cut/blobs/{digest}"] == 5 * MB


async def test_corrupt_bytes_are_told_and_removed(new_node: NewNode, proxy: RegistryProxy, registry_port: int) -> None:
    digest = await publish(registry_port, "me/corrupt:v1", os.urandom(MB))
    node = new_node()
    proxy.corrupt = True
    steps = await pull(node, f"{proxy.host}/me/corrupt:v1")
    assert steps[-1]["error"].startswith("digest mismatch, file must be downloaded again: want sha256:")
    assert not list(blob_of(node, digest).parent.glob(f"*{digest[7:]}*"))
    proxy.corrupt = False
    assert (await pull(node, f"{proxy.host}/me/corrupt:v1"))[-1] == {"status": "success"}


async def test_two_pulls_share_a_download(new_node: NewNode, proxy: RegistryProxy, registry_port: int) -> None:
    data = os.urandom(4 * MB)
    digest = await publish(registry_port, "me/one:v1", data)
    await publish(registry_port, "me/two:v1", data)
    node = new_node()
    proxy.bytes_per_s = MB // 8
    missing = {"one", "two"}

    async def part_in_it(model: str) -> list[dict[str, Any]]:
        def hear(step: dict[str, Any]) -> None:
            if step.get("digest") == digest:
                missing.discard(model)
                proxy.bytes_per_s = MB // 8 if missing else 0

        return await pull(node, f"{proxy.host}/me/{model}:v1", hear)

    for steps in await asyncio.gather(*map(part_in_it, sorted(missing))):
        told = [step for step in steps if step.get("digest") == digest]
        assert told[0].get("completed", 0) < told[-1]["completed"] == len(data)
        assert steps[-1] == {"status": "success"}
    assert sum(count for path, count in proxy.by_path.items() if digest in path) == len(data)


async def test_a_disk_without_room_is_told_before_the_first_byte(
    new_node: NewNode, proxy: RegistryProxy, registry_port: int, tmp_path: Path
) -> None:
    await publish(registry_port, "me/large:v1", os.urandom(20 * MB))
    with tmpfs(tmp_path / "small", 16 * MB) as models:
        node = new_node(OLLAMA_MODELS=str(models))
        steps = await pull(node, f"{proxy.host}/me/large:v1")
        assert " needs 20000002 bytes more and " in steps[-1]["error"]
        assert proxy.served == 0
        node.stop()


async def test_a_node_that_is_killed_goes_on(new_node: NewNode, proxy: RegistryProxy, registry_port: int) -> None:
    """Ten times at a random point. What is on its disk does not come again."""
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    size = 240 * MB
    digest = await publish(registry_port, "me/big:v1", os.urandom(size))
    path = f"/v2/me/big/blobs/{digest}"
    node = new_node()
    proxy.bytes_per_s = 40 * MB
    at_last = 0
    for _ in range(KILLS):
        pulling = asyncio.create_task(pull(node, f"{proxy.host}/me/big:v1"))
        await until_kept(node, digest, at_last + dice.randrange(1, 2 * size // KILLS // 3))
        await asyncio.to_thread(node.kill)
        with pytest.raises(httpx.HTTPError):
            await pulling
        at_last = kept(node, digest)
        await asyncio.to_thread(node.start)
    proxy.bytes_per_s = 0
    before = proxy.by_path[path]
    steps = await pull(node, f"{proxy.host}/me/big:v1")
    assert steps[-1] == {"status": "success"}, f"seed {seed}"
    assert proxy.by_path[path] - before == size - at_last, f"seed {seed}"
    assert hash_of(blob_of(node, digest)) == digest
    assert sorted(path.name for path in blob_of(node, digest).parent.glob("*-partial*")) == []


async def test_ctrl_c_keeps_what_has_come(new_node: NewNode, proxy: RegistryProxy, registry_port: int) -> None:
    size, silent_after = 20 * MB, 8 * MB
    digest = await publish(registry_port, "me/slow:v1", os.urandom(size))
    node = new_node()
    proxy.stalls.extend([silent_after] * 9)
    name = f"{proxy.host}/me/slow:v1"
    command = [*node.command()[:3], "pull", "--insecure", name]
    child = await asyncio.create_subprocess_exec(*command, env=node.env(), stderr=asyncio.subprocess.PIPE)
    at_least = await until_kept(node, digest, silent_after // 2)
    child.send_signal(signal.SIGINT)
    _, said = await child.communicate()
    assert child.returncode == 130
    assert b"what has come is kept" in said
    proxy.stalls.clear()
    again = await asyncio.create_subprocess_exec(*command, env=node.env(), stderr=asyncio.subprocess.PIPE)
    _, said = await again.communicate()
    assert again.returncode == 0
    assert b"% came earlier" in said
    assert said.splitlines()[-1] == b"success"
    assert proxy.served <= silent_after + size - at_least
    assert hash_of(blob_of(node, digest)) == digest
