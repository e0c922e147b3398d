"""The header of a GGUF file, versions 2 and 3, little-endian: what placement and /api/show need to know of a model.

Layout: magic, version, tensor count, key-value count, key-values, tensor infos, padding to `general.alignment`,
tensor data. Source: ggml `docs/gguf.md`.

Deliberate limits: big-endian files, arrays in arrays and more than 4 dimensions are refused, as llama.cpp does.
"""

from math import prod
from typing import Any, Final

from ollamamax.core.errors import GgufError, GgufForeign, GgufTruncated, GgufUnsupported
from ollamamax.core.modelspec.ggml_types import FILE_TYPES, TENSOR_TYPES, UNKNOWN_FILE_TYPE
from ollamamax.core.modelspec.gguf_reader import MAX_ARRAY_ITEMS, SHORT_ARRAY_ITEMS, LongArray, Reader
from ollamamax.core.types import GgufFacts

SPLIT_NUMBER: Final = "split.no"
"""Which of its parts a split GGUF's file is, from 0 on. All but the first part say nothing else of the model."""

_MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)
_MAX_KEYS: Final = 1 << 16
_MAX_TENSORS: Final = 1 << 20
_MAX_DIMENSIONS: Final = 4
_MAX_BLOCKS: Final = 1 << 12
_MAX_INT: Final = (1 << 63) - 1
_DEFAULT_ALIGNMENT: Final = 32
_GUESSED_FILE_TYPE: Final = 1024

_FOREIGN: Final = (
    (b"PK\x03\x04", "is a zip archive, perhaps a PyTorch checkpoint"),
    (b"lmgg", "is a GGML file from before GGUF"),
    (b"fmgg", "is a GGML file from before GGUF"),
    (b"tjgg", "is a GGML file from before GGUF"),
    (b"algg", "is a GGML adapter from before GGUF"),
    (b"\x1f\x8b", "is a gzip archive"),
    (b"\x80\x02", "is a Python pickle, perhaps a PyTorch checkpoint"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file that it points to"),
    (b"<", "is a web page or XML"),
    (b"{", "is JSON"),
)

# Per-layer lists: long ones are needed whole although the metadata drops them.
_PER_LAYER: Final = (".attention.head_count_kv", ".attention.head_count", ".feed_forward_length")

_Tensor = tuple[str, str, tuple[int, ...]]


def parse(buffer: memoryview | bytes, file_bytes: int, whole_arrays: bool = False) -> GgufFacts:
    """Facts of the GGUF whose first bytes are `buffer` and whose length is `file_bytes`.

    buffer must hold the header; an mmap of the file is right, as only the header's pages are touched.
    whole_arrays: metadata keeps arrays of any length (else those of more than 5 elements stand as []).
    Raises: GgufForeign, GgufTruncated, GgufUnsupported (a tensor type that is unknown), GgufError (damage).
    """
    view = memoryview(buffer)
    reader = _after_version(view, file_bytes)
    tensor_count, key_count = reader.u64(), reader.u64()
    if tensor_count > _MAX_TENSORS or key_count > _MAX_KEYS:
        raise GgufError(f"the GGUF is damaged: it claims {tensor_count} tensors and {key_count} keys")
    values = _key_values(reader, key_count, whole_arrays)
    tensors, tensor_bytes, end = _tensors(reader, tensor_count)
    data_start = _aligned(reader.position, _alignment(values))
    if tensor_count and data_start + end > file_bytes:
        raise GgufTruncated(
            f"the GGUF is cut off: {data_start + end - file_bytes} of {data_start + end} bytes are missing "
            "at its end; download or copy it again"
        )
    return _facts(values, tensors, tensor_bytes, file_bytes, whole_arrays)


def parameter_size(count: int) -> str:
    """A number of parameters for people: 3.2B, 134.52M, 22M, 260K (Ollama `format.HumanNumber`)."""
    for unit, letter, digits in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= unit:
            return f"{count / unit:.{0 if count % unit == 0 else digits}f}{letter}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


def _after_version(view: memoryview, file_bytes: int) -> Reader:
    head = bytes(view[:32])
    if head and _MAGIC.startswith(head[:4]) and len(head) < 8:
        raise GgufTruncated(f"the GGUF is cut off: only {file_bytes} bytes are there")
    if head[:4] != _MAGIC:
        raise GgufForeign(f"not a GGUF file: it {_what_else(head)}")
    reader = Reader(view, 4)
    version = reader.u32()
    if version not in _VERSIONS:
        if int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS:
            raise GgufForeign("the GGUF is big-endian; convert it to little-endian")
        raise GgufForeign(f"GGUF version {version} is not known here; versions 2 and 3 are")
    return reader


def _what_else(head: bytes) -> str:
    if not head:
        return "is empty"
    for magic, text in _FOREIGN:
        if head.startswith(magic):
            return text
    if head[8:9] == b"{" and head[7:8] == b"\0":  # a 64-bit length, then JSON
        return "is a safetensors file"
    return f"starts with the bytes {head[:4].hex(' ')}"


def _key_values(reader: Reader, count: int, whole_arrays: bool) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for index in range(count):
        reader.what = f"key {index + 1} of {count}"
        key = reader.string()
        reader.what = f"the value of {key[:80]!r}"
        kept = MAX_ARRAY_ITEMS if whole_arrays else _MAX_BLOCKS if key.endswith(_PER_LAYER) else SHORT_ARRAY_ITEMS
        values[key] = reader.value(kept)
    return values


def _tensors(reader: Reader, count: int) -> tuple[list[_Tensor], int, int]:
    """Tensors, the sum of their sizes and where the last one ends, in bytes from the start of the data."""
    tensors: list[_Tensor] = []
    total = end = 0
    for index in range(count):
        reader.what = f"the description of tensor {index + 1} of {count}"
        name = reader.string()
        dimensions = reader.u32()
        if dimensions > _MAX_DIMENSIONS:
            raise GgufError(f"the GGUF is damaged: tensor {name[:80]!r} claims {dimensions} dimensions")
        shape = tuple(reader.u64() for _ in range(dimensions))
        kind, block, block_bytes = _tensor_type(name, reader.u32())
        elements = prod(shape)
        if (shape[0] if shape else 1) % block or elements > _MAX_INT:
            raise GgufError(f"the GGUF is damaged: tensor {name[:80]!r} of type {kind} has the shape {list(shape)}")
        size = elements // block * block_bytes
        tensors.append((name, kind, shape))
        total += size
        end = max(end, reader.u64() + size)
    return tensors, total, end


def _tensor_type(name: str, number: int) -> tuple[str, int, int]:
    try:
        return TENSOR_TYPES[number]
    except KeyError:
        raise GgufUnsupported(f"tensor {name[:80]!r} has the type {number}, which is not known here") from None


def _alignment(values: dict[str, Any]) -> int:
    alignment = _integer(values, "general.alignment", _DEFAULT_ALIGNMENT)
    if alignment == 0 or alignment & (alignment - 1):
        raise GgufError(f"the GGUF is damaged: general.alignment is {alignment}, which is no power of two")
    return alignment


def _aligned(position: int, alignment: int) -> int:
    return (position + alignment - 1) // alignment * alignment


def _integer(values: dict[str, Any], key: str, default: int) -> int:
    return _whole(values.get(key, default), key)


def _whole(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_INT:
        raise GgufError(f"the GGUF is damaged: {key} is {str(value)[:80]!r}, not a count")
    return value


def _per_layer(values: dict[str, Any], key: str, layers: int, default: int) -> tuple[int, ...]:
    """One count per layer, from a list or a single number that holds for all."""
    value = values.get(key)
    if not isinstance(value, list):
        return (_integer(values, key, default),) * layers
    if len(value) < layers:
        raise GgufError(f"the GGUF is damaged: {key} has {len(value)} entries for {layers} layers")
    return tuple(_whole(count, key) for count in value[:layers])


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key, "")
    return value if isinstance(value, str) else ""


def _count(values: dict[str, Any], key: str) -> int:
    value = values.get(key)
    if isinstance(value, LongArray):
        return value.count
    return len(value) if isinstance(value, list) else 0


def _facts(
    values: dict[str, Any], tensors: list[_Tensor], tensor_bytes: int, file_bytes: int, whole_arrays: bool
) -> GgufFacts:
    architecture = _text(values, "general.architecture")
    if not architecture and SPLIT_NUMBER not in values:
        raise GgufError("the GGUF has no general.architecture, so nothing can be known of it")
    prefix = f"{architecture}."
    layers = _integer(values, prefix + "block_count", 0)
    if layers > _MAX_BLOCKS:
        raise GgufError(f"the GGUF is damaged: {prefix}block_count is {layers}")
    heads = max(_per_layer(values, prefix + "attention.head_count", max(layers, 1), 0))
    embedding = _integer(values, prefix + "embedding_length", 0)
    head_size = embedding // heads if heads else 0
    pooling = prefix + "pooling_type"
    return GgufFacts(
        architecture=architecture,
        file_bytes=file_bytes,
        tensor_bytes=tensor_bytes,
        parameter_count=sum(prod(shape) for _, _, shape in tensors),
        block_count=layers,
        context_length=_integer(values, prefix + "context_length", 0),
        embedding_length=embedding,
        feed_forward_length=max(_per_layer(values, prefix + "feed_forward_length", max(layers, 1), 0)),
        head_count=heads,
        head_count_kv=_per_layer(values, prefix + "attention.head_count_kv", layers, heads),
        key_length=_integer(values, prefix + "attention.key_length", head_size),
        value_length=_integer(values, prefix + "attention.value_length", head_size),
        vocab_size=_integer(values, prefix + "vocab_size", _count(values, "tokenizer.ggml.tokens")),
        sliding_window=_integer(values, prefix + "attention.sliding_window", 0),
        pooling_type=_integer(values, pooling, 0) if pooling in values else None,
        file_type=FILE_TYPES.get(_integer(values, "general.file_type", _GUESSED_FILE_TYPE), UNKNOWN_FILE_TYPE),
        chat_template=_text(values, "tokenizer.chat_template"),
        metadata={
            key: [] if isinstance(value, LongArray) or _is_long(value, whole_arrays) else value
            for key, value in values.items()
        },
        tensors=tuple(tensors),
    )


def _is_long(value: Any, whole_arrays: bool) -> bool:
    return isinstance(value, list) and len(value) > SHORT_ARRAY_ITEMS and not whole_arrays
