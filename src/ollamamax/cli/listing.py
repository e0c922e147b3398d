"""The tables of `list` and `ps`."""

from datetime import UTC, datetime
from typing import Any

from ollamamax.cli.output import ago, size, table, until

_ID_DIGITS = 12


def starting_with(models: list[dict[str, Any]], prefix: str) -> list[dict[str, Any]]:
    """Those whose name begins so, without regard to case."""
    return [model for model in models if model["name"].lower().startswith(prefix.lower())]


def models_table(models: list[dict[str, Any]]) -> str:
    """NAME, ID, SIZE, MODIFIED of /api/tags. A model of an attached engine that tells no size has "-"."""
    now = datetime.now(UTC)
    rows = [
        (
            model["name"],
            model.get("digest", "")[:_ID_DIGITS] or "-",
            size(model["size"]) if model.get("size") else "-",
            ago(model.get("modified_at", ""), now),
        )
        for model in models
    ]
    return table(("NAME", "ID", "SIZE", "MODIFIED"), rows)


def running_table(models: list[dict[str, Any]]) -> str:
    """NAME, ID, SIZE, PROCESSOR, CONTEXT, UNTIL of /api/ps."""
    now = datetime.now(UTC)
    rows = [
        (
            model["name"],
            model.get("digest", "")[:_ID_DIGITS] or "-",
            size(model.get("size", 0)),
            processor(model.get("size", 0), model.get("size_vram", 0)),
            str(model.get("context_length", "")),
            until(model.get("expires_at", ""), now),
        )
        for model in models
    ]
    return table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), rows)


def processor(size_bytes: int, vram_bytes: int) -> str:
    """Where a model lies: 100% CPU, 100% GPU, or the shares of both."""
    if vram_bytes <= 0 or size_bytes <= 0:
        return "100% CPU"
    if vram_bytes >= size_bytes:
        return "100% GPU"
    share = round((size_bytes - vram_bytes) / size_bytes * 100)
    return f"{share}%/{100 - share}% CPU/GPU"
