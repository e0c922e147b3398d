"""The admin API: engines, nodes, tokens, settings, events, routes of requests. OpenAPI at /openapi.json and /docs."""

from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from ollamamax.api.admin_call import context_of
from ollamamax.api.admin_config import add_config
from ollamamax.api.admin_docs import docs_page
from ollamamax.api.admin_engines import add_engines
from ollamamax.api.admin_events import add_events
from ollamamax.api.admin_facts import add_facts
from ollamamax.api.admin_ha import add_ha
from ollamamax.api.admin_nodes import add_cluster, add_nodes
from ollamamax.api.admin_placements import add_drains, add_placements, add_spreading
from ollamamax.api.admin_tokens import add_tokens
from ollamamax.api.errors import headers_of, status_of, text_of
from ollamamax.api.ports import Services
from ollamamax.core.errors import OllamaMaxError


class Refusal(BaseModel):
    """Every reply that is no success."""

    error: str = Field(description="what is wrong, and what to do about it")


_REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"model": Refusal, "description": "what was asked for is wrong, missing or not allowed"},
    "5XX": {"model": Refusal, "description": "this node, or another one that it needs, can't do it now"},
}


def build_admin(services: Services) -> FastAPI:
    """The application; `request.scope["call"]` says who asks."""
    app = FastAPI(
        title="OllamaMax admin API", version=services.version, docs_url=None, redoc_url=None, responses=_REFUSALS
    )
    _add_error_forms(app)
    infrastructure = (add_facts, add_cluster, add_ha, add_nodes, add_drains, add_tokens)
    for add in (*infrastructure, add_placements, add_spreading, add_config, add_events, add_engines):
        add(app, services)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi(), str(request.scope.get("root_path", ""))))

    return app


def _add_error_forms(app: FastAPI) -> None:
    @app.exception_handler(OllamaMaxError)
    async def ours(request: Request, error: Exception) -> JSONResponse:
        headers = {name.decode(): value.decode() for name, value in headers_of(error)}
        text = text_of(error, context_of(request).request_id)
        return JSONResponse({"error": text}, status_of(error), headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        # Told here; raised on by FastAPI, and so logged where all unexpected errors are.
        return JSONResponse({"error": text_of(error, context_of(request).request_id)}, status_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        wrong = (f"{'.'.join(map(str, item['loc'][1:])) or 'body'}: {item['msg']}" for item in error.errors())
        return JSONResponse({"error": "; ".join(wrong)}, 400)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, dict(error.headers or {}))
