"""The packaged model and the mark that it was offered: it is installed once per home, so that removing it sticks."""

import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from ollamamax.adapters.disk import explained, in_thread, write_file

_PIECE_BYTES: Final = 1 << 20


class BuiltinModel:
    """A GGUF file of the package. home: the node's own directory, where the mark is kept."""

    def __init__(self, gguf: Path, home: Path) -> None:
        self._gguf = gguf
        self._mark = home / f".installed-{gguf.stem}"

    async def is_due(self) -> bool:
        """True until mark() was called for this home."""
        return not await in_thread(self._mark.exists)

    async def mark(self) -> None:
        """Remember that it was installed. Raises: DiskFull, StoreReadOnly, StoreError."""
        await in_thread(self._write_mark)

    async def digest(self) -> str:
        """`sha256:<hex>` of the file. Raises: StoreError."""
        return await in_thread(self._hash)

    async def body(self) -> AsyncGenerator[bytes, None]:
        """The file's bytes. Raises: StoreError."""
        with explained(self._gguf):
            file = await in_thread(self._gguf.open, "rb")
            try:
                while piece := await in_thread(file.read, _PIECE_BYTES):
                    yield piece
            finally:
                file.close()

    def _write_mark(self) -> None:
        with explained(self._mark):
            write_file(self._mark, b"")

    def _hash(self) -> str:
        with explained(self._gguf), self._gguf.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
