"""Attached engines in one JSON file of the node's home. Its mode is 0600: it holds API keys."""

from pathlib import Path
from typing import Final

import msgspec

from ollamamax.adapters.disk import SECRET_MODE, explained, in_thread, read_file, write_file
from ollamamax.core.errors import StoreError
from ollamamax.core.types import AttachedEngine

_LARGEST_BYTES: Final = 4 << 20


class _Book(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    engines: tuple[AttachedEngine, ...]


class FileEngineBook:
    """`<home>/engines.json`, replaced as a whole: written beside, synced, renamed."""

    def __init__(self, home: Path) -> None:
        self._path = home / "engines.json"

    async def load(self) -> tuple[AttachedEngine, ...]:
        """Empty where there is no file yet. Raises: StoreError if it can't be read; the file is left as it is."""
        return await in_thread(self._load)

    async def save(self, engines: tuple[AttachedEngine, ...]) -> None:
        """Replace all. Raises: DiskFull, StoreReadOnly, StoreError; then the former file stands."""
        await in_thread(self._save, engines)

    def _load(self) -> tuple[AttachedEngine, ...]:
        data = read_file(self._path, _LARGEST_BYTES)
        if data is None:
            return ()
        try:
            book = msgspec.json.decode(data, type=_Book)
        except msgspec.MsgspecError as error:
            raise StoreError(
                f"{self._path} is damaged ({error}). "
                "Move it away and attach the engines again with `ollamamax engine add`."
            ) from error
        if book.version != 1:
            raise StoreError(f"{self._path} was written by another version of OllamaMax (format {book.version})")
        return book.engines

    def _save(self, engines: tuple[AttachedEngine, ...]) -> None:
        data = msgspec.json.format(msgspec.json.encode(_Book(1, engines)), indent=2)
        with explained(self._path, len(data)):
            write_file(self._path, data, SECRET_MODE)
