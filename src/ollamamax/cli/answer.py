"""An answer on its way to the screen: spinner until the first piece, thinking dim, words wrapped."""

import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ollamamax.cli.output import harmless
from ollamamax.cli.wrap import WordWrap

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"


class AnswerPrinter:
    """Writes an answer's pieces as they come; keeps their sum. Control characters never reach a terminal."""

    def __init__(self, out: TextIO, *, wrap: bool = True, hide_thinking: bool = False) -> None:
        self._out = out
        self._terminal = out.isatty()
        self._wraps = wrap and self._terminal
        self._hide_thinking = hide_thinking
        self._wrap = self._new_wrap()
        self._thinking = False
        self._shown = False
        self._text: list[str] = []
        self._thoughts: list[str] = []

    @property
    def text(self) -> str:
        """All of the answer so far."""
        return "".join(self._text)

    @property
    def thinking(self) -> str:
        """All of the thinking so far."""
        return "".join(self._thoughts)

    def feed(self, *, text: str = "", thinking: str = "") -> None:
        """Show the next piece."""
        if thinking:
            self._thoughts.append(thinking)
            if not self._hide_thinking:
                self._begin_thinking()
                self._show(thinking)
        if text:
            self._end_thinking()
            self._text.append(text)
            self._show(text)
        self._out.flush()

    def finish(self) -> None:
        """End the line, if there is one; also after an interruption."""
        self._end_thinking()
        if self._shown:
            self._out.write(self._wrap.finish() + "\n")
            self._out.flush()

    def _new_wrap(self) -> WordWrap:
        return WordWrap(max(shutil.get_terminal_size().columns - 1, 20))

    def _show(self, text: str) -> None:
        self._shown = True
        if self._terminal:
            text = harmless(text)
        self._out.write(self._wrap.feed(text) if self._wraps else text)

    def _begin_thinking(self) -> None:
        if not self._thinking:
            self._thinking = True
            self._out.write((_DIM if self._terminal else "") + "Thinking...\n")

    def _end_thinking(self) -> None:
        if self._thinking:
            self._thinking = False
            self._out.write(self._wrap.finish() + "\n...done thinking.\n\n" + (_PLAIN if self._terminal else ""))
            self._wrap = self._new_wrap()


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Something moves on standard error while nothing else can be shown; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def first_piece(chunks: Iterable[dict[str, Any]], text: str) -> Iterator[dict[str, Any]]:
    """The same chunks, with a spinner until the first one is there."""
    iterator = iter(chunks)
    with spinner(text):
        first = next(iterator, None)
    if first is not None:
        yield first
        yield from iterator
