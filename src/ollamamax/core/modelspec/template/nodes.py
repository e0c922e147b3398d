"""The parse tree of a template. `line` counts from 1 and serves error texts."""

from typing import TypeAlias

from msgspec import Struct


class Dot(Struct, frozen=True):
    """`.`: the value at hand."""


class Nil(Struct, frozen=True):
    """`nil`."""


class Literal(Struct, frozen=True):
    """A string, number or boolean."""

    value: str | int | float | bool


class Field(Struct, frozen=True):
    """`.A.B`: fields of the value at hand. path is never empty."""

    path: tuple[str, ...]


class Variable(Struct, frozen=True):
    """`$name.A.B`; name without the dollar sign, "" is the whole data."""

    name: str
    path: tuple[str, ...] = ()


class Function(Struct, frozen=True):
    """A function's name."""

    name: str


class Chain(Struct, frozen=True):
    """`(pipeline).A.B` or `function.A.B`."""

    base: "Pipe | Function"
    path: tuple[str, ...]


class Command(Struct, frozen=True):
    """One stage of a pipeline: an operand, with the arguments that follow it. args is never empty."""

    args: "tuple[Operand, ...]"


class Pipe(Struct, frozen=True):
    """`$a, $b := command | command`. assigns: `=` instead of `:=`."""

    line: int
    declared: tuple[str, ...]
    assigns: bool
    commands: tuple[Command, ...]


class Text(Struct, frozen=True):
    """Text between actions, trimmed as the marks beside it say. Never empty."""

    text: str


class Action(Struct, frozen=True):
    """`{{ pipeline }}`: its value is printed, unless it declares a variable."""

    pipe: Pipe


class If(Struct, frozen=True):
    """`{{ if }}`. otherwise: what follows `{{ else }}`; `else if` is an If in it."""

    pipe: Pipe
    body: "Nodes"
    otherwise: "Nodes"


class With(Struct, frozen=True):
    """`{{ with }}`: an If that makes the value the one at hand."""

    pipe: Pipe
    body: "Nodes"
    otherwise: "Nodes"


class Range(Struct, frozen=True):
    """`{{ range }}`. otherwise: for an empty collection."""

    pipe: Pipe
    body: "Nodes"
    otherwise: "Nodes"


class Break(Struct, frozen=True):
    """`{{ break }}`."""


class Continue(Struct, frozen=True):
    """`{{ continue }}`."""


Operand: TypeAlias = Dot | Nil | Literal | Field | Variable | Function | Chain | Pipe
Block: TypeAlias = If | With | Range
Node: TypeAlias = Text | Action | Block | Break | Continue
Nodes: TypeAlias = tuple[Node, ...]
