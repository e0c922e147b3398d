"""A parsed template: rendering it, and what its parse tree tells of the model.

Source: Ollama `template/template.go` (identifiers, the cut after .Response), `thinking/template.go`,
`tools/template.go`. Differences: fields of variables count as well; thinking tags are looked for around what writes
.Thinking, not around conditions.
"""

from collections.abc import Iterator
from typing import Any, Final

from ollamamax.core.errors import TemplateError
from ollamamax.core.modelspec.template.evaluate import Run
from ollamamax.core.modelspec.template.lexer import failure
from ollamamax.core.modelspec.template.nodes import (
    Action,
    Chain,
    Command,
    Field,
    If,
    Node,
    Nodes,
    Operand,
    Pipe,
    Range,
    Text,
    Variable,
    With,
)
from ollamamax.core.modelspec.template.parser import parse_tree
from ollamamax.core.modelspec.template.values import Fault

MAX_TEMPLATE_CHARS: Final = 256 << 10

_RESPONSE: Final = "Response"
_WRITE_RESPONSE: Final = Action(Pipe(0, (), False, (Command((Field((_RESPONSE,)),)),)))


def parse(text: str) -> "Template":
    """A template, ready to be rendered. One that mentions neither .Messages nor .Response gets .Response appended.

    Raises: TemplateError with the line and the cause.
    """
    if len(text) > MAX_TEMPLATE_CHARS:
        raise TemplateError(f"line 1: the template has more than {MAX_TEMPLATE_CHARS} characters")
    nodes = parse_tree(text)
    template = Template(nodes)
    if template.uses("messages") or template.uses("response"):
        return template
    return Template((*nodes, _WRITE_RESPONSE))


class Template:
    """Immutable; may be rendered any number of times."""

    __slots__ = ("_names", "_nodes")

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._names = frozenset(name.lower() for operand in _operands(nodes) for name in _path(operand))

    def render(self, data: dict[str, Any], today: str, yesterday: str) -> str:
        """The text for `data`: names to values as values.py describes them. today, yesterday: YYYY-MM-DD.

        Raises: TemplateError with the line and the cause; also where the work or the text exceeds its bounds.
        """
        run = Run(data, {"currentDate": today, "yesterdayDate": yesterday})
        try:
            return run.render(self._nodes)
        except Fault as fault:
            raise failure(run.line, str(fault)) from None
        except RecursionError:
            raise failure(run.line, "the values are nested too deeply") from None

    def uses(self, name: str) -> bool:
        """Whether any field of that name, in lower case, is mentioned: "messages", "tools", "suffix", "think" ..."""
        return name in self._names

    def until_response(self) -> "Template":
        """The same without what follows the first `{{ .Response }}`: to let the model go on where it stands."""
        nodes, _ = _cut(self._nodes)
        return Template(nodes)

    def thinking_tags(self) -> tuple[str, str] | None:
        """The texts around `.Thinking` within a range over the messages, e.g. `<think>` and `</think>`."""
        found = _thinking_tags(self._nodes, is_in_messages=False)
        return found if found and all(found) else None

    def tool_tag(self) -> str | None:
        """What precedes a tool call: the first text in `{{ if .ToolCalls }}`, up to a brace.

        "{" where that is bare JSON; None where the template writes no tool calls.
        """
        block = _tool_calls_block(self._nodes)
        if block is None:
            return None
        text, _ = _first_text(block.body)
        return text.replace("\r\n", "\n").partition("{")[0].strip() or "{"


def _operands(nodes: Nodes) -> Iterator[Operand]:
    """All operands at any depth."""
    for node in nodes:
        if isinstance(node, Action | If | With | Range):
            yield from _of_pipe(node.pipe)
        if isinstance(node, If | With | Range):
            yield from _operands(node.body)
            yield from _operands(node.otherwise)


def _of_pipe(pipe: Pipe) -> Iterator[Operand]:
    for command in pipe.commands:
        for operand in command.args:
            yield operand
            inner = operand.base if isinstance(operand, Chain) else operand
            if isinstance(inner, Pipe):
                yield from _of_pipe(inner)


def _path(operand: Operand) -> tuple[str, ...]:
    return operand.path if isinstance(operand, Field | Variable | Chain) else ()


def _mentions(pipe: Pipe, name: str) -> bool:
    return any(name in _path(operand) for operand in _of_pipe(pipe))


def _cut(nodes: Nodes) -> tuple[Nodes, bool]:
    """The nodes up to and including the one that writes .Response, and whether there was one."""
    kept: list[Node] = []
    for node in nodes:
        if isinstance(node, Action) and any(
            isinstance(operand, Field) and _RESPONSE in operand.path for operand in _of_pipe(node.pipe)
        ):
            return (*kept, node), True
        if isinstance(node, If | With | Range):
            body, was_cut = _cut(node.body)
            otherwise: Nodes = ()
            if not was_cut:
                otherwise, was_cut = _cut(node.otherwise)
            node = type(node)(node.pipe, body, otherwise)
            if was_cut:
                return (*kept, node), True
        kept.append(node)
    return tuple(kept), False


def _thinking_tags(nodes: Nodes, is_in_messages: bool) -> tuple[str, str] | None:
    """The edge texts of the innermost list that writes .Thinking; the last such list counts."""
    found: tuple[str, str] | None = None
    for node in nodes:
        if isinstance(node, Action) and is_in_messages and _mentions(node.pipe, "Thinking"):
            found = (_edge(nodes[0]), _edge(nodes[-1]))
        if isinstance(node, If | With | Range):
            inside = _mentions(node.pipe, "Messages") if isinstance(node, Range) else is_in_messages
            for block in (node.body, node.otherwise):
                found = _thinking_tags(block, inside) or found
    return found


def _edge(node: Node) -> str:
    return node.text.strip() if isinstance(node, Text) else ""


def _tool_calls_block(nodes: Nodes) -> If | None:
    for node in nodes:
        if isinstance(node, If) and any("ToolCalls" in _path(arg) for cmd in node.pipe.commands for arg in cmd.args):
            return node
        if isinstance(node, If | With | Range):
            found = _tool_calls_block(node.body) or _tool_calls_block(node.otherwise)
            if found:
                return found
    return None


def _first_text(nodes: Nodes) -> tuple[str, bool]:
    """The first text that is not blank, and whether the search ends: at it, or at the first action."""
    for node in nodes:
        if isinstance(node, Text):
            if node.text.strip():
                return node.text, True
        elif isinstance(node, If | With | Range):
            text, _ = _first_text(node.body)
            if not text:
                text, _ = _first_text(node.otherwise)
            return text, True
        else:
            return "", True
    return "", False
