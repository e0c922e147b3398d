"""A path of the API: its methods, who may call it, and what becomes of errors."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog
from starlette.types import Receive, Scope, Send

from ollamamax.api.authn import authenticate
from ollamamax.api.call import TEXT, Call
from ollamamax.api.errors import ErrorForm, ollama_form, outcome_of
from ollamamax.core.errors import ClientGone, OllamaMaxError
from ollamamax.core.types import Outcome, Principal

Handler = Callable[[Call], Awaitable[None]]

_LOG = structlog.get_logger(__name__)
_NOBODY: Final = Principal("")


class Resource:
    """An ASGI application for one path; the call stands in `scope["call"]`.

    route: the path's template, a metric label.  public: needs no credentials.
    metered: a failure before the gateway took over is recorded as an Outcome here.
    """

    def __init__(
        self,
        route: str,
        methods: Mapping[str, Handler],
        form: ErrorForm = ollama_form,
        *,
        public: bool = False,
        metered: bool = False,
    ) -> None:
        self.route = route
        self.methods = dict(methods)
        self._form = form
        self._public = public
        self._metered = metered
        self._allow = ", ".join(sorted(self.methods)).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `scope["call"]`. Raises nothing but cancellation."""
        await self.answer(scope["call"])

    async def answer(self, call: Call) -> None:
        """Answer a call. Raises nothing but cancellation."""
        handler = self.methods.get(call.method)
        if handler is None:
            await call.reply(405, b"405 method not allowed", TEXT, [(b"allow", self._allow)])
            return
        try:
            call.identify(self.route, _NOBODY if self._public else await authenticate(call))
            await handler(call)
        except Exception as error:  # noqa: BLE001 - a request's last resort: logged, and told as status 500
            await self._failed(call, error)

    async def _failed(self, call: Call, error: Exception) -> None:
        if not isinstance(error, OllamaMaxError):
            _LOG.error("internal error", request_id=call.request_id, path=call.path, exc_info=error)
        if self._metered and not call.handed_over:
            kind, code = outcome_of(error)
            outcome = Outcome(
                request_id=call.request_id,
                route=self.route,
                model="",
                kind=kind,
                error_code=code,
                total_ms=call.services.clock.now_ms() - call.arrived_ms,
            )
            call.services.meter.outcome(outcome)
        if not call.status and not isinstance(error, ClientGone):
            await call.fail(error, self._form)
