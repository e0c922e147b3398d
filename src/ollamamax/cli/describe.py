"""What /api/show says, laid out for people. Pure."""

from collections.abc import Sequence
from typing import Any

_HEAD_LINES = 2


def describe(info: dict[str, Any], *, verbose: bool = False) -> str:
    """The default view: architecture and size, capabilities, parameters, the first lines of texts."""
    parts = [_block("Model", _model_rows(info))]
    parts.append(_block("Capabilities", [(name,) for name in info.get("capabilities", [])]))
    parameters = [tuple(line.split(maxsplit=1)) for line in info.get("parameters", "").splitlines() if line.strip()]
    parts.append(_block("Parameters", sorted(parameters)))
    if verbose:
        parts.append(_block("Metadata", [(key, str(value)) for key, value in sorted(_facts(info).items())]))
        tensors = [(item["name"], item["type"], str(item["shape"])) for item in info.get("tensors") or []]
        parts.append(_block("Tensors", tensors))
    parts.append(_block("System", _head(info.get("system", ""))))
    parts.append(_block("License", _head(info.get("license", ""))))
    return "\n".join(part for part in parts if part)


def _facts(info: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = info.get("model_info") or {}
    return facts


def _model_rows(info: dict[str, Any]) -> list[tuple[str, ...]]:
    facts, details = _facts(info), info.get("details") or {}
    architecture = str(facts.get("general.architecture") or details.get("family", ""))
    rows = [
        ("architecture", architecture),
        ("parameters", str(details.get("parameter_size", ""))),
        ("context length", str(facts.get(f"{architecture}.context_length", ""))),
        ("embedding length", str(facts.get(f"{architecture}.embedding_length", ""))),
        ("quantization", str(details.get("quantization_level", ""))),
        ("requires", str(info.get("requires", ""))),
    ]
    return [row for row in rows if row[1]]


def _head(text: str) -> list[tuple[str, ...]]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    shown = lines[:_HEAD_LINES] + (["..."] if len(lines) > _HEAD_LINES else [])
    return [(line,) for line in shown]


def _block(title: str, rows: Sequence[tuple[str, ...]]) -> str:
    """A heading and indented columns; nothing where there are no rows."""
    if not rows:
        return ""
    columns = max(len(row) for row in rows)
    widths = [max((len(row[column]) for row in rows if column < len(row)), default=0) for column in range(columns)]
    lines = ["    ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]
    return f"  {title}\n" + "".join(f"    {line}".rstrip() + "\n" for line in lines)


def part(info: dict[str, Any], name: str) -> str:
    """One text of a model: license, modelfile, parameters, system or template; "" if it has none."""
    return str(info.get(name) or "").rstrip("\n")
