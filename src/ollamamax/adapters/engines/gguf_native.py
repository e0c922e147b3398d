"""ggml's conversions of numbers, as the engine package brings them. For child processes only: it is native code.

The package offers them to C, not to Python, so its extension module is opened as the shared library that it is.
Source: ggml `ggml/include/ggml.h`.
"""

import ctypes
from math import prod
from typing import Any, Final

from ollamamax.core.errors import Unsupported
from ollamamax.core.modelspec.ggml_types import TENSOR_TYPES

_F32: Final = 0
_TO_F32: Final = {1: "ggml_fp16_to_fp32_row", 30: "ggml_bf16_to_fp32_row"}
_QUANTIZE: Final = "ggml_quantize_chunk"


class Native:
    """The functions. Thread-safe; they let other threads run."""

    def __init__(self) -> None:
        """Raises: Unsupported where the engine package does not show them."""
        import xllamacpp.xllamacpp

        library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
        try:
            self._quantize: Any = library[_QUANTIZE]
            self._to_f32: dict[int, Any] = {kind: library[name] for kind, name in _TO_F32.items()}
        except AttributeError:
            raise Unsupported(
                "the engine package of this machine does not let its converter be used; convert the GGUF with "
                "llama.cpp's llama-quantize, then create from the result"
            ) from None
        number = ctypes.c_int64
        self._quantize.restype = ctypes.c_size_t
        self._quantize.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[number] * 3, ctypes.c_void_p]
        for function in self._to_f32.values():
            function.restype = None
            function.argtypes = [ctypes.c_char_p, ctypes.c_void_p, number]

    def convert(self, data: bytes, source_kind: int, kind: int, width: int) -> bytes:
        """Rows of `width` numbers of one ggml type as rows of another. source_kind: F32, F16 or BF16."""
        _, block, block_bytes = TENSOR_TYPES[kind]
        count = len(data) // TENSOR_TYPES[source_kind][2]
        if source_kind == _F32:
            floats: Any = ctypes.create_string_buffer(data, len(data))
        else:
            floats = ctypes.create_string_buffer(count * 4)
            self._to_f32[source_kind](data, floats, count)
        if kind == _F32:
            return bytes(floats.raw)
        out = ctypes.create_string_buffer(count // block * block_bytes)
        written = self._quantize(kind, floats, out, 0, count // width, width, None)
        assert written == len(out), "ggml wrote another number of bytes than its types say"
        return bytes(out.raw)


def rows_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """(rows, numbers in a row) of a tensor in GGUF's order of dimensions; a vector is one row."""
    return prod(shape[1:]), shape[0] if shape else 1
