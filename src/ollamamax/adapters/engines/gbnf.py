"""A JSON Schema as a GBNF grammar, llama.cpp's own form of constraint.

llama.cpp can be handed the schema itself. The build we use then constrains by tokens that it gets from tokenizing
pieces of the answer; with vocabularies that put a space before each text (Llama 2, Mistral and their kin) what comes
out is no JSON. Grammars work on characters and have no such trouble, so schemas go as grammars wherever they can.

An object has the declared properties in the declared order, optional ones may be left out, and others appear only
where `additionalProperties` allows them; white space between tokens is at most a space, or a line end and an
indentation: a small model could else go on writing it.
Source: llama.cpp `grammars/README.md` (GBNF); JSON Schema 2020-12, the assertions listed in `_ASSERTIONS`.
Deliberate limits: a schema with any other assertion (patterns, numeric ranges, `not`, ...) gives None.
"""

from typing import Any, Final

import msgspec

_MAX_REPEATS: Final = 1_000  # llama.cpp refuses about twice as many
_ANNOTATIONS: Final = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "strict", "name"}
    | {"$schema", "$id", "$comment", "$anchor", "$defs", "definitions"}
)
_ASSERTIONS: Final = frozenset(
    {"type", "enum", "const", "anyOf", "oneOf", "$ref", "properties", "required", "additionalProperties"}
    | {"items", "prefixItems", "minItems", "maxItems", "minLength", "maxLength", "format"}
)
_BASE: Final = {
    "ws": '( " " | "\\n" [ \\t]{0,20} )?',
    "char": '[^"\\\\\\x7F\\x00-\\x1F] | "\\\\" ( ["\\\\/bfnrt] | "u" [0-9a-fA-F]{4} )',
    "string": '"\\"" char* "\\""',
    "integer": '"-"? ( "0" | [1-9] [0-9]{0,17} )',
    "number": 'integer ( "." [0-9]{1,18} )? ( [eE] [-+]? [0-9]{1,3} )?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "pair": 'string ws ":" ws value',
    "object": '"{" ws ( pair ws ( "," ws pair ws )* )? "}"',
    "array": '"[" ws ( value ws ( "," ws value ws )* )? "]"',
    "value": "object | array | string | number | boolean | null",
}
_DATE: Final = '[0-9]{4} "-" ( "0" [1-9] | "1" [0-2] ) "-" ( "0" [1-9] | [1-2] [0-9] | "3" [0-1] )'
_TIME: Final = (
    '( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9] ":" [0-5] [0-9] ( "." [0-9]{3} )? '
    '( "Z" | [+-] ( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9] )'
)
_FORMATS: Final = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f'{_DATE} "T" {_TIME}',
    "uuid": '[0-9a-f]{8} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{4} "-" [0-9a-f]{12}',
}


class _Unable(Exception):
    """The schema asks for more than this converter knows."""


def gbnf_of(schema: dict[str, Any]) -> str | None:
    """The grammar, with the rule `root`; None for a schema beyond the limits above."""
    converter = _Converter(schema)
    try:
        root = converter.of(schema)
    except (_Unable, RecursionError, TypeError, AttributeError):  # the last two: a schema that is none
        return None
    # White space may follow: many tokens are a closing bracket and a line end in one.
    rules = {**_BASE, **converter.rules, "root": f"{root} ws"}
    return "\n".join(f"{name} ::= {body}" for name, body in rules.items()) + "\n"


class _Converter:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._names: dict[str, str] = {}  # by reference
        self.rules: dict[str, str] = {}

    def of(self, schema: Any) -> str:
        """An expression that can stand as one element of a sequence."""
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, dict) or schema.keys() - _ANNOTATIONS - _ASSERTIONS:
            raise _Unable
        if "$ref" in schema:
            return self._reference(schema["$ref"])
        if "const" in schema:
            return _literal(schema["const"])
        if "enum" in schema:
            return _either([_literal(value) for value in schema["enum"]])
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return _either([self.of(one) for one in schema[key]])
        kind = schema.get("type")
        if isinstance(kind, list):
            return _either([self.of({**schema, "type": one}) for one in kind])
        return self._typed(schema, kind)

    def _typed(self, schema: dict[str, Any], kind: Any) -> str:
        if kind == "object" or (kind is None and "properties" in schema):
            return self._object(schema)
        if kind == "array" or (kind is None and ("items" in schema or "prefixItems" in schema)):
            return self._array(schema)
        if kind == "string":
            return self._string(schema)
        if kind in ("integer", "number", "boolean", "null"):
            return str(kind)
        if kind is None and not schema.keys() & _ASSERTIONS:
            return "value"
        raise _Unable

    def _rule(self, body: str) -> str:
        name = f"r{len(self.rules)}"
        self.rules[name] = body
        return name

    def _reference(self, path: Any) -> str:
        """A rule of its own, so that schemas may refer to themselves."""
        if path not in self._names:
            if not isinstance(path, str) or not path.startswith("#"):
                raise _Unable
            target: Any = self._root
            for part in path[1:].split("/")[1:]:
                part = part.replace("~1", "/").replace("~0", "~")
                if not isinstance(target, dict) or part not in target:
                    raise _Unable
                target = target[part]
            self._names[path] = name = self._rule("")
            self.rules[name] = self.of(target)
        return self._names[path]

    def _object(self, schema: dict[str, Any]) -> str:
        properties: dict[str, Any] = dict(schema.get("properties") or {})
        required = list(schema.get("required") or ())
        for name in required:
            properties.setdefault(name, True)
        more = schema.get("additionalProperties", not properties)
        if not properties and more is True:
            return "object"
        pair = "" if more is False else f'string ws ":" ws {self.of(more)} ws'
        # From the last property to the first: what may follow when nothing was written yet, and when something was.
        fresh = f'( {pair} ( "," ws {pair} )* )?' if pair else ""
        begun = f'( "," ws {pair} )*' if pair else ""
        for name, inner in reversed(properties.items()):
            one = f'{_literal(name)} ws ":" ws {self.of(inner)} ws'
            here, after = f"{one} {begun}", f'"," ws {one} {begun}'
            if name not in required:
                here = f"{here} | {fresh}" if fresh else f"( {here} )?"
                after = f"{after} | {begun}" if begun else f"( {after} )?"
            fresh, begun = self._rule(here), self._rule(after)
        return self._rule(f'"{{" ws {fresh} "}}"')

    def _array(self, schema: dict[str, Any]) -> str:
        first = [f"{self.of(item)} ws" for item in schema.get("prefixItems") or ()]
        if first:
            return self._rule('"[" ws ' + ' "," ws '.join(first) + ' "]"')
        low, high = _bounds(schema, "minItems", "maxItems")
        item = f"{self.of(schema.get('items', True))} ws"
        if high == 0:
            return '"[" ws "]"'
        some = f'{item} ( "," ws {item} ){_repeat(max(low - 1, 0), None if high is None else high - 1)}'
        return self._rule(f'"[" ws {some} "]"' if low else f'"[" ws ( {some} )? "]"')

    def _string(self, schema: dict[str, Any]) -> str:
        if schema.get("format") in _FORMATS:
            return f'"\\"" {_FORMATS[schema["format"]]} "\\""'
        low, high = _bounds(schema, "minLength", "maxLength")
        if low == 0 and high is None:
            return "string"
        return f'"\\"" char{_repeat(low, high)} "\\""'


def _bounds(schema: dict[str, Any], least: str, most: str) -> tuple[int, int | None]:
    low, high = schema.get(least, 0), schema.get(most)
    if low > _MAX_REPEATS or (high is not None and (high > _MAX_REPEATS or high < low)):
        raise _Unable
    return int(low), None if high is None else int(high)


def _repeat(low: int, high: int | None) -> str:
    return f"{{{low},{'' if high is None else high}}}"


def _either(options: list[str]) -> str:
    if not options:
        raise _Unable
    return f"( {' | '.join(options)} )"


def _literal(value: Any) -> str:
    """The value's JSON text as a quoted terminal."""
    text = msgspec.json.encode(value).decode()
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
