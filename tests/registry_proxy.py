"""What stands between a client and a registry, and makes trouble: a reverse proxy on loopback that cuts, delays,
corrupts, redirects, refuses, and asks for a token.

    async with RegistryProxy(port) as proxy:
        name = f"{proxy.host}/me/model"

Knobs and records are plain attributes; `await proxy.until(lambda: proxy.served > 5)` waits for a change (bound it with
`asyncio.timeout`).
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web

TOKEN = "the-token"
_PIECE_BYTES = 1 << 16
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade"}
_DIRECT = "/direct"


class RegistryProxy:
    """upstream_port: of the registry behind it.

    Knobs, all of them for blobs that are read unless they say otherwise: cuts: after how many bytes of the next replies
    the connection breaks.  stalls: the same, but it falls silent.  bytes_per_s: of each reply.  corrupt: flips a bit.
    elsewhere: redirects to another host name, and parts of uploads likewise.  ranged: False ignores ranges.
    refusals: (status, headers) of the next requests of any kind.  asks_token: for any request.  realm: where to get it.
    no_token: the status by which it is refused there.
    Records: requests (method, path, headers).  served: bytes of blobs sent.  by_path: the same for each path.
    direct: headers of what came to the other host name.  token_requests: (query, headers).
    """

    def __init__(self, upstream_port: int) -> None:
        self.upstream = f"http://127.0.0.1:{upstream_port}"
        self.cuts: deque[int] = deque()
        self.stalls: deque[int] = deque()
        self.bytes_per_s = 0
        self.corrupt = False
        self.elsewhere = False
        self.ranged = True
        self.refusals: deque[tuple[int, dict[str, str]]] = deque()
        self.asks_token = False
        self.realm = ""
        self.no_token = 0
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.served = 0
        self.by_path: Counter[str] = Counter()
        self.direct: list[dict[str, str]] = []
        self.token_requests: list[tuple[list[tuple[str, str]], dict[str, str]]] = []
        self.port = 0
        self.puts: dict[str, bytes] = {}
        self._changed = asyncio.Condition()
        self._session: aiohttp.ClientSession
        app = web.Application(client_max_size=1 << 40)
        app.router.add_get("/token", self._token)
        app.router.add_route("*", _DIRECT + "/{path:.*}", self._serve_direct)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)

    @property
    def host(self) -> str:
        """As it stands in a model's name."""
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout())
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.realm = f"http://{self.host}/token"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns once it holds."""
        async with self._changed:
            await self._changed.wait_for(holds)

    def asked(self, method: str, part: str) -> int:
        """How many requests of that method had this in their path."""
        return sum(1 for each, path, _ in self.requests if each == method and part in path)

    async def _token(self, request: web.Request) -> web.Response:
        self.token_requests.append((list(request.query.items()), dict(request.headers)))
        if self.no_token:
            return web.Response(status=self.no_token, text="no")
        return web.json_response({"token": TOKEN})

    async def _serve_direct(self, request: web.Request) -> web.StreamResponse:
        """The other host name: what a store of objects behind a registry is."""
        self.direct.append(dict(request.headers))
        if request.method == "PUT":
            self.puts[request.path_qs] = await request.read()
            return web.Response(status=200)
        return await self._forward(request, request.path_qs.removeprefix(_DIRECT))

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs, dict(request.headers)))
        if self.refusals:
            status, headers = self.refusals.popleft()
            return web.Response(status=status, headers=headers, text=f"refused with {status}")
        if self.asks_token and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            scope = "repository:" + request.path.removeprefix("/v2/").split("/manifests/")[0].split("/blobs/")[0]
            asked = f'Bearer realm="{self.realm}",service="the service",scope="{scope}:pull {scope}:push"'
            return web.Response(status=401, headers={"WWW-Authenticate": asked})
        if self.elsewhere and request.method == "GET" and "/blobs/sha256:" in request.path:
            return web.Response(status=307, headers={"Location": self._other(request.path_qs)})
        if self.elsewhere and request.method == "PATCH":
            part = f"/part/{request.headers['Content-Range']}"
            own = f"http://{request.host}{request.path_qs}"
            return web.Response(status=307, headers={"Location": self._other(part), "Docker-Upload-Location": own})
        return await self._forward(request, request.path_qs)

    def _other(self, path: str) -> str:
        return f"http://localhost:{self.port}{_DIRECT}{path}"

    async def _forward(self, request: web.Request, path: str) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        if not self.ranged:
            headers.pop("Range", None)
        body = request.content.iter_any() if request.body_exists else None
        async with self._session.request(
            request.method, self.upstream + path, headers=headers, data=body, allow_redirects=False
        ) as reply:
            kept = {name: value for name, value in reply.headers.items() if name.lower() not in _HOP_BY_HOP}
            response = web.StreamResponse(status=reply.status, headers=kept)
            if request.method == "HEAD":
                await response.prepare(request)
                return response
            response.enable_chunked_encoding() if "Content-Length" not in kept else None
            await response.prepare(request)
            is_blob = request.method == "GET" and "/blobs/sha256:" in path and reply.status < 300
            await self._pass_on(request, reply, response, path, is_blob)
            return response

    async def _pass_on(
        self,
        request: web.Request,
        reply: aiohttp.ClientResponse,
        response: web.StreamResponse,
        path: str,
        is_blob: bool,
    ) -> None:
        cut = self.cuts.popleft() if is_blob and self.cuts else None
        stall = self.stalls.popleft() if is_blob and self.stalls else None
        sent = 0
        async for piece in reply.content.iter_chunked(_PIECE_BYTES):
            limit = next((limit for limit in (cut, stall) if limit is not None), None)
            if limit is not None and sent + len(piece) > limit:
                piece = piece[: limit - sent]
            if is_blob and self.corrupt:
                piece = bytes([piece[0] ^ 1]) + piece[1:] if piece else piece
            await response.write(piece)
            sent += len(piece)
            if is_blob:
                await self._tell(path, len(piece))
            if limit is not None and sent >= limit:
                assert request.transport is not None
                if stall is not None:
                    await asyncio.Event().wait()
                request.transport.abort()
                return
            if is_blob and self.bytes_per_s:
                await asyncio.sleep(len(piece) / self.bytes_per_s)
        await response.write_eof()

    async def _tell(self, path: str, count: int) -> None:
        async with self._changed:
            self.served += count
            self.by_path[path] += count
            self._changed.notify_all()
