"""Declared tools as templates see them: the fields that Ollama knows of JSON Schema, in its order, the rest dropped.

Source: Ollama `api/types.go` (Tool, ToolFunction, ToolProperty), `template/template.go` (the templates' own types).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ollamamax.core.errors import BadRequest
from ollamamax.core.modelspec.template.values import JsonList, JsonMap, Record, TypeNames


def tool_list(tools: Sequence[Mapping[str, Any]]) -> JsonList:
    """The tools of a request; values of a wrong type count as absent. Raises: BadRequest for endless nesting."""
    try:
        return JsonList(_tool(tool) for tool in tools)
    except RecursionError:
        raise BadRequest("exceeded max depth") from None


def _tool(tool: Mapping[str, Any]) -> Record:
    function = _function(_object(tool.get("function")))
    fields = {"Type": _text(tool.get("type")), "Items": tool.get("items"), "Function": function}
    json = {"type": fields["Type"], **_present("items", fields["Items"]), "function": function}
    return Record("Tool", fields, json, prints_json=True)


def _function(function: Mapping[str, Any]) -> Record:
    parameters = _parameters(_object(function.get("parameters")))
    name, description = _text(function.get("name")), _text(function.get("description"))
    fields = {"Name": name, "Description": description, "Parameters": parameters}
    json = {"name": name, "description": description, "parameters": parameters}
    return Record("ToolFunction", fields, json, prints_json=True)


def _parameters(schema: Mapping[str, Any]) -> Record:
    required = _strings(schema.get("required"))
    properties = schema.get("properties")
    is_given = isinstance(properties, dict)
    named = JsonMap((name, _property(_object(value))) for name, value in _object(properties).items())
    fields = {
        "Type": _text(schema.get("type")),
        "Defs": schema.get("$defs"),
        "Items": schema.get("items"),
        "Required": required,
        "Properties": named,
    }
    json = {
        "type": fields["Type"],
        **_present("$defs", fields["Defs"]),
        **_present("items", fields["Items"]),
        **_present("required", required or None),
        "properties": named if is_given else None,
    }
    return Record("ToolFunctionParameters", fields, json, prints_json=True)


def _property(schema: Mapping[str, Any]) -> Record:
    kind = schema.get("type")
    options = schema.get("anyOf")
    nested = schema.get("properties")
    any_of = [_property(_object(option)) for option in options] if isinstance(options, list) else []
    types = TypeNames([kind] if isinstance(kind, str) else _strings(kind))
    enum = schema.get("enum") if isinstance(schema.get("enum"), list) else []
    properties = None
    if isinstance(nested, dict):  # in the order in which they came, unlike the outermost ones
        inner = {name: _property(_object(value)) for name, value in nested.items()}
        properties = Record("ToolPropertiesMap", {}, inner, prints_json=True)
    fields = {
        "AnyOf": any_of,
        "Type": types,
        "Items": schema.get("items"),
        "Description": _text(schema.get("description")),
        "Enum": enum,
        "Properties": properties,
        "Required": _strings(schema.get("required")),
    }
    names = ("anyOf", "type", "items", "description", "enum", "properties", "required")
    json = {name: value for name, value in zip(names, fields.values(), strict=True) if value or name == "items"}
    if fields["Items"] is None:
        del json["items"]
    return Record("ToolProperty", fields, json)


def _present(name: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {name: value}


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
