"""The last state that a node has seen, in one file: a header line with the version and a sha256, then msgpack."""

import hashlib
from pathlib import Path
from typing import Final

import msgspec

from ollamamax.adapters.disk import SECRET_MODE, explained, in_thread, read_file, write_file
from ollamamax.core.errors import StateCorrupt, StateTooNew
from ollamamax.core.types import StateRange
from ollamamax.core.types.state import MAX_STATE_BYTES

_MAGIC: Final = b"ollamamax-state"
_VERSION: Final = 1
_LARGEST_BYTES: Final = 2 * MAX_STATE_BYTES


class StateSnapshotFile:
    """A SnapshotFile: replaced as a whole (written beside, synced, renamed), mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self) -> StateRange | None:
        """None if there is no file. Raises: StateCorrupt, StateTooNew, StoreError; the file is left as it is."""
        return await in_thread(self._load)

    async def save(self, state: StateRange) -> None:
        """Replace it, durably. Raises: DiskFull, StoreReadOnly, StoreError; then the former one stands."""
        await in_thread(self._save, state)

    def _load(self) -> StateRange | None:
        data = read_file(self._path, _LARGEST_BYTES)
        if data is None:
            return None
        header, _, body = data.partition(b"\n")
        words = header.split(b" ")
        if len(words) != 3 or words[0] != _MAGIC or not words[1].isdigit() or int(words[1]) < 1:
            raise self._corrupt("it has no header")
        if int(words[1]) > _VERSION:
            raise StateTooNew(
                f"{self._path} was written by a newer OllamaMax (format {int(words[1])}; this program knows {_VERSION})"
            )
        if hashlib.sha256(body).hexdigest().encode() != words[2]:
            raise self._corrupt("its checksum does not match")
        try:
            return msgspec.msgpack.decode(body, type=StateRange)
        except msgspec.MsgspecError as error:
            raise self._corrupt(str(error)) from error

    def _corrupt(self, reason: str) -> StateCorrupt:
        return StateCorrupt(
            f"the last known state of the cluster in {self._path} can't be read: {reason}. It was left as it is; it is "
            "replaced as soon as the node that holds the cluster's state can be reached."
        )

    def _save(self, state: StateRange) -> None:
        data = encode(state)
        with explained(self._path, len(data)):
            write_file(self._path, data, SECRET_MODE)


def encode(state: StateRange) -> bytes:
    """What the file holds."""
    body = msgspec.msgpack.encode(state)
    return b"%s %d %s\n" % (_MAGIC, _VERSION, hashlib.sha256(body).hexdigest().encode()) + body
