"""The admin API of placements and of nodes that are emptied."""

import json

import pytest
from api_fakes import Node, serving
from fake_placements import FakePlacements

from ollamamax.core.errors import PeerError, StateUnavailable
from ollamamax.core.types import PlacementWish

ADMIN = "/admin/v1"
TINY = f"{ADMIN}/placements/org/tiny"


def placements_of(node: Node) -> FakePlacements:
    assert node.placements is not None
    return node.placements


async def test_placements_are_listed_and_shown() -> None:
    async with serving() as node:
        (listed,) = (await node.client.get(f"{ADMIN}/placements")).json()["placements"]
        assert (listed["name"], listed["nodes"]) == (
            "org/tiny:latest",
            [{"node": "alpha", "replicas": 1, "ready": 1}],
        )
        shown = (await node.client.get(TINY)).json()
        assert shown == {**listed, "explanation": "why it is so"}
        missing = await node.client.get(f"{ADMIN}/placements/other")
        assert (missing.status_code, missing.json()["error"]) == (404, "nothing is asked of model 'other'")
        assert {action for action, _ in node.gateway.asked} == {"read"}


async def test_a_model_is_placed_explained_and_removed() -> None:
    async with serving() as node:
        asked = {"replicas": 2, "pins": ["alpha"], "labels": {"gpu": "a"}, "max_replicas": 4, "idle_ms": 7}
        wish = PlacementWish(replicas=2, pins=("alpha",), labels={"gpu": "a"}, max_replicas=4, idle_ms=7)
        plan = await node.client.post(f"{TINY}/explain", json=asked)
        assert plan.json()["text"] == "why it is so"
        assert node.gateway.asked == [("read", "org/tiny")]
        assert (await node.client.put(TINY, json=asked)).json()["missing"] == 1
        assert (await node.client.put(TINY, json={})).status_code == 200
        assert (await node.client.delete(TINY)).json() == {"name": "org/tiny"}
        assert node.gateway.asked[1:] == [("manage_cluster", "org/tiny")] * 3
        assert placements_of(node).asked == [
            ("explain", "org/tiny", wish),
            ("place", "org/tiny", wish),
            ("place", "org/tiny", PlacementWish()),
            ("remove", "org/tiny"),
        ]
        placements_of(node).fault = StateUnavailable("n1 can't be reached")
        assert (await node.client.put(TINY, json={})).status_code == 503


@pytest.mark.parametrize(
    "body", [{"replicas": -1}, {"replicas": 1001}, {"pins": [""]}, {"idle_ms": -1}, {"nonsense": 1}, {"labels": 1}]
)
async def test_what_is_no_wish(body: dict[str, object]) -> None:
    async with serving() as node:
        assert (await node.client.put(TINY, json=body)).status_code == 400
        assert placements_of(node).asked == []


async def test_a_model_is_put_on_nodes_with_progress() -> None:
    async with serving() as node:
        got = await node.client.post(f"{ADMIN}/models/org/tiny/spread", json={"nodes": "all"})
        steps = [json.loads(line) for line in got.text.splitlines()]
        assert [step["status"] for step in steps] == ["beta: copying", "success"]
        assert node.gateway.asked == [("manage_models", "org/tiny")]
        placements_of(node).fault = PeerError("beta: disk full")
        got = await node.client.post(f"{ADMIN}/models/org/tiny/spread", json={"nodes": "2"})
        assert json.loads(got.text.splitlines()[-1]) == {"error": "beta: disk full"}


async def test_a_node_is_drained_and_that_is_ended() -> None:
    async with serving() as node:
        assert node.cluster is not None
        path = f"{ADMIN}/nodes/beta/drain"
        drained = await node.client.post(path, json={"timeout_ms": 5, "on_timeout": "keep"})
        assert drained.json()["state"] == "draining"
        assert (await node.client.delete(path)).json()["state"] == "ready"
        assert node.cluster.done == [("drain", "beta", 5, "keep"), ("undrain", "beta")]
        assert node.gateway.asked == [("manage_cluster", "beta")] * 2
        for body in ({"timeout_ms": -1}, {"on_timeout": "nonsense"}):
            assert (await node.client.post(path, json=body)).status_code == 400


async def test_a_node_that_stays_alone_places_nothing() -> None:
    async with serving(alone=True) as node:
        for path in ("/placements", "/placements/tiny"):
            refused = await node.client.get(ADMIN + path)
            assert (refused.status_code, "stays alone" in refused.json()["error"]) == (409, True)
