"""The admin API: engines, the node's facts, and why a request would go where. OpenAPI at /openapi.json and /docs."""

from html import escape
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import Body, FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from ollamamax.api.call import Call
from ollamamax.api.errors import headers_of, status_of, text_of
from ollamamax.api.ports import Services
from ollamamax.core.errors import OllamaMaxError
from ollamamax.core.types import AttachedEngine, EngineKind, RequestContext

_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_STYLE: Final = "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}code{background:#eee}"


class EngineToAttach(BaseModel):
    """A server elsewhere that runs models."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=_NAME, description="how it is called here")
    kind: Literal["ollama", "openai"] = Field(description="the API it speaks")
    url: str = Field(description="its address, e.g. http://10.0.0.2:11434 or https://host/v1")
    api_key: str = Field(default="", description="sent as a bearer token; never shown again")
    slots: int = Field(default=4, ge=1, le=4096, description="requests it is given at once")


def build_admin(services: Services) -> FastAPI:
    """The application; `request.scope["call"]` says who asks."""
    app = FastAPI(title="OllamaMax admin API", version=services.version, docs_url=None, redoc_url=None)
    _add_error_forms(app)
    _add_engines(app, services)
    _add_facts(app, services)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(_docs_page(app.openapi(), str(request.scope.get("root_path", ""))))

    return app


def _context(request: Request) -> RequestContext:
    call: Call = request.scope["call"]
    return call.context


def _add_error_forms(app: FastAPI) -> None:
    @app.exception_handler(OllamaMaxError)
    async def ours(request: Request, error: Exception) -> JSONResponse:
        headers = {name.decode(): value.decode() for name, value in headers_of(error)}
        text = text_of(error, _context(request).request_id)
        return JSONResponse({"error": text}, status_of(error), headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        # Told here; raised on by FastAPI, and so logged where all unexpected errors are.
        return JSONResponse({"error": text_of(error, _context(request).request_id)}, status_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        wrong = (f"{'.'.join(map(str, item['loc'][1:])) or 'body'}: {item['msg']}" for item in error.errors())
        return JSONResponse({"error": "; ".join(wrong)}, 400)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, error.status_code, dict(error.headers or {}))


def _add_engines(app: FastAPI, services: Services) -> None:
    gateway, fleet = services.gateway, services.fleet

    @app.get("/engines")
    async def list_engines(request: Request) -> dict[str, Any]:
        """All engines with their rates and breaker states."""
        gateway.authorize(_context(request), "read", "")
        return {"engines": [msgspec.to_builtins(status) for status in fleet.statuses()]}

    @app.post("/engines", status_code=201)
    async def attach_engine(request: Request, engine: Annotated[EngineToAttach, Body()]) -> dict[str, Any]:
        """Attach an engine; it is remembered across restarts."""
        gateway.authorize(_context(request), "manage_engines", engine.name)
        await fleet.add(
            AttachedEngine(
                name=engine.name,
                kind=EngineKind(engine.kind),
                url=engine.url,
                api_key=engine.api_key,
                slots=engine.slots,
            )
        )
        return {"name": engine.name, "kind": engine.kind, "url": engine.url, "slots": engine.slots}

    @app.delete("/engines/{name:path}")
    async def detach_engine(request: Request, name: Annotated[str, Path(max_length=256)]) -> dict[str, Any]:
        """Detach an engine; requests that it is answering go on."""
        gateway.authorize(_context(request), "manage_engines", name)
        await fleet.remove(name)
        return {"name": name}


def _add_facts(app: FastAPI, services: Services) -> None:
    gateway, fleet = services.gateway, services.fleet

    @app.get("/status")
    async def status(request: Request) -> dict[str, Any]:
        """What this node is and does now."""
        gateway.authorize(_context(request), "read", "")
        waiting, running = gateway.load()
        return {
            "version": services.version,
            "uptime_s": round((services.clock.now_ms() - services.started_ms) / 1000, 3),
            "not_ready_because": list(await services.readiness.reasons()),
            "queue": {"waiting": waiting, "running": running},
            "loaded": [msgspec.to_builtins(model) for model in await fleet.running()],
            "engines": [msgspec.to_builtins(engine) for engine in fleet.statuses()],
        }

    @app.get("/route")
    async def route(request: Request, model: str) -> Any:
        """Where a request for the model would go now, and why."""
        gateway.authorize(_context(request), "read", model)
        return msgspec.to_builtins(gateway.explain(model))


def _docs_page(schema: dict[str, Any], root: str) -> str:
    """The operations as plain HTML: no script, nothing from elsewhere."""
    title = escape(f"{schema['info']['title']} {schema['info']['version']}")
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"]
    parts.append(f"<h1>{title}</h1><p><a href='{escape(root)}/openapi.json'>openapi.json</a></p>")
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2><code>{method.upper()} {escape(root + path)}</code></h2>")
            parts.append(f"<p>{escape(operation.get('description', ''))}</p>")
            names = [f"<code>{escape(item['name'])}</code>" for item in operation.get("parameters", [])]
            if names:
                parts.append(f"<p>Parameters: {', '.join(names)}</p>")
    for name, model in schema.get("components", {}).get("schemas", {}).items():
        parts.append(f"<h2>{escape(name)}</h2><p>{escape(model.get('description', ''))}</p><ul>")
        for field, facts in model.get("properties", {}).items():
            parts.append(f"<li><code>{escape(field)}</code> {escape(facts.get('description', ''))}</li>")
        parts.append("</ul>")
    return "".join(parts)
