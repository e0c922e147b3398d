"""Tokens to the parse tree.

::

    list     = { text | action | block | "break" | "continue" }        break and continue within range alone
    block    = "if" pipe list { "else if" pipe list } [ "else" list ] "end"
             | "with" pipe list { "else with" pipe list } [ "else" list ] "end"
             | "range" pipe list [ "else" list ] "end"
    pipe     = [ variable [ "," variable ] ( ":=" | "=" ) ] command { "|" command }   two variables in range alone
    command  = operand { space operand }
    operand  = term { field }                                          fields follow without a space
    term     = "." | "nil" | literal | field | variable | function | "(" pipe ")"

Source: Go, package text/template/parse.
"""

from typing import Final

from ollamamax.core.errors import TemplateError
from ollamamax.core.modelspec.template import lexer
from ollamamax.core.modelspec.template.functions import NAMES
from ollamamax.core.modelspec.template.lexer import Token, failure
from ollamamax.core.modelspec.template.nodes import (
    Action,
    Break,
    Chain,
    Command,
    Continue,
    Dot,
    Field,
    Function,
    If,
    Literal,
    Nil,
    Node,
    Nodes,
    Operand,
    Pipe,
    Range,
    Text,
    Variable,
    With,
)

MAX_DEPTH: Final = 60
"""How deep blocks and parentheses may stand in each other."""

_UNSUPPORTED: Final = frozenset({"define", "template", "block"})
_CONSTANTS: Final[dict[str, Operand]] = {"true": Literal(True), "false": Literal(False), "nil": Nil()}
_KEYWORDS: Final = frozenset({"if", "else", "end", "range", "with", "break", "continue"}) | _UNSUPPORTED


def parse_tree(text: str) -> Nodes:
    """The tree of a template's text. Raises: TemplateError with the line and the cause."""
    return _Parser(lexer.tokens(text)).run()


class _Parser:
    def __init__(self, found: list[Token]) -> None:
        last_line = found[-1].line if found else 1
        self._tokens = found
        self._eof = Token("eof", "", last_line)
        self._at = 0
        self._scope = [""]  # variables in force; "" is the whole data
        self._depth = 0
        self._ranges = 0

    def run(self) -> Nodes:
        """The whole tree."""
        nodes, ending = self._list()
        if ending.kind != "eof":
            raise failure(ending.line, f"unexpected {{{{{ending.value}}}}}")
        return nodes

    # -- tokens

    def _peek(self) -> Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else self._eof

    def _next(self) -> Token:
        token = self._peek()
        self._at += 1
        return token

    def _peek_solid(self) -> Token:
        """The next token that is no space."""
        if self._peek().kind == lexer.SPACE:
            self._at += 1
        return self._peek()

    def _unexpected(self, token: Token, place: str) -> TemplateError:
        what = "end of the template" if token.kind == "eof" else repr(token.value)
        return failure(token.line, f"unexpected {what} in {place}")

    def _close(self, place: str) -> None:
        token = self._peek_solid()
        if token.kind != lexer.CLOSE:
            raise self._unexpected(token, place)
        self._at += 1

    def _enter(self, line: int) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise failure(line, f"nested more than {MAX_DEPTH} deep")

    # -- lists and blocks

    def _list(self) -> tuple[Nodes, Token]:
        """Nodes up to `{{ end }}`, `{{ else ...` or the end of the text, and the token of that; else is left open."""
        nodes: list[Node] = []
        while (token := self._next()).kind != "eof":
            if token.kind == lexer.TEXT:
                nodes.append(Text(str(token.value)))
                continue
            word = self._peek_solid()
            if word.kind != lexer.WORD or word.value not in _KEYWORDS:
                nodes.append(Action(self._pipe("command")))
                self._at += 1
                continue
            self._at += 1
            if word.value == "end":
                self._close("end")
            if word.value in ("end", "else"):
                return tuple(nodes), word
            nodes.append(self._keyword(word))
        return tuple(nodes), self._eof

    def _keyword(self, word: Token) -> Node:
        match word.value:
            case "if" | "with" | "range":
                return self._block(word)
            case "break" | "continue":
                if not self._ranges:
                    raise failure(word.line, f"{{{{{word.value}}}}} outside {{{{range}}}}")
                self._close(str(word.value))
                return Break() if word.value == "break" else Continue()
        raise failure(word.line, f"unsupported action {word.value!r}: templates of templates are not run here")

    def _block(self, word: Token) -> If | With | Range:
        """From behind the keyword to behind the `{{ end }}`, which an `else if` shares with what it follows."""
        name = str(word.value)
        self._enter(word.line)
        declared_before = len(self._scope)
        pipe = self._pipe(name)
        self._at += 1
        self._ranges += name == "range"
        body, ending = self._list()
        self._ranges -= name == "range"
        otherwise: Nodes = ()
        if ending.kind != "eof" and ending.value == "else":
            otherwise, ending = self._otherwise(name)
        if ending.kind == "eof":
            raise self._unexpected(ending, f"{{{{{name}}}}} of line {word.line}")
        del self._scope[declared_before:]
        self._depth -= 1
        match name:
            case "if":
                return If(pipe, body, otherwise)
            case "with":
                return With(pipe, body, otherwise)
        return Range(pipe, body, otherwise)

    def _otherwise(self, name: str) -> tuple[Nodes, Token]:
        """From behind `else`: what it holds, and the token that ended it."""
        following = self._peek_solid()
        if following.kind == lexer.WORD and following.value == name and name != "range":
            self._at += 1
            return (self._block(following),), following
        self._close("else")
        nodes, ending = self._list()
        if ending.kind != "eof" and ending.value == "else":
            raise failure(ending.line, "a second else; end was expected")
        return nodes, ending

    # -- pipelines

    def _pipe(self, place: str, closing: str = lexer.CLOSE) -> Pipe:
        """A pipeline, up to but not including its closing token."""
        line = self._peek_solid().line
        declared, assigns = self._declarations(place)
        commands: list[Command] = []
        if _is_end(self._peek_solid(), closing):
            raise failure(line, f"missing value for {place}")
        while True:
            command = self._command(closing)
            if commands and isinstance(command.args[0], Dot | Nil | Literal):
                raise failure(line, f"non executable command in pipeline stage {len(commands) + 1}")
            commands.append(command)
            if _is_end(self._peek_solid(), closing):
                return Pipe(line, declared, assigns, tuple(commands))
            self._at += 1  # the "|"

    def _declarations(self, place: str) -> tuple[tuple[str, ...], bool]:
        start, names = self._at, list[str]()
        while (token := self._peek_solid()).kind == lexer.VARIABLE:
            names.append(str(token.value)[1:])
            self._at += 1
            mark = self._peek_solid()
            if _is_mark(mark, ":=") or _is_mark(mark, "="):
                self._at += 1
                self._scope += names
                return tuple(names), mark.value == "="
            if len(names) > 1 or not _is_mark(mark, ","):
                break
            if place != "range":
                raise failure(mark.line, f"too many declarations in {place}")
            self._at += 1
            if self._peek_solid().kind != lexer.VARIABLE:
                raise failure(mark.line, "range can only initialize variables")
        if len(names) > 1:
            raise self._unexpected(self._peek_solid(), "the declarations of a range")
        self._at = start
        return (), False

    def _command(self, closing: str) -> Command:
        """One command, up to but not including the `|` or the closing token behind it."""
        args: list[Operand] = []
        while not _is_end(token := self._peek_solid(), closing) and not _is_mark(token, "|"):
            args.append(self._operand())
            after = self._peek()
            if after.kind != lexer.SPACE and not _is_end(after, closing) and not _is_mark(after, "|"):
                raise self._unexpected(after, "operand")
        if not args:
            raise failure(token.line, "empty command")
        return Command(tuple(args))

    def _operand(self) -> Operand:
        term = self._term()
        path: list[str] = []
        while (token := self._peek()).kind == lexer.FIELD and token.value != ".":
            path.append(str(token.value)[1:])
            self._at += 1
        if not path:
            return term
        match term:
            case Field():
                return Field((*term.path, *path))
            case Variable():
                return Variable(term.name, tuple(path))
            case Pipe() | Function():
                return Chain(term, tuple(path))
        raise failure(token.line, f"unexpected . after a term: .{'.'.join(path)}")

    def _term(self) -> Operand:
        token = self._next()
        match token.kind:
            case lexer.LITERAL:
                return Literal(token.value)
            case lexer.FIELD:
                return Dot() if token.value == "." else Field((str(token.value)[1:],))
            case lexer.VARIABLE:
                name = str(token.value)[1:]
                if name not in self._scope:
                    raise failure(token.line, f"undefined variable {token.value!r}")
                return Variable(name)
            case lexer.WORD:
                return self._word(token)
            case _ if _is_mark(token, "("):
                self._enter(token.line)
                pipe = self._pipe("parenthesized pipeline", ")")
                self._at += 1
                self._depth -= 1
                return pipe
        raise self._unexpected(token, "operand")

    def _word(self, token: Token) -> Operand:
        name = str(token.value)
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in _KEYWORDS:
            raise self._unexpected(token, "operand")
        if name not in NAMES:
            raise failure(token.line, f"function {name!r} not defined")
        return Function(name)


def _is_mark(token: Token, mark: str) -> bool:
    return token.kind == lexer.MARK and token.value == mark


def _is_end(token: Token, closing: str) -> bool:
    """Whether the pipeline ends here; a token that closes something else is for the operand to refuse."""
    return token.kind == lexer.CLOSE if closing == lexer.CLOSE else _is_mark(token, closing)
