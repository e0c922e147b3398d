"""Bars for long work, on standard error; plain lines where that is no terminal."""

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class ProgressView:
    """Bars by title. quiet: show nothing, for scripts."""

    def __init__(self, *, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._quiet = quiet
        self._lines = not console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=quiet or self._lines,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last = ""

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def bar(self, title: str, total_bytes: int) -> Callable[[int], None]:
        """A new bar; call the result with the bytes that were done since."""
        if self._lines:
            self._line(title)
        task = self._bars.add_task(title, total=total_bytes)
        return lambda count_bytes: self._bars.advance(task, count_bytes)

    def report(self, item: dict[str, Any]) -> None:
        """One line of the API's progress: a bar where it has a total, else its words."""
        status, total = str(item.get("status", "")), item.get("total")
        if not total or self._lines:
            self._line(status)
            return
        if status not in self._tasks:
            self._tasks[status] = self._bars.add_task(status, total=total)
        self._bars.update(self._tasks[status], completed=item.get("completed", 0))

    def say(self, text: str) -> None:
        """A line of words."""
        self._line(text)

    def _line(self, text: str) -> None:
        """Each once in a row."""
        if self._quiet or text == self._last:
            return
        self._last = text
        if self._lines:
            sys.stderr.write(text + "\n")
        else:
            self._bars.console.print(text, highlight=False, markup=False)
