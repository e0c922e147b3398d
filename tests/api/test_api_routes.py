"""Everything that is not inference: lists, changes, blobs, guards, odd paths, the admin API."""

import json
from typing import Any

import httpx
import pytest
from api_fakes import DIGEST, TOKEN, ask, serving

from ollamamax.api.readiness import NodeReadiness, Phase
from ollamamax.core.errors import DigestMismatch, DiskFull, StoreReadOnly, TemplateError
from ollamamax.core.types import CreateRequest, EngineKind, Options, Progress


async def test_the_banner_and_the_version() -> None:
    async with serving() as node:
        told = '{"version":"0.33.0","ollamamax":"0.9.1"}'
        for path, body in (("/", "Ollama is running"), ("/api/version", told)):
            reply = await node.client.get(path)
            assert (reply.status_code, reply.text) == (200, body)
            head = await node.client.head(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(body))


async def test_lists() -> None:
    async with serving() as node:
        assert [row["model"] for row in (await node.client.get("/api/tags")).json()["models"]] == [
            "someone/other:v1",
            "tiny:latest",
        ]
        assert (await node.client.head("/api/tags")).status_code == 200
        assert (await node.client.get("/api/ps")).json()["models"][0]["name"] == "tiny:latest"
        listed = (await node.client.get("/v1/models")).json()
        assert [row["owned_by"] for row in listed["data"]] == ["someone", "library"]
        assert ("read", "") in node.gateway.asked


@pytest.mark.parametrize("model", ["tiny", "TINY:latest", "someone/other:v1", "registry.ollama.ai/library/tiny"])
async def test_one_model_of_openai(model: str) -> None:
    async with serving() as node:
        reply = await node.client.get(f"/v1/models/{model}")
        assert (reply.status_code, reply.json()["id"]) == (200, model)


@pytest.mark.parametrize(
    ("model", "status", "text"), [("nobody", 404, "model 'nobody' not found"), ("a b", 400, "invalid model name")]
)
async def test_no_model_of_openai(model: str, status: int, text: str) -> None:
    async with serving() as node:
        reply = await node.client.get(f"/v1/models/{model}")
        assert (reply.status_code, reply.json()["error"]["message"]) == (status, text)


async def test_show() -> None:
    async with serving() as node:
        reply = await node.post(
            "/api/show", {"name": "tiny", "verbose": True, "system": "s", "options": {"num_ctx": 8}}
        )
        assert reply.json()["model_info"] == {"general.architecture": "llama"}
        assert node.library.shows == [("tiny", True, "s", Options(num_ctx=8))]
        copilot = await node.post("/api/show", {"model": "Tiny"}, headers={"User-Agent": "GitHubCopilotChat/1"})
        assert copilot.json()["model_info"]["general.basename"] == "Tiny"
        node.fleet.described["remote/Model 3"] = {"details": {"family": "x"}}
        assert (await node.post("/api/show", {"model": "remote/Model 3"})).json() == {"details": {"family": "x"}}


async def test_copy_and_delete() -> None:
    async with serving() as node:
        copied = await node.post("/api/copy", {"source": "tiny", "destination": "new"})
        assert (copied.status_code, copied.content) == (200, b"")
        assert "new:latest" in node.library.names
        deleted = await node.client.request("DELETE", "/api/delete", content=b'{"name": "new"}')
        assert (deleted.status_code, deleted.content) == (200, b"")
        assert "new:latest" not in node.library.names
        assert node.fleet.changes == 2
        assert node.gateway.asked == [("manage_models", "new"), ("manage_models", "new")]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("POST", "/api/show", {}, 400, "model is required"),
        ("POST", "/api/show", {"model": "a b"}, 400, "invalid model name"),
        ("POST", "/api/show", {"model": "nobody"}, 404, "model 'nobody:latest' not found"),
        ("POST", "/api/show", None, 400, "missing request body"),
        ("DELETE", "/api/delete", {}, 400, "model is required"),
        ("DELETE", "/api/delete", {"model": "../x"}, 400, 'name "../x" is invalid'),
        ("DELETE", "/api/delete", {"model": "nobody"}, 404, "model 'nobody' not found"),
        ("DELETE", "/api/delete", None, 400, "missing request body"),
        ("POST", "/api/copy", {"source": "", "destination": "b"}, 400, 'source "" is invalid'),
        ("POST", "/api/copy", {"source": "a", "destination": "b c"}, 400, 'destination "b c" is invalid'),
        ("POST", "/api/copy", {"source": "nobody", "destination": "b"}, 404, 'model "nobody" not found'),
        ("POST", "/api/create", {}, 400, "invalid model name"),
        ("POST", "/api/create", {"model": "a b"}, 400, "invalid model name"),
        ("POST", "/api/create", {"model": "m", "files": {"../x": DIGEST}}, 400, "file path must be relative"),
        ("POST", "/api/blobs/sha256:12", None, 400, "invalid digest format"),
    ],
)
async def test_bad_requests(method: str, path: str, body: Any, status: int, text: str) -> None:
    async with serving() as node:
        content = b"" if body is None else json.dumps(body).encode()
        reply = await node.client.request(method, path, content=content)
        assert (reply.status_code, reply.json()) == (status, {"error": text})
        assert node.fleet.changes == 0


async def test_create_streams_its_steps() -> None:
    async with serving() as node:
        node.library.steps = [Progress("using existing layer", DIGEST, 9, 9), Progress("success")]
        reply = await node.post("/api/create", {"model": "new", "from": "tiny"})
        assert reply.headers["content-type"] == "application/x-ndjson"
        assert [json.loads(line) for line in reply.text.splitlines()] == [
            {"status": "using existing layer", "digest": DIGEST, "total": 9, "completed": 9},
            {"status": "success"},
        ]
        assert node.library.created == [CreateRequest(model="new", from_model="tiny")]
        assert node.fleet.changes == 1


async def test_create_at_once() -> None:
    async with serving() as node:
        reply = await node.post("/api/create", {"model": "new", "from": "tiny", "stream": False})
        assert (reply.status_code, reply.json()) == (200, {"status": "success"})


async def test_create_that_fails() -> None:
    async with serving() as node:
        node.library.steps = [Progress("parsing GGUF"), DiskFull("no space is left")]
        *_, last = (await node.post("/api/create", {"model": "new"})).text.splitlines()
        assert json.loads(last) == {"error": "no space is left"}
        assert (await node.post("/api/create", {"model": "new", "stream": False})).status_code == 507
        node.library.steps = [TemplateError("unexpected {{end}}")]
        reply = await node.post("/api/create", {"model": "new"})
        assert (reply.status_code, reply.json()) == (400, {"error": "template error: unexpected {{end}}"})
        assert node.fleet.changes == 0


async def test_blobs() -> None:
    async with serving(max_body_bytes=10) as node:
        path = f"/api/blobs/{DIGEST.replace(':', '-').replace('ab', 'AB')}"
        assert (await node.client.head(path)).status_code == 404
        data = b"x" * 300_000
        assert (await node.post(path, data)).status_code == 201
        assert node.library.blobs == {DIGEST: data}
        assert (await node.client.head(path)).status_code == 200
        assert (await node.post(path, data)).status_code == 200
        assert (await node.client.head("/api/blobs/sha256:12")).status_code == 400
        node.library.fault = DigestMismatch('digest mismatch, expected "a", got "b"')
        reply = await node.post(path, data)
        assert (reply.status_code, reply.json()) == (400, {"error": 'digest mismatch, expected "a", got "b"'})


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/api/chat", "POST"),
        ("POST", "/api/tags", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
        ("HEAD", "/api/ps", "GET"),
        ("GET", f"/api/blobs/{DIGEST}", "HEAD, POST"),
        ("POST", "/v1/models/x", "GET"),
    ],
)
async def test_wrong_methods(method: str, path: str, allow: str) -> None:
    async with serving() as node:
        reply = await node.client.request(method, path)
        assert (reply.status_code, reply.headers["allow"]) == (405, allow)
        assert reply.text == ("" if method == "HEAD" else "405 method not allowed")
        assert reply.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/nothing"),
        ("GET", "/API/tags"),
        ("POST", "/api/tags/"),
        ("GET", "/api/../etc"),
        ("GET", "/admin/v1"),
    ],
)
async def test_unknown_paths(method: str, path: str) -> None:
    async with serving() as node:
        reply = await node.client.request(method, path)
        assert (reply.status_code, reply.text) == (404, "404 page not found")


async def test_trailing_slashes_are_redirected() -> None:
    async with serving() as node:
        reply = await node.client.get("/api/tags/?a=b")
        assert (reply.status_code, reply.headers["location"]) == (301, "/api/tags?a=b")
        reply = await node.post("/api/chat/", ask())
        assert (reply.status_code, reply.headers["location"]) == (307, "/api/chat")


async def test_origins() -> None:
    async with serving(origins=("https://ours.example",)) as node:
        reply = await node.client.get("/api/version", headers={"Origin": "https://ours.example"})
        assert reply.headers["access-control-allow-origin"] == "https://ours.example"
        assert reply.headers["vary"] == "Origin"
        reply = await node.post("/api/chat", ask(), headers={"Origin": "http://localhost:3000"})
        assert reply.headers["access-control-allow-origin"] == "http://localhost:3000"
        reply = await node.post("/api/chat", ask(), headers={"Origin": "https://evil.example"})
        assert (reply.status_code, reply.content) == (403, b"")
        reply = await node.client.options("/api/chat", headers={"Origin": "app://x"})
        assert reply.status_code == 204
        assert reply.headers["access-control-max-age"] == "43200"


async def test_hosts() -> None:
    async with serving(local_hosts=frozenset({"box"})) as node:
        for host, status in (("box:1", 200), ("evil.example", 403), ("evil.example", 403), ("a.local", 200)):
            assert (await node.client.get("/", headers={"Host": host})).status_code == status
        assert (await node.client.options("/api/chat", headers={"Host": "localhost"})).status_code == 204
    async with serving(loopback=False) as node:
        assert (await node.client.get("/", headers={"Host": "evil.example"})).status_code == 200


async def test_request_ids_and_traces_travel() -> None:
    async with serving() as node:
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        reply = await node.post("/api/chat", ask(), headers={"X-Request-Id": "mine-1", "traceparent": trace})
        assert reply.headers["x-request-id"] == "mine-1"
        await node.post(
            "/api/chat", ask(), headers={"X-Request-Id": "no good", "traceparent": trace.replace("4bf9", "xxxx")}
        )
        await node.post("/api/chat", ask(), headers={"traceparent": "ff" + trace[2:]})
        first, second, third = node.gateway.contexts
        assert (first.request_id, first.traceparent) == ("mine-1", trace)
        assert second.request_id != third.request_id
        assert len(second.request_id) == 16
        assert (second.traceparent, third.traceparent) == ("", "")


async def test_credentials() -> None:
    async with serving() as node:
        node.verifier.token = TOKEN
        for path in ("/", "/healthz", "/readyz"):
            assert (await node.client.get(path)).status_code == 200
        for path in ("/api/tags", "/api/version", "/metrics", "/admin/v1/status", "/v1/models"):
            reply = await node.client.get(path)
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
            assert (await node.client.get(path, headers={"Authorization": TOKEN})).status_code == 200
        assert (await node.post("/v1/chat/completions", ask())).json()["error"]["type"] == "api_error"
        assert node.meter.outcomes[-1].error_code == "unauthenticated"


async def test_health_and_readiness() -> None:
    async with serving() as node:
        assert (await node.client.get("/healthz")).text == "ok"
        said = (await node.client.get("/readyz")).json()
        assert said == {"ready": True, "reasons": [], "degraded": [], "engines": []}
        node.readiness.phase = Phase.DRAINING
        node.store_error = StoreReadOnly("it is read-only")
        reply = await node.client.get("/readyz")
        assert reply.status_code == 503
        assert reply.json()["reasons"] == ["the node is stopping", "the model store can't be used: it is read-only"]
        assert (await node.client.get("/healthz")).status_code == 200
        assert (await node.client.get("/metrics")).status_code == 200


async def test_a_store_that_hangs_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setattr("ollamamax.api.readiness._PROBE_S", 0.01)
    readiness = NodeReadiness(asyncio.Event().wait)
    assert await readiness.reasons() == ["the node is starting", "the model store does not answer"]


async def test_admin_engines() -> None:
    async with serving() as node:
        engine = {"name": "box", "kind": "openai", "url": "http://10.0.0.2/v1", "api_key": "secret", "slots": 2}
        added = await node.client.post("/admin/v1/engines", json=engine)
        assert added.status_code == 201
        assert "secret" not in added.text
        assert node.fleet.attached["box"].kind is EngineKind.OPENAI
        assert node.fleet.attached["box"].api_key == "secret"
        listed = (await node.client.get("/admin/v1/engines")).json()
        assert listed == {"engines": [{"name": "box", "url": "http://10.0.0.2/v1", "breaker": "closed"}]}
        assert (await node.client.delete("/admin/v1/engines/box")).json() == {"name": "box"}
        gone = await node.client.delete("/admin/v1/engines/b%2Fox")
        assert (gone.status_code, gone.json()) == (404, {"error": "no engine is attached as 'b/ox'"})
        node.gateway.forbidden = {"manage_engines"}
        assert (await node.client.post("/admin/v1/engines", json=engine)).status_code == 403


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"name": "a b", "kind": "ollama", "url": "x"}, "name: "),
        ({"name": "a", "kind": "llamacpp", "url": "x"}, "kind: "),
        ({"name": "a", "kind": "ollama"}, "url: Field required"),
        ({"name": "a", "kind": "ollama", "url": "x", "slot": 1}, "slot: "),
        (1, "body: "),
    ],
)
async def test_admin_refuses_bad_engines(body: Any, part: str) -> None:
    async with serving() as node:
        reply = await node.client.post("/admin/v1/engines", json=body)
        assert reply.status_code == 400
        assert part in reply.json()["error"]
        assert node.fleet.attached == {}


async def test_admin_facts() -> None:
    async with serving() as node:
        node.clock.advance(1500)
        status = (await node.client.get("/admin/v1/status")).json()
        assert status["version"] == "0.9.1"
        assert status["uptime_s"] == 1.5
        assert status["queue"] == {"waiting": 2, "running": 3}
        assert status["loaded"][0]["name"] == "tiny:latest"
        route = await node.client.get("/admin/v1/route", params={"model": "tiny"})
        assert route.json() == {"ranked": [{"engine_id": "local"}]}
        nobody = await node.client.get("/admin/v1/route?model=nobody", headers={"Origin": "http://localhost"})
        assert (nobody.status_code, nobody.json()) == (404, {"error": "model 'nobody' not found"})
        assert nobody.headers["access-control-allow-origin"] == "http://localhost"
        assert nobody.headers["x-request-id"]


async def test_admin_docs_need_nothing_from_elsewhere() -> None:
    async with serving() as node:
        page = (await node.client.get("/admin/v1/docs")).text
        assert "POST /admin/v1/engines" in page
        assert "<script" not in page
        assert "http" not in page.replace("http://10.0.0.2:11434", "").replace("https://host/v1", "")
        schema = (await node.client.get("/admin/v1/openapi.json")).json()
        assert "/engines" in schema["paths"]


async def test_admin_odd_paths_and_failures() -> None:
    async with serving() as node:
        assert (await node.client.get("/admin/v1/nothing")).json() == {"error": "Not Found"}
        reply = await node.client.put("/admin/v1/engines")
        assert reply.status_code == 405
        node.gateway.explain = lambda _: 1 / 0  # type: ignore[assignment, method-assign]
        reply = await node.client.get("/admin/v1/route?model=tiny")
        assert reply.status_code == 500
        assert "internal error" in reply.text
        node.fleet.fault = ZeroDivisionError("secret")
        reply = await node.client.get("/api/tags")
        assert reply.status_code == 500
        assert "secret" not in reply.text


async def test_web_sockets_are_refused() -> None:
    async with serving() as node:
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        reply: httpx.Response = await node.client.get("/api/nothing", headers=upgrade)
        assert reply.status_code == 404
