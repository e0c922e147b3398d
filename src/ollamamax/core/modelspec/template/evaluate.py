"""Walks a parse tree and writes its text.

Work is bounded: a template that takes too many steps, or writes too much, is refused. A step is a node, an operand or
a field; long texts, lists and searches cost more, so that steps are a measure of time.
Source: Go, package text/template (execution, `missingkey=zero`).
"""

from enum import Enum
from typing import Any, Final

from ollamamax.core.modelspec.template import functions
from ollamamax.core.modelspec.template.nodes import (
    Action,
    Break,
    Chain,
    Command,
    Dot,
    Field,
    Function,
    If,
    Literal,
    Nil,
    Nodes,
    Operand,
    Pipe,
    Range,
    Text,
    Variable,
    With,
)
from ollamamax.core.modelspec.template.values import MAX_TEXT_CHARS, Fault, Record, is_true, kind_of, size_of, to_text

MAX_STEPS: Final = 500_000
_CHARS_PER_STEP: Final = 64
_VARIABLES_PER_STEP: Final = 32
_ABSENT: Final = object()


class _Flow(Enum):
    BREAK = "break"
    CONTINUE = "continue"


class Run:
    """One execution. data: the top-level map.  dates: values of the date functions by name.

    line: where it is, or where it failed.
    """

    def __init__(self, data: dict[str, Any], dates: dict[str, str]) -> None:
        self.line = 1
        self._data = data
        self._dates = dates
        self._variables: list[tuple[str, Any]] = [("", data)]
        self._written: list[str] = []
        self._room_chars = MAX_TEXT_CHARS
        self._steps_left = MAX_STEPS

    def render(self, nodes: Nodes) -> str:
        """The text. Raises: Fault."""
        self._walk(self._data, nodes)
        return "".join(self._written)

    # -- nodes

    def _walk(self, dot: Any, nodes: Nodes) -> _Flow | None:
        for node in nodes:
            self._spend(1)
            flow: _Flow | None = None
            match node:
                case Text(text):
                    self._write(text)
                case Action(pipe):
                    value = self._pipe(dot, pipe)
                    if not pipe.declared:
                        self._write("<no value>" if value is None else to_text(value))
                case If(pipe, body, otherwise) | With(pipe, body, otherwise):
                    mark = len(self._variables)
                    value = self._pipe(dot, pipe)
                    inner = value if isinstance(node, With) and is_true(value) else dot
                    flow = self._walk(inner, body if is_true(value) else otherwise)
                    del self._variables[mark:]
                case Range():
                    mark = len(self._variables)
                    flow = self._range(dot, node)
                    del self._variables[mark:]
                case Break():
                    flow = _Flow.BREAK
                case _:
                    flow = _Flow.CONTINUE
            if flow is not None:
                return flow
        return None

    def _range(self, dot: Any, node: Range) -> _Flow | None:
        value = self._pipe(dot, node.pipe)
        items: Any
        match value:
            case dict():
                items = ((key, value[key]) for key in sorted(value))
            case list():
                items = enumerate(value)
            case int() if not isinstance(value, bool) and len(node.pipe.declared) < 2:
                items = ((number, number) for number in range(value))
            case None:
                items = ()
            case _:
                raise Fault(f"range can't iterate over a value of type {kind_of(value)}")
        self._spend(_weight(value))
        mark, is_empty = len(self._variables), True
        for key, item in items:
            is_empty = False
            self._spend(1)
            self._bind(node.pipe, key, item)
            flow = self._walk(item, node.body)
            del self._variables[mark:]
            if flow is _Flow.BREAK:
                break
        return self._walk(dot, node.otherwise) if is_empty else None

    def _bind(self, pipe: Pipe, key: Any, item: Any) -> None:
        """The variables of a range, for one turn."""
        names = pipe.declared
        values = (item,) if len(names) == 1 else (key, item)
        for place, (name, value) in enumerate(zip(names, values, strict=False)):
            if pipe.assigns:
                self._assign(name, value)
            else:
                self._variables[len(self._variables) - len(names) + place] = (name, value)

    # -- pipelines

    def _pipe(self, dot: Any, pipe: Pipe) -> Any:
        self.line = pipe.line
        value: Any = _ABSENT
        for command in pipe.commands:
            value = self._command(dot, command, value)
        for name in pipe.declared:
            if pipe.assigns:
                self._assign(name, value)
            else:
                self._variables.append((name, value))
        return value

    def _command(self, dot: Any, command: Command, final: Any) -> Any:
        first = command.args[0]
        if isinstance(first, Function):
            return self._call(dot, first.name, command.args[1:], final)
        if len(command.args) > 1 or final is not _ABSENT:
            raise Fault("can't give an argument to what is no function")
        if isinstance(first, Nil):
            raise Fault("nil is not a command")
        return self._operand(dot, first)

    def _operand(self, dot: Any, operand: Operand) -> Any:
        self._spend(1)
        match operand:  # the frequent ones first
            case Field(path):
                return self._fields(dot, path)
            case Literal(value):
                return value
            case Pipe():
                return self._pipe(dot, operand)
            case Variable(name, path):
                return self._fields(self._variables[self._place_of(name)][1], path)
            case Dot():
                return dot
            case Function(name):
                return self._call(dot, name, (), _ABSENT)
            case Chain(base, path):
                return self._fields(self._operand(dot, base), path)
        return None  # Nil

    def _fields(self, value: Any, path: tuple[str, ...]) -> Any:
        self._spend(len(path))
        for place, name in enumerate(path):
            if isinstance(value, dict):
                value = value.get(name)
            elif isinstance(value, Record) and name in value.fields:
                value = value.fields[name]
            elif value is not None:
                raise Fault(f"can't evaluate field {name} in type {kind_of(value)}")
            elif place:
                raise Fault(f"nil pointer evaluating interface {{}}.{name}")
        return value

    def _call(self, dot: Any, name: str, args: tuple[Operand, ...], final: Any) -> Any:
        if name in functions.SHORT_CIRCUIT:
            return self._short_circuit(dot, name, args, final)
        values = [self._operand(dot, operand) for operand in args]
        if final is not _ABSENT:
            values.append(final)
        if name in functions.DATES:
            return self._dates[name]
        weigh = size_of if name in functions.SPELLING else _characters
        chars = sum(map(weigh, values))
        if chars > MAX_TEXT_CHARS:
            raise Fault(f"{name}: texts of more than {MAX_TEXT_CHARS} characters")
        self._spend(1 + chars // _CHARS_PER_STEP)
        result = functions.call(name, values)
        self._spend(_weight(result))
        return result

    def _short_circuit(self, dot: Any, name: str, args: tuple[Operand, ...], final: Any) -> Any:
        """The first argument that decides, the others unevaluated; else the last."""
        value = final
        for operand in args:
            value = self._operand(dot, operand)
            if is_true(value) == (name == "or"):
                return value
        if final is not _ABSENT:
            return final
        if not args:
            raise Fault(f"wrong number of args for {name}: want at least 1 got 0")
        return value

    # -- variables, output, bounds

    def _place_of(self, name: str) -> int:
        """Of the innermost variable of that name."""
        for place in range(len(self._variables) - 1, -1, -1):
            if self._variables[place][0] == name:
                self._spend((len(self._variables) - place) // _VARIABLES_PER_STEP)
                return place
        raise Fault(f"undefined variable: ${name}")

    def _assign(self, name: str, value: Any) -> None:
        self._variables[self._place_of(name)] = (name, value)

    def _write(self, text: str) -> None:
        self._room_chars -= len(text)
        if self._room_chars < 0:
            raise Fault(f"writes more than {MAX_TEXT_CHARS} characters")
        self._spend(len(text) // _CHARS_PER_STEP)
        self._written.append(text)

    def _spend(self, steps: int) -> None:
        self._steps_left -= steps
        if self._steps_left < 0:
            raise Fault(f"takes more than {MAX_STEPS} steps")


def _weight(value: Any) -> int:
    """Steps that a value costs where it is made, copied or sorted."""
    return len(value) // _CHARS_PER_STEP if isinstance(value, str | list | dict) else 0


def _characters(value: Any) -> int:
    return len(value) if isinstance(value, str) else 0
