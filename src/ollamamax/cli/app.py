"""The program `ollamamax`: how it starts, and how errors end it."""

import os
import sys
from collections.abc import Callable
from typing import Final, NoReturn

from ollamamax.cli import serving
from ollamamax.cli.errors import CliError
from ollamamax.core.errors import OllamaMaxError, SettingsError

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""
_SERVE: Final = (["serve"], ["start"])


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0, 1 for an error, 2 for wrong usage or settings, 130 after Ctrl-C.

    arguments: None = the program's own. A node is served by this process, which then has nothing in memory of what
    reads command lines.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if arguments is None and words[:1] in _SERVE and hasattr(os, "fork"):
        _end(lambda: serving.run(serving.ordered(lambda start: _command(words, start))))
    _command(words, serving.run)


def _command(words: list[str], start: Callable[[serving.Order], int]) -> NoReturn:
    def run() -> NoReturn:
        from ollamamax.cli import program  # not in a process that serves: 5 MB

        program.run_command(words, start)

    _end(run)


def _end(work: Callable[[], int]) -> NoReturn:
    try:
        sys.exit(work())
    except (CliError, OllamaMaxError) as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(_exit_code(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _exit_code(error: CliError | OllamaMaxError) -> int:
    if isinstance(error, CliError):
        return error.exit_code
    return 2 if isinstance(error, SettingsError) else 1
