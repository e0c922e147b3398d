"""GGUF files byte by byte, well-formed or not, for tests of what reads them."""

import struct
from typing import Any, Final

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)

_FORMS: Final = {
    U8: "B",
    I8: "b",
    U16: "H",
    I16: "h",
    U32: "I",
    I32: "i",
    F32: "f",
    BOOL: "?",
    U64: "Q",
    I64: "q",
    F64: "d",
}
Value = tuple[int, Any]
"""(type, value); an array is (ARRAY, (item type, [values]))."""

LLAMA: Final[dict[str, Value]] = {
    "general.architecture": (STRING, "llama"),
    "general.name": (STRING, "small"),
    "general.file_type": (U32, 1),
    "llama.block_count": (U32, 2),
    "llama.context_length": (U32, 512),
    "llama.embedding_length": (U32, 64),
    "llama.feed_forward_length": (U32, 128),
    "llama.attention.head_count": (U32, 4),
    "llama.attention.head_count_kv": (U32, 2),
    "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
    "tokenizer.ggml.tokens": (ARRAY, (STRING, [f"t{index}" for index in range(9)])),
    "tokenizer.chat_template": (STRING, "{{ messages }}"),
}
TENSORS: Final = (("token_embd.weight", (64, 9), 1), ("output_norm.weight", (64,), 0))


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def value(kind: int, content: Any) -> bytes:
    if kind == STRING:
        return string(content)
    if kind == ARRAY:
        item, items = content
        return struct.pack("<IQ", item, len(items)) + b"".join(value(item, each) for each in items)
    return struct.pack("<" + _FORMS[kind], content)


def pairs(values: dict[str, Value]) -> bytes:
    return b"".join(
        string(key) + struct.pack("<I", kind) + value(kind, content) for key, (kind, content) in values.items()
    )


def llama(
    changes: dict[str, Value | None] | None = None,
    tensors: tuple[tuple[str, tuple[int, ...], int], ...] = TENSORS,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """A small llama. changes: keys that differ, None for one that is left out. tensors: (name, shape, ggml type)."""
    values = {key: content for key, content in {**LLAMA, **(changes or {})}.items() if content is not None}
    head = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(values)) + pairs(values)
    offset = 0
    for name, shape, kind in tensors:
        head += string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, offset)
        offset += -(-_bytes_of(shape, kind) // alignment) * alignment
    head += bytes(-len(head) % alignment)
    return head + bytes(offset)


def _bytes_of(shape: tuple[int, ...], kind: int) -> int:
    """For F32, F16 and Q4_0 only; everything else takes no room."""
    count = 1
    for size in shape:
        count *= size
    return {0: count * 4, 1: count * 2, 2: count // 32 * 18}.get(kind, 0)
