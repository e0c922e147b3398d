"""Attached engines in one JSON file of the node's home. Its mode is 0600: it holds API keys."""

import asyncio
import os
import tempfile
from pathlib import Path

import msgspec

from ollamamax.core.errors import DiskFull, StoreError
from ollamamax.core.types import AttachedEngine


class _Book(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    engines: tuple[AttachedEngine, ...]


class FileEngineBook:
    """`<home>/engines.json`, replaced as a whole: written beside, synced, renamed."""

    def __init__(self, home: Path) -> None:
        self._path = home / "engines.json"

    async def load(self) -> tuple[AttachedEngine, ...]:
        """Empty where there is no file yet. Raises: StoreError if it can't be read; the file is left as it is."""
        return await asyncio.to_thread(self._load)

    async def save(self, engines: tuple[AttachedEngine, ...]) -> None:
        """Replace all. Raises: DiskFull, StoreError; then the former file stands."""
        await asyncio.to_thread(self._save, engines)

    def _load(self) -> tuple[AttachedEngine, ...]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StoreError(f"can't read {self._path}: {error.strerror}") from error
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
        temporary = ""
        try:
            handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".engines-")
            with os.fdopen(handle, "wb") as file:  # mkstemp gives mode 0600
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except OSError as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            kind = DiskFull if error.errno in (28, 122) else StoreError
            raise kind(f"can't write {self._path}: {error.strerror}") from error
