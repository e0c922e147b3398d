"""The public ASGI application: guards, paths without parameters by a dict, others by Starlette, the admin API."""

import logging
from typing import Final

import structlog
from msgspec.structs import replace
from starlette.routing import Mount, Route, Router
from starlette.types import Receive, Scope, Send

from ollamamax.api import account, anthropic_routes, inference, models, node, openai_routes, transcriptions, transfers
from ollamamax.api.admin import LazyAdmin
from ollamamax.api.call import TEXT, Call
from ollamamax.api.errors import anthropic_form, openai_form
from ollamamax.api.origins import OriginGuard
from ollamamax.api.ports import (
    ApiConfig,
    Cluster,
    Fleet,
    Gateway,
    Library,
    OwnSettings,
    Placements,
    Readiness,
    Services,
    SharedSettings,
    StateHa,
)
from ollamamax.api.resource import Resource
from ollamamax.core.dialects.framing import Stamp
from ollamamax.core.errors import OllamaMaxError
from ollamamax.ports import Clock, Dice, Meter, TokenVerifier
from ollamamax.services.patrol import Patrol

_REDIRECT_GET: Final = 301
_REDIRECT_OTHER: Final = 307
ADMIN_PATH: Final = "/admin/v1"
_ADMIN_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class App:
    """The application. One per listener."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._log = structlog.get_logger(__name__).bind()  # once: binding costs more than a line that is not written
        self._guard = _guard(services.config)
        self._exact = {resource.route: resource for resource in _resources()}
        self._router = Router(
            [
                Route("/api/blobs/{digest}", _BLOB),
                Route("/v1/models/{model:path}", _OPENAI_MODEL),
                Route("/api/user/keys/{key:path}", _ACCOUNT_KEY),
                Mount(ADMIN_PATH, Resource(ADMIN_PATH, dict.fromkeys(_ADMIN_METHODS, LazyAdmin().handle))),
            ],
            redirect_slashes=False,
            default=self._unknown,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        assert scope["type"] == "http", "the listener offers neither WebSockets nor lifespan"
        call = Call(scope, receive, send, self._services)
        verdict = self._guard.judge(call.method, call.header(b"host"), call.header(b"origin"))
        if verdict.headers:
            call.extra_headers += verdict.headers
        if verdict.status:
            await call.reply(verdict.status)
        elif (resource := self._exact.get(call.path)) is not None:
            await resource.answer(call)
        else:
            scope["call"] = call
            await self._router(scope, receive, send)
            del scope["call"]  # a cycle, which only the garbage collector would find
        if self._log.is_enabled_for(logging.DEBUG):
            self._tell(call)

    def _tell(self, call: Call) -> None:
        self._log.debug(
            "request",
            method=call.method,
            path=call.path,
            status=call.status,
            ms=round(call.elapsed_ns() / 1e6, 3),
            request_id=call.request_id,
        )

    def reconfigure(self, config: ApiConfig) -> None:
        """Another configuration, for requests that come from now on."""
        self._services = replace(self._services, config=config)
        self._guard = _guard(config)

    def abort_all(self, reason: OllamaMaxError) -> None:
        """End all answers that are being sent with that error."""
        for answer in tuple(self._services.live):
            answer.abort(reason)

    async def _unknown(self, scope: Scope, receive: Receive, send: Send) -> None:
        call: Call = scope["call"]
        path = call.path.rstrip("/")
        resource = self._exact.get(path)
        if resource is None or call.method not in resource.methods:
            await call.reply(404, b"404 page not found", TEXT)
            return
        query = scope["query_string"]
        location = path.encode() + (b"?" + query if query else b"")
        status = _REDIRECT_GET if call.method == "GET" else _REDIRECT_OTHER
        await call.reply(status, headers=[(b"location", location)])


def _guard(config: ApiConfig) -> OriginGuard:
    return OriginGuard(config.origins, config.loopback, config.local_hosts)


def create_app(
    *,
    gateway: Gateway,
    library: Library,
    fleet: Fleet,
    meter: Meter,
    clock: Clock,
    dice: Dice,
    verifier: TokenVerifier,
    readiness: Readiness,
    version: str,
    config: ApiConfig,
    settings: OwnSettings,
    cluster: Cluster | None = None,
    placements: Placements | None = None,
    shared: SharedSettings | None = None,
    ha: StateHa | None = None,
) -> App:
    """The application over its services. version: dotted numbers, as clients parse it.

    cluster, placements, shared, ha: None where the node stays alone.
    """
    return App(
        Services(
            gateway=gateway,
            library=library,
            fleet=fleet,
            meter=meter,
            clock=clock,
            dice=dice,
            verifier=verifier,
            readiness=readiness,
            cluster=cluster,
            placements=placements,
            version=version,
            config=config,
            settings=settings,
            shared=shared,
            ha=ha,
            stamp=Stamp(),
            started_ms=clock.now_ms(),
            live=set(),
            patrol=Patrol(),
        )
    )


_BLOB: Final = Resource("/api/blobs/:digest", {"HEAD": models.has_blob, "POST": models.put_blob})
_ACCOUNT_KEY: Final = Resource("/api/user/keys/:encodedKey", {"DELETE": account.signout})
_OPENAI_MODEL: Final = Resource("/v1/models/:model", {"GET": models.openai_model}, openai_form)


def _resources() -> list[Resource]:
    """All paths without parameters; the hot ones are the same lookup as the rest."""
    return [
        Resource("/api/chat", {"POST": inference.chat}, metered=True),
        Resource("/api/generate", {"POST": inference.generate}, metered=True),
        Resource("/v1/chat/completions", {"POST": inference.chat_completion}, openai_form, metered=True),
        Resource("/api/embed", {"POST": inference.embed}, metered=True),
        Resource("/api/embeddings", {"POST": inference.embed_one}, metered=True),
        Resource("/", {"GET": node.banner, "HEAD": node.banner}, public=True),
        Resource("/healthz", {"GET": node.healthy, "HEAD": node.healthy}, public=True),
        Resource("/readyz", {"GET": node.ready, "HEAD": node.ready}, public=True),
        Resource("/metrics", {"GET": node.metrics}),
        Resource("/api/version", {"GET": node.version, "HEAD": node.version}),
        Resource("/api/tags", {"GET": models.tags, "HEAD": models.tags}),
        Resource("/api/ps", {"GET": models.running}),
        Resource("/api/show", {"POST": models.show}),
        Resource("/api/copy", {"POST": models.copy}),
        Resource("/api/delete", {"DELETE": models.delete}),
        Resource("/api/create", {"POST": models.create}),
        Resource("/api/pull", {"POST": transfers.pull}),
        Resource("/api/push", {"POST": transfers.push}),
        *_account_resources(),
        Resource("/v1/models", {"GET": models.openai_models}, openai_form),
        Resource("/v1/completions", {"POST": openai_routes.completion}, openai_form, metered=True),
        Resource("/v1/embeddings", {"POST": openai_routes.embeddings}, openai_form, metered=True),
        Resource("/v1/responses", {"POST": openai_routes.response}, openai_form, metered=True),
        Resource("/v1/audio/transcriptions", {"POST": transcriptions.transcription}, openai_form, metered=True),
        Resource("/v1/messages", {"POST": anthropic_routes.messages}, anthropic_form, metered=True),
        Resource("/v1/messages/count_tokens", {"POST": anthropic_routes.count_tokens}, anthropic_form, metered=True),
    ]


def _account_resources() -> list[Resource]:
    """What ollama.com would answer."""
    return [
        Resource("/api/status", {"GET": account.status}),
        Resource("/api/me", {"POST": account.me}),
        Resource("/api/signout", {"POST": account.signout}),
        Resource("/api/experimental/web_search", {"POST": account.web_search}),
        Resource("/api/experimental/web_fetch", {"POST": account.web_fetch}),
        Resource("/api/experimental/model-recommendations", {"GET": account.recommendations}),
    ]
