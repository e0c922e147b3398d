"""Lines from a person at a terminal: editing, history, several lines between triple quotes."""

import os
from pathlib import Path
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.filters import is_searching
from prompt_toolkit.history import FileHistory, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output

PROMPT = ">>> "
CONTINUED = "... "
QUOTES = '"""'


class LineSource(Protocol):
    """Where lines come from. keep_history: whether what is typed is remembered beyond this program."""

    keep_history: bool

    def line(self, prompt: str) -> str:
        """The next line. Raises: EOFError (Ctrl-D on an empty line), KeyboardInterrupt (Ctrl-C)."""
        ...


class _FileHistory(FileHistory):
    """A history file that can be paused."""

    paused = False

    def store_string(self, string: str) -> None:
        """Append, unless paused."""
        if not self.paused:
            super().store_string(string)


class TerminalLines:
    """prompt_toolkit's editor. path: the history file, made with mode 0600; None keeps history in memory."""

    def __init__(self, path: Path | None, *, input: Input | None = None, output: Output | None = None) -> None:
        self._history = _file_history(path) if path is not None else None
        self._session: PromptSession[str] = PromptSession(
            history=self._history or InMemoryHistory(),
            key_bindings=_shortcuts(),
            enable_open_in_editor=True,
            input=input,
            output=output,
        )

    @property
    def keep_history(self) -> bool:
        """Whether lines go to the file."""
        return self._history is not None and not self._history.paused

    @keep_history.setter
    def keep_history(self, wanted: bool) -> None:
        if self._history is not None:
            self._history.paused = not wanted

    def line(self, prompt: str) -> str:
        """The next line. Raises: EOFError, KeyboardInterrupt."""
        return self._session.prompt(prompt)


def _shortcuts() -> KeyBindings:
    """Beyond those that the editor has: Ctrl-G writes in $EDITOR, save in a search, which it ends."""
    shortcuts = KeyBindings()

    @shortcuts.add("c-g", filter=~is_searching)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor()

    return shortcuts


def _file_history(path: Path) -> _FileHistory | None:
    """The history of that file, or None where it can't be written: a prompt without memory is still a prompt."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600))
    except OSError:
        return None
    return _FileHistory(str(path))


def read_input(lines: LineSource) -> str:
    """One input of a person: a line, or all from an opening triple quote to the closing one.

    Raises: EOFError, KeyboardInterrupt.
    """
    text = lines.line(PROMPT)
    if text.lstrip().startswith((QUOTES, "/set system " + QUOTES)):
        while text.count(QUOTES) < 2:
            text += "\n" + lines.line(CONTINUED)
    return text


def unquoted(text: str) -> str:
    """Without the triple (or plain double) quotes around it."""
    text = text.strip()
    for quotes in (QUOTES, '"'):
        if len(text) >= 2 * len(quotes) and text.startswith(quotes) and text.endswith(quotes):
            return text[len(quotes) : -len(quotes)].strip("\n")
    return text
