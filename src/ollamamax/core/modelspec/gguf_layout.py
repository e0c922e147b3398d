"""Where everything is in a GGUF, for making another one of it: raw key-values, and tensors by their place.

Source: ggml `docs/gguf.md`.
"""

from math import prod
from typing import Final

from msgspec import Struct

from ollamamax.core.modelspec.ggml_types import TENSOR_TYPES
from ollamamax.core.modelspec.gguf import parse
from ollamamax.core.modelspec.gguf_reader import Reader
from ollamamax.core.types import GgufFacts

DEFAULT_ALIGNMENT: Final = 32
"""Of tensors in the file, in bytes, where general.alignment does not say otherwise."""

_AFTER_VERSION: Final = 8


class TensorPlace(Struct, frozen=True):
    """A tensor's description. kind: number of its ggml type.  offset: in bytes from the start of the file."""

    name: str
    kind: int
    shape: tuple[int, ...]
    offset: int

    @property
    def size_bytes(self) -> int:
        """Of its data."""
        return tensor_bytes(self.kind, self.shape)


class Layout(Struct, frozen=True):
    """A GGUF's parts. pairs: key -> type and value, as they stand in the file."""

    facts: GgufFacts
    pairs: dict[str, bytes]
    tensors: tuple[TensorPlace, ...]


def layout(buffer: memoryview | bytes, file_bytes: int) -> Layout:
    """The parts of the GGUF whose first bytes are `buffer`; what may stand there is as for parse().

    Raises: GgufError and its children.
    """
    view = memoryview(buffer)
    facts = parse(view, file_bytes)
    reader = Reader(view, _AFTER_VERSION)
    tensor_count, key_count = reader.u64(), reader.u64()
    pairs: dict[str, bytes] = {}
    for _ in range(key_count):
        key = reader.string()
        start = reader.position
        reader.value(0)
        pairs[key] = bytes(view[start : reader.position])
    described = [_tensor(reader) for _ in range(tensor_count)]
    alignment = int(facts.metadata.get("general.alignment", DEFAULT_ALIGNMENT))
    start = aligned(reader.position, alignment)
    return Layout(
        facts, pairs, tuple(TensorPlace(name, kind, shape, start + offset) for name, kind, shape, offset in described)
    )


def tensor_bytes(kind: int, shape: tuple[int, ...]) -> int:
    """Of a tensor's data. kind: of those that TENSOR_TYPES knows."""
    _, block, block_bytes = TENSOR_TYPES[kind]
    return prod(shape) // block * block_bytes


def aligned(position: int, alignment: int = DEFAULT_ALIGNMENT) -> int:
    """The next multiple of the alignment, or the position itself."""
    return (position + alignment - 1) // alignment * alignment


def _tensor(reader: Reader) -> tuple[str, int, tuple[int, ...], int]:
    name = reader.string()
    shape = tuple(reader.u64() for _ in range(reader.u32()))
    return name, reader.u32(), shape, reader.u64()
