"""The admin API of the cluster, and what readiness and metrics say of it."""

import asyncio
import json
from typing import Any

import pytest
from api_fakes import TOKEN, Node, serving
from fake_cluster import SECRET, FakeCluster
from msgspec.structs import replace

from ollamamax.api import admin_events
from ollamamax.core.errors import (
    CertificateRefused,
    NodeConflict,
    OllamaMaxError,
    PeerTimeout,
    PeerUnavailable,
    StateUnavailable,
    TokenRefused,
)
from ollamamax.core.types import ClusterEvent

ADMIN = "/admin/v1"


def cluster_of(node: Node) -> FakeCluster:
    assert node.cluster is not None
    return node.cluster


async def test_nodes_are_listed_and_shown_by_name_or_id() -> None:
    async with serving() as node:
        listed = (await node.client.get(f"{ADMIN}/nodes")).json()["nodes"]
        assert [(one["name"], one["state"], one["is_this"]) for one in listed] == [
            ("alpha", "ready", True),
            ("beta", "suspect", False),
        ]
        assert listed[0]["facts_age_ms"] == 12.5
        assert listed[1]["facts_age_ms"] is None
        for name in ("beta", "b" * 16):
            assert (await node.client.get(f"{ADMIN}/nodes/{name}")).json() == listed[1]
        gone = await node.client.get(f"{ADMIN}/nodes/gamma")
        assert (gone.status_code, gone.json()) == (404, {"error": "no node 'gamma' is in the cluster"})
        assert node.gateway.asked[-1] == ("read", "gamma")


async def test_a_node_is_removed() -> None:
    async with serving() as node:
        assert (await node.client.delete(f"{ADMIN}/nodes/beta")).json() == {"name": "beta"}
        assert node.gateway.asked == [("manage_cluster", "beta")]
        assert (await node.client.delete(f"{ADMIN}/nodes/beta")).status_code == 404


async def test_a_node_is_cordoned_and_labelled() -> None:
    async with serving() as node:
        change = {"cordoned": True, "labels": {"room": "cellar", "old": None}}
        changed = await node.client.patch(f"{ADMIN}/nodes/beta", json=change)
        assert changed.json()["state"] == "cordoned"
        assert changed.json()["labels"] == {"room": "cellar"}
        assert cluster_of(node).done == [("label", "beta", {"room": "cellar"}, ["old"]), ("cordon", "beta", True)]
        await node.client.patch(f"{ADMIN}/nodes/beta", json={"cordoned": False})
        assert cluster_of(node).done[2:] == [("cordon", "beta", False)]
        assert node.gateway.asked == [("manage_cluster", "beta")] * 2
        unchanged = await node.client.patch(f"{ADMIN}/nodes/beta", json={})
        assert (unchanged.status_code, unchanged.json()["name"]) == (200, "beta")
        assert len(cluster_of(node).done) == 3


async def test_tokens() -> None:
    async with serving() as node:
        made = await node.client.post(f"{ADMIN}/tokens", json={"ttl_ms": 60_000, "uses": 3})
        assert (made.status_code, made.json()["token"], made.json()["uses"]) == (201, SECRET, 3)
        by_default = await node.client.post(f"{ADMIN}/tokens")
        assert by_default.status_code == 201
        assert cluster_of(node).done == [("create_token", 60_000, 3), ("create_token", 3_600_000, 1)]
        listed = await node.client.get(f"{ADMIN}/tokens")
        assert [token["token_id"] for token in listed.json()["tokens"]] == ["t1"]
        assert "secret" not in listed.text
        assert (await node.client.delete(f"{ADMIN}/tokens/t1")).json() == {"token_id": "t1"}
        assert (await node.client.delete(f"{ADMIN}/tokens/t2")).status_code == 404
        assert ("manage_cluster", "t1") in node.gateway.asked


async def test_joining() -> None:
    async with serving() as node:
        joined = await node.client.post(f"{ADMIN}/cluster/join", json={"token": "T", "name": "box", "force": True})
        assert (joined.status_code, joined.json()["cluster"], joined.json()["node"]) == (200, "work", "box")
        await node.client.post(f"{ADMIN}/cluster/join", json={"token": "T"})
        assert cluster_of(node).done == [("join", "T", "box", True), ("join", "T", "", False)]
        assert node.gateway.asked == [("manage_cluster", "join")] * 2


async def test_the_whole_and_who_else_is_there() -> None:
    async with serving() as node:
        status = (await node.client.get(f"{ADMIN}/cluster")).json()
        assert (status["name"], status["holder_reachable"], status["nodes"]) == (
            "home",
            True,
            {"ready": 1, "suspect": 1},
        )
        found = (await node.client.get(f"{ADMIN}/discover?timeout_ms=50")).json()["clusters"]
        assert found[0]["addresses"] == ["10.0.0.1:11435"]
        assert cluster_of(node).done == [("discover", 50)]


@pytest.mark.parametrize(
    ("method", "path", "body", "part"),
    [
        ("POST", "/tokens", {"ttl_ms": 1}, "ttl_ms: "),
        ("POST", "/tokens", {"uses": 0}, "uses: "),
        ("POST", "/tokens", {"use": 1}, "use: "),
        ("POST", "/cluster/join", {}, "token: Field required"),
        ("POST", "/cluster/join", {"token": ""}, "token: "),
        ("POST", "/cluster/join", {"token": "sesame" * 1000}, "token: "),
        ("PATCH", "/nodes/beta", {"cordoned": "perhaps"}, "cordoned: "),
        ("PATCH", "/nodes/beta", {"labels": {"a": 1}}, "labels.a: "),
        ("PATCH", "/nodes/beta", {"labels": {str(n): "" for n in range(65)}}, "labels: "),
        ("GET", f"/nodes/{'x' * 65}", None, "name: "),
        ("GET", "/discover?timeout_ms=999999", None, "timeout_ms: "),
        ("GET", "/events?after=-1", None, "after: "),
    ],
)
async def test_what_makes_no_sense(method: str, path: str, body: Any, part: str) -> None:
    async with serving() as node:
        reply = await node.client.request(method, ADMIN + path, json=body)
        assert reply.status_code == 400
        assert part in reply.json()["error"]
        assert "sesame" not in reply.text
        assert cluster_of(node).done == []


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (StateUnavailable("the holder 'alpha' can't be reached: nothing can be changed now"), 503),
        (TokenRefused("the token has expired"), 403),
        (CertificateRefused("it is not whom the token means"), 403),
        (NodeConflict("the name is taken"), 409),
        (PeerUnavailable("nobody answers"), 502),
        (PeerTimeout("nobody answered in time"), 504),
    ],
)
async def test_refusals_have_the_usual_form(fault: OllamaMaxError, status: int) -> None:
    async with serving() as node:
        cluster_of(node).fault = fault
        reply = await node.client.post(f"{ADMIN}/cluster/join", json={"token": "T"})
        assert (reply.status_code, reply.json()) == (status, {"error": str(fault)})
        assert ("retry-after" in reply.headers) == (status == 503)


WRITES = [
    ("POST", "/tokens", {}),
    ("DELETE", "/tokens/t1", None),
    ("POST", "/cluster/join", {"token": "T"}),
    ("DELETE", "/nodes/beta", None),
    ("PATCH", "/nodes/beta", {"cordoned": True}),
]
READS = [("GET", path, None) for path in ("/nodes", "/nodes/beta", "/cluster", "/tokens", "/events", "/discover")]


@pytest.mark.parametrize(("method", "path", "body"), WRITES + READS)
async def test_who_may_not_is_refused_before_anything_is_done(method: str, path: str, body: Any) -> None:
    async with serving() as node:
        node.gateway.forbidden = {"manage_cluster" if method != "GET" else "read"}
        assert (await node.client.request(method, ADMIN + path, json=body)).status_code == 403
        assert cluster_of(node).done == []
        node.verifier.token = TOKEN
        assert (await node.client.request(method, ADMIN + path, json=body)).status_code == 401


@pytest.mark.parametrize(("method", "path", "body"), WRITES + READS)
async def test_a_node_that_stays_alone_says_so(method: str, path: str, body: Any) -> None:
    async with serving(alone=True) as node:
        reply = await node.client.request(method, ADMIN + path, json=body)
        assert reply.status_code == 409
        assert "stays alone" in reply.json()["error"]


async def test_events_are_told() -> None:
    async with serving() as node:
        told = await node.client.get(f"{ADMIN}/events")
        assert told.headers["content-type"].startswith("application/x-ndjson")
        assert [json.loads(line)["kind"] for line in told.text.splitlines()] == ["founded", "joined"]
        later = await node.client.get(f"{ADMIN}/events?after=1")
        assert [json.loads(line) for line in later.text.splitlines()] == [
            {"at_ns": 5, "kind": "joined", "node": "beta", "text": ""}
        ]


async def test_events_are_followed_until_the_node_stops() -> None:
    async with serving() as node, node.client.stream("GET", f"{ADMIN}/events?follow=true&after=1") as reply:
        assert reply.headers["content-type"] == "application/x-ndjson"
        assert reply.headers["x-request-id"]
        lines = reply.aiter_lines()
        assert await anext(lines) == ""
        assert json.loads(await anext(lines))["kind"] == "joined"
        cluster_of(node).news.put_nowait(ClusterEvent(at_ns=9, kind="gone", node="beta"))
        assert json.loads(await anext(lines))["kind"] == "gone"
        cluster_of(node).news.put_nowait(None)
        assert [line async for line in lines] == []
        assert cluster_of(node).followers == 0


async def test_silence_has_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_events, "_SIGN_OF_LIFE_S", 0.01)
    async with serving() as node, node.client.stream("GET", f"{ADMIN}/events?follow=true&after=5") as reply:
        lines = reply.aiter_lines()
        assert [await anext(lines) for _ in range(4)] == [""] * 4
        cluster_of(node).news.put_nowait(ClusterEvent(at_ns=9, kind="back"))
        while not (line := await anext(lines)):
            continue
        assert json.loads(line)["kind"] == "back"
        cluster_of(node).news.put_nowait(None)


async def test_a_follower_that_leaves_is_forgotten() -> None:
    async with serving() as node:
        reader, writer = await node.dial()
        writer.write(f"GET {ADMIN}/events?follow=true HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b"joined")
        assert cluster_of(node).followers == 1
        writer.close()
        while cluster_of(node).followers:
            await asyncio.sleep(0)
        assert (await node.client.get(f"{ADMIN}/events")).status_code == 200


async def test_a_fault_while_following_is_the_last_line() -> None:
    async with serving() as node, node.client.stream("GET", f"{ADMIN}/events?follow=true&after=5") as reply:
        cluster_of(node).news.put_nowait(PeerUnavailable("the node left this cluster"))
        lines = [line async for line in reply.aiter_lines() if line]
        assert [json.loads(line) for line in lines] == [{"error": "the node left this cluster"}]


async def test_openapi_knows_all_of_it() -> None:
    async with serving() as node:
        schema = (await node.client.get(f"{ADMIN}/openapi.json")).json()
        operations = {(method.upper(), path) for path, methods in schema["paths"].items() for method in methods}
        expected = {
            *[("GET", path) for path in ("/nodes", "/nodes/{name}", "/tokens", "/cluster", "/events", "/discover")],
            *[("DELETE", "/nodes/{name}"), ("PATCH", "/nodes/{name}"), ("DELETE", "/tokens/{token_id}")],
            *[("POST", "/tokens"), ("POST", "/cluster/join")],
        }
        assert expected <= operations
        assert all(operation.get("description") for one in schema["paths"].values() for operation in one.values())


async def test_readiness_goes_on_without_the_holder_and_says_so() -> None:
    async with serving() as node:
        assert (await node.client.get("/readyz")).json()["degraded"] == []
        lost = "the holder 'beta' can't be reached: nothing can be changed now"
        cluster_of(node).shown = replace(cluster_of(node).shown, degraded=(lost,), holder_reachable=False)
        reply = await node.client.get("/readyz")
        assert (reply.status_code, reply.json()["ready"], reply.json()["degraded"]) == (200, True, [lost])
    async with serving(alone=True) as node:
        assert (await node.client.get("/readyz")).json()["degraded"] == []


async def test_metrics_are_of_the_moment() -> None:
    async with serving() as node:
        await node.client.get("/metrics")
        assert node.meter.clusters == [cluster_of(node).shown]
        assert node.meter.queues == [node.gateway.load()]
    async with serving(alone=True) as node:
        assert (await node.client.get("/metrics")).status_code == 200
        assert node.meter.clusters == []
