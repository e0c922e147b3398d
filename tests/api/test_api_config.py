"""The admin API of settings."""

import msgspec
import pytest
from api_fakes import serving
from fake_settings import CHANGE, OWN

from ollamamax.core.errors import BadRequest, NotFound, OllamaMaxError, StateUnavailable

CONFIG = "/admin/v1/config"


def as_json(value: object) -> object:
    return msgspec.json.decode(msgspec.json.encode(value))


async def test_what_holds_on_a_node() -> None:
    async with serving() as node:
        assert (await node.client.get(CONFIG)).json() == as_json(OWN)
        assert (await node.client.get(CONFIG, params={"node": "beta"})).json()["node"] == "beta"
        lost = await node.client.get(CONFIG, params={"node": "gamma"})
        assert (lost.status_code, lost.json()) == (404, {"error": "no node 'gamma' is in the cluster"})


async def test_a_change_tells_what_came_of_it() -> None:
    async with serving() as node:
        reply = await node.client.put(f"{CONFIG}/log.level", json={"value": "debug"})
        assert (reply.status_code, reply.json()) == (200, as_json(CHANGE))
        await node.client.put(f"{CONFIG}/log.level", json={"value": "", "node": "beta"})
        await node.client.delete(f"{CONFIG}/log.level")
        await node.client.delete(f"{CONFIG}/log.level", params={"node": "beta"})
        await node.client.post(f"{CONFIG}/rollback", json={"version": 0})
        assert node.shared is not None
        assert node.shared.done == [
            ("change", {"log.level": "debug"}, [], "", "someone"),
            ("change", {"log.level": ""}, [], "beta", "someone"),
            ("change", {}, ["log.level"], "", "someone"),
            ("change", {}, ["log.level"], "beta", "someone"),
            ("rollback", 0, "someone"),
        ]
        assert node.gateway.asked == [("manage_cluster", "log.level")] * 4 + [("manage_cluster", "rollback")]


async def test_versions() -> None:
    async with serving() as node:
        versions = (await node.client.get(f"{CONFIG}/history")).json()["versions"]
        assert [(one["version"], one["by"], one["values"]) for one in versions] == [
            (1, "someone", {"log.level": "debug"})
        ]
        difference = (await node.client.get(f"{CONFIG}/diff", params={"before": 0})).json()
        assert difference == {
            "before": 0,
            "after": 1,
            "changes": [{"key": "log.level", "node": "", "before": None, "after": "debug"}],
        }
        assert node.shared is not None
        assert node.shared.done == [("difference", 0, None)]


@pytest.mark.parametrize(
    ("fault", "status"), [(BadRequest("no"), 400), (NotFound("no"), 404), (StateUnavailable("no"), 503)]
)
async def test_a_refusal_says_why(fault: OllamaMaxError, status: int) -> None:
    async with serving() as node:
        assert node.shared is not None
        node.shared.fault = fault
        for reply in (
            await node.client.put(f"{CONFIG}/x", json={"value": "1"}),
            await node.client.delete(f"{CONFIG}/x"),
            await node.client.post(f"{CONFIG}/rollback", json={"version": 1}),
        ):
            assert (reply.status_code, reply.json()) == (status, {"error": "no"})


@pytest.mark.parametrize("body", [{}, {"value": 7}, {"value": "1", "more": 1}, {"value": "x" * 1025}, []])
async def test_a_body_that_is_none(body: object) -> None:
    async with serving() as node:
        reply = await node.client.put(f"{CONFIG}/log.level", json=body)
        assert reply.status_code == 400
        assert "error" in reply.json()
        assert node.shared is not None
        assert node.shared.done == []


async def test_who_may_not_does_not() -> None:
    async with serving() as node:
        node.gateway.forbidden = {"manage_cluster"}
        assert (await node.client.put(f"{CONFIG}/log.level", json={"value": "debug"})).status_code == 403
        assert (await node.client.get(CONFIG)).status_code == 200


async def test_a_node_alone_shows_its_settings_and_shares_none() -> None:
    async with serving(alone=True) as node:
        assert (await node.client.get(CONFIG)).status_code == 200
        for reply in (
            await node.client.get(CONFIG, params={"node": "beta"}),
            await node.client.get(f"{CONFIG}/history"),
            await node.client.put(f"{CONFIG}/log.level", json={"value": "debug"}),
        ):
            assert reply.status_code == 409
            assert "--peer-listen" in reply.json()["error"]
