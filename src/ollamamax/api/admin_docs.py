"""The admin API's page: its operations as plain HTML, no script, nothing from elsewhere."""

from html import escape
from typing import Any, Final

_STYLE: Final = "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}code{background:#eee}"


def docs_page(schema: dict[str, Any], root: str) -> str:
    """schema: OpenAPI's.  root: the path that the API is mounted at."""
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
