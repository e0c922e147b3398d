"""Pulls and pushes of a node in a cluster: the catalog learns what came."""

import hashlib

import pytest
from test_cluster_models import World, world

import gguf_bytes
from ollamamax.core.errors import RegistryNotFound, StateUnavailable
from ollamamax.core.modelspec import manifest, names
from ollamamax.core.modelspec.manifest import Layer
from ollamamax.core.types import TransferRequest

__all__ = ["world"]

GGUF = gguf_bytes.llama()


def publish(world: World, model: str) -> str:
    """Put a model into the registry of this node; the manifest's digest."""
    name, layers = names.parse(model), []
    for kind, data in ((manifest.CONFIG_TYPE, b"{}"), (manifest.MODEL, GGUF)):
        layers.append(Layer(kind, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data)))
        world.here.registry.blobs[f"{name.host}/{name.namespace}/{name.model}", layers[-1].digest] = data
    data = manifest.encode(layers[0], layers[1:])
    world.here.registry.manifests[name.full] = data, manifest.MANIFEST_TYPE
    return hashlib.sha256(data).hexdigest()


async def test_a_pulled_model_is_in_the_catalog_before_success(world: World) -> None:
    digest = publish(world, "me/m")
    async for step in world.here.models.pull(TransferRequest("me/m")):
        known = world.catalog
        if step.status == "success":
            assert known == {"me/m:latest": digest}
    assert step.status == "success"


async def test_a_pull_that_fails_changes_nothing(world: World) -> None:
    with pytest.raises(RegistryNotFound):
        [step async for step in world.here.models.pull(TransferRequest("me/nobody"))]
    assert world.catalog == {}


async def test_nothing_is_pulled_while_the_catalog_can_not_be_written(world: World) -> None:
    publish(world, "me/m")
    world.replica._lost_since_ms = 1.0
    with pytest.raises(StateUnavailable, match="can't pull a model now"):
        [step async for step in world.here.models.pull(TransferRequest("me/m"))]
    assert world.here.registry.asked == []


async def test_a_push_is_of_this_nodes_store(world: World) -> None:
    await world.here.create("me/m")
    steps = [step.status async for step in world.here.models.push(TransferRequest("me/m"))]
    assert steps[-1] == "success"
    assert names.parse("me/m").full in world.here.registry.manifests
