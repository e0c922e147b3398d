"""A real listener on loopback over services whose every answer a test decides."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fake_cluster import FakeCluster
from fake_ha import FakeHa
from fake_placements import FakePlacements
from fake_settings import FakeOwnSettings, FakeShared

from ollamamax.adapters.network.sockets import listening
from ollamamax.api.app import App, create_app
from ollamamax.api.ports import ApiConfig
from ollamamax.api.readiness import NodeReadiness, Phase
from ollamamax.api.server import Listener, serve
from ollamamax.core.errors import EngineNotFound, Forbidden, ModelNotFound, Unauthenticated
from ollamamax.core.modelspec import names
from ollamamax.core.types import (
    AttachedEngine,
    ChatRequest,
    CreateRequest,
    EmbedRequest,
    EmbedResult,
    LoadedModel,
    ModelDetails,
    ModelRecord,
    Options,
    Principal,
    Progress,
    RequestContext,
    TransferRequest,
)
from ollamamax.ports import ChunkStream
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.engine import TwinEngine
from ollamamax.testing.meter import MemoryMeter

TOKEN = "Bearer right"
DIGEST = "sha256:" + "ab" * 32
TINY = ModelRecord("tiny:latest", "d" * 64, 5, 1_767_323_045_000_000_000, ModelDetails(family="llama"))
OTHER = ModelRecord("someone/other:v1", "e" * 64, 6, 1_767_323_046_000_000_000, ModelDetails())
LIMIT_S = 10.0


class FakeGateway:
    """Has one engine, the twin. known: keys of the models it has.  forbidden: actions that it refuses."""

    def __init__(self) -> None:
        self.engine = TwinEngine()
        self.known = {TINY.name}
        self.forbidden: set[str] = set()
        self.contexts: list[RequestContext] = []
        self.asked: list[tuple[str, str]] = []

    def authorize(self, context: RequestContext, action: str, subject: str) -> None:
        self.asked.append((action, subject))
        if action in self.forbidden:
            raise Forbidden(f"'{context.principal.name}' may not {action}")

    async def chat(self, context: RequestContext, request: ChatRequest) -> ChunkStream:
        self._check(context, request.model)
        async for chunks in self.engine.generate(request, request.model):
            yield chunks

    async def embed(self, context: RequestContext, request: EmbedRequest) -> EmbedResult:
        self._check(context, request.model)
        return await self.engine.embed(request, request.model)

    def _check(self, context: RequestContext, model: str) -> None:
        self.contexts.append(context)
        self.authorize(context, "infer", model)
        if names.key(model) not in self.known:
            raise ModelNotFound(f"no engine has {model}")

    def load(self) -> tuple[int, int]:
        return 2, 3

    def explain(self, model: str) -> Any:
        if names.key(model) not in self.known:
            raise ModelNotFound(f"model '{model}' not found")
        return {"ranked": [{"engine_id": "local"}]}


class FakeLibrary:
    """Has `tiny`. steps: what create, pull and push do: an exception is raised in its place.

    fault: raised by put_blob.
    """

    def __init__(self) -> None:
        self.names = {TINY.name}
        self.blobs: dict[str, bytes] = {}
        self.steps: list[Progress | Exception] = [Progress("parsing GGUF"), Progress("success")]
        self.created: list[CreateRequest] = []
        self.transfers: list[tuple[str, TransferRequest]] = []
        self.fault: Exception | None = None
        self.shows: list[tuple[str, bool, str | None, Options | None]] = []

    async def show(
        self, model: str, verbose: bool = False, system: str | None = None, options: Options | None = None
    ) -> dict[str, Any]:
        self.shows.append((model, verbose, system, options))
        self._find(model)
        return {"modelfile": "# x", "details": {}, "model_info": {"general.architecture": "llama"}, "capabilities": []}

    def create(self, request: CreateRequest) -> AsyncGenerator[Progress, None]:
        self.created.append(request)
        return self._work()

    def pull(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        self.transfers.append(("pull", request))
        return self._work()

    def push(self, request: TransferRequest) -> AsyncGenerator[Progress, None]:
        self.transfers.append(("push", request))
        return self._work()

    async def _work(self) -> AsyncGenerator[Progress, None]:
        for step in self.steps:
            if isinstance(step, Exception):
                raise step
            yield step

    async def copy(self, source: str, destination: str) -> None:
        self._find(source)
        self.names.add(names.key(destination))

    async def delete(self, model: str) -> None:
        self.names.remove(self._find(model))

    async def has_blob(self, digest: str) -> bool:
        return digest in self.blobs

    async def put_blob(self, digest: str, body: AsyncIterator[bytes]) -> bool:
        if self.fault is not None:
            raise self.fault
        if digest in self.blobs:
            return False
        self.blobs[digest] = b"".join([piece async for piece in body])
        return True

    def _find(self, model: str) -> str:
        key = names.parse(model).key
        if key not in self.names:
            raise ModelNotFound(f"not in the store: {model}")
        return key


class FakeFleet:
    """Lists `rows`. changes: how often it heard that the store changed."""

    def __init__(self) -> None:
        self.rows = [TINY, OTHER]
        self.loaded = [LoadedModel(TINY.name, TINY.digest, 5, 0, 4096, 1_767_323_045_000_000_000, ModelDetails())]
        self.attached: dict[str, AttachedEngine] = {}
        self.changes = 0
        self.described: dict[str, dict[str, Any]] = {}
        self.fault: Exception | None = None

    async def records(self) -> list[ModelRecord]:
        if self.fault is not None:
            raise self.fault
        return self.rows

    async def running(self) -> list[LoadedModel]:
        return self.loaded

    async def describe(self, model: str) -> dict[str, Any] | None:
        return self.described.get(model)

    async def local_changed(self) -> None:
        self.changes += 1

    async def add(self, engine: AttachedEngine) -> None:
        self.attached[engine.name] = engine

    async def remove(self, name: str) -> None:
        if name not in self.attached:
            raise EngineNotFound(f"no engine is attached as '{name}'")
        del self.attached[name]

    def statuses(self) -> list[Any]:
        return [{"name": one.name, "url": one.url, "breaker": "closed"} for one in self.attached.values()]


class FakeVerifier:
    """Anonymous unless `token` is set."""

    token = ""

    async def verify(self, authorization: str | None) -> Principal:
        if self.token and authorization != self.token:
            raise Unauthenticated("credentials are missing or wrong")
        return Principal("someone")


class Node:
    """The services, the application over them, and its listener once it is served."""

    def __init__(self, config: ApiConfig, alone: bool = False) -> None:
        self.cluster = None if alone else FakeCluster()
        self.shared = None if alone else FakeShared()
        self.ha = None if alone else FakeHa()
        self.placements = None if alone else FakePlacements()
        self.gateway = FakeGateway()
        self.library = FakeLibrary()
        self.fleet = FakeFleet()
        self.meter = MemoryMeter()
        self.clock = FakeClock()
        self.verifier = FakeVerifier()
        self.store_error: Exception | None = None
        self.readiness = NodeReadiness(self._probe)
        self.readiness.phase = Phase.SERVING
        self.app: App = create_app(
            gateway=self.gateway,
            library=self.library,
            fleet=self.fleet,
            meter=self.meter,
            clock=self.clock,
            dice=SeededDice(1),
            verifier=self.verifier,
            readiness=self.readiness,
            version="0.9.1",
            config=config,
            cluster=self.cluster,
            settings=FakeOwnSettings(),
            shared=self.shared,
            ha=self.ha,
            placements=self.placements,
        )
        self.listener: Listener
        self.client: httpx.AsyncClient

    @property
    def engine(self) -> TwinEngine:
        return self.gateway.engine

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.port}"

    async def _probe(self) -> None:
        if self.store_error is not None:
            raise self.store_error

    async def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(path, content=content, **more)

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.listener.port)


@asynccontextmanager
async def serving(alone: bool = False, **config: Any) -> AsyncIterator[Node]:
    """A node that listens. alone: without a cluster. Everything in it is bounded by LIMIT_S."""
    node = Node(ApiConfig(**config), alone)
    async with asyncio.timeout(LIMIT_S):
        node.listener = await serve(node.app, await listening("127.0.0.1", 0, "--host"))
        try:
            async with httpx.AsyncClient(base_url=node.url, trust_env=False, timeout=LIMIT_S) as node.client:
                yield node
        finally:
            await node.listener.close(0)


def http(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    """A request as bytes. A header of the same name replaces the usual one."""
    usual = {"Host": "127.0.0.1", "Content-Length": str(len(body))}
    for header in headers:
        name, _, value = header.partition(": ")
        usual[name] = value
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in usual.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def ask(text: str = "hi", **more: Any) -> dict[str, Any]:
    """A chat request."""
    return {"model": "tiny", "messages": [{"role": "user", "content": text}], **more}
