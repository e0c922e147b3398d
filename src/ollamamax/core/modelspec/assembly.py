"""A GGUF that is to be made of files: its key-values, and where each tensor's data come from."""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from ollamamax.core.errors import BadRequest, GgufError
from ollamamax.core.modelspec import split_gguf
from ollamamax.core.modelspec.gguf_layout import Layout, aligned, tensor_bytes
from ollamamax.core.modelspec.gguf_writer import header

_SPLIT_KEYS: Final = "split."


class Planned(Struct, frozen=True):
    """A tensor of the new file. kind: number of its ggml type.  shape: as GGUF has it, innermost dimension first.

    file, offset, source_kind: which source file has its data, from which byte on, and in which type.
    heads: 0, or how many heads have their rows' halves to be interleaved, as llama.cpp's rotation wants them.
    data: what it holds, where no file does.
    """

    name: str
    kind: int
    shape: tuple[int, ...]
    file: str
    offset: int
    source_kind: int
    heads: int = 0
    data: bytes = b""

    @property
    def size_bytes(self) -> int:
        """Of its data in the new file."""
        return tensor_bytes(self.kind, self.shape)

    @property
    def source_bytes(self) -> int:
        """Of its data in the source."""
        return tensor_bytes(self.source_kind, self.shape)


class Assembly(Struct, frozen=True):
    """All of the new file. architecture: as it stands in its key-values."""

    architecture: str
    pairs: Mapping[str, bytes]
    tensors: tuple[Planned, ...]

    def header(self) -> bytes:
        """The bytes before the first tensor's data."""
        return header(self.pairs, [(tensor.name, tensor.kind, tensor.shape) for tensor in self.tensors])

    def size_bytes(self) -> int:
        """Of the whole file."""
        return len(self.header()) + sum(aligned(tensor.size_bytes) for tensor in self.tensors)


def of_ggufs(layouts: Mapping[str, Layout]) -> Assembly:
    """One GGUF of one, or of all parts of one. layouts: by the file's name.

    Raises: BadRequest naming what is missing, GgufError for parts that contradict each other.
    """
    names = split_gguf.in_order({name: found.facts for name, found in layouts.items()})
    first = layouts[names[0]]
    pairs = {key: value for key, value in first.pairs.items() if not key.startswith(_SPLIT_KEYS)}
    tensors = [
        Planned(place.name, place.kind, place.shape, name, place.offset, place.kind)
        for name in names
        for place in layouts[name].tensors
    ]
    _check(first, tensors)
    return Assembly(first.facts.architecture, pairs, tuple(tensors))


def _check(first: Layout, tensors: Sequence[Planned]) -> None:
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise GgufError("the parts hold a tensor twice: they are not of one model")
    expected = first.facts.metadata.get("split.tensors.count", len(tensors))
    if expected != len(tensors):
        raise GgufError(f"the parts hold {len(tensors)} tensors, and the first one says {expected}: they don't match")
    if not first.facts.architecture:
        raise BadRequest("the first part says nothing of the model: general.architecture is missing")
