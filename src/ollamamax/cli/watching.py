"""A text that is shown anew every second, until Ctrl-C."""

import sys
import time
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ollamamax.cli.errors import Unreachable

_EVERY_S: Final = 1.0


def watch(render: Callable[[], str]) -> None:
    """In place on a terminal, else one after the other. A node that can't be reached for a while is told of, too.

    Raises: CliError that render() raises, KeyboardInterrupt.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        while True:
            sys.stdout.write(_told(render) + "\n")
            sys.stdout.flush()
            time.sleep(_EVERY_S)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(Text(_told(render)), refresh=True)
            time.sleep(_EVERY_S)


def _told(render: Callable[[], str]) -> str:
    try:
        return render()
    except Unreachable as error:
        return f"{error}\n"
