"""The admin API of the cluster's state: steps as lines, refusals with a status, a copy as a file."""

import json

import pytest
from api_fakes import Node, serving
from fake_ha import FakeHa

from ollamamax.core.errors import Conflict, StateUnavailable

PATH = "/admin/v1/cluster/ha"


def ha_of(node: Node) -> FakeHa:
    assert node.ha is not None
    return node.ha


@pytest.mark.parametrize(
    ("method", "path", "body", "asked"),
    [
        ("POST", PATH, None, ("enable", 3, (), False)),
        ("POST", PATH, {"voters": 5, "nodes": ["a", "b"]}, ("enable", 5, ("a", "b"), False)),
        ("POST", PATH, {"external": True}, ("enable", 3, (), True)),
        ("DELETE", PATH, None, ("disable", "")),
        ("DELETE", f"{PATH}?node=n2", None, ("disable", "n2")),
        ("POST", f"{PATH}/replace", {"node": "n2"}, ("replace", "n2", "")),
        ("POST", f"{PATH}/replace", {"node": "n2", "by": "n4"}, ("replace", "n2", "n4")),
        ("POST", f"{PATH}/replace", {"node": "n2", "nobody": True}, ("replace", "n2", "-")),
    ],
)
async def test_steps_come_as_lines(method: str, path: str, body: object, asked: tuple[object, ...]) -> None:
    async with serving() as node:
        done = await node.client.request(method, path, json=body)
        assert [json.loads(line) for line in done.text.splitlines()] == [{"status": "looking"}, {"status": "success"}]
        assert ha_of(node).asked == [asked]
        assert node.gateway.asked[-1][0] == "manage_cluster"


async def test_what_fails_is_told() -> None:
    async with serving() as node:
        ha_of(node).error = StateUnavailable("n2 can't be reached")
        last = (await node.client.post(PATH, json={})).text.splitlines()[-1]
        assert json.loads(last) == {"error": "n2 can't be reached"}
        ha_of(node).early = Conflict("n2: no etcd")
        refused = await node.client.post(PATH, json={})
        assert (refused.status_code, refused.json()) == (409, {"error": "n2: no etcd"})
        for body in ({"voters": 8}, {"voters": 0}, {"voter": 3}):
            assert (await node.client.post(PATH, json=body)).status_code == 400
        assert (await node.client.post(f"{PATH}/replace", json={})).status_code == 400


async def test_how_it_is_and_a_copy() -> None:
    async with serving() as node:
        told = (await node.client.get(PATH)).json()
        assert (told["kind"], told["hosts"][0]["is_leader"]) == ("etcd", True)
        copied = await node.client.get("/admin/v1/cluster/backup")
        assert copied.content == b"ollamamax-state\n\xff"
        assert copied.headers["content-type"] == "application/octet-stream"
        ha_of(node).early = StateUnavailable("no majority")
        assert (await node.client.get("/admin/v1/cluster/backup")).status_code == 503


async def test_a_node_that_stays_alone_has_none() -> None:
    async with serving(alone=True) as node:
        assert (await node.client.get(PATH)).status_code == 409
