"""A bounds-checked cursor over the bytes of a GGUF header. It believes no length before it has compared it."""

import struct
from math import isfinite
from typing import Any, Final

from ollamamax.core.errors import GgufError, GgufTruncated

MAX_ARRAY_ITEMS: Final = 1 << 24
"""More strings than this in one array are damage: the largest vocabularies have some 300,000 entries."""

SHORT_ARRAY_ITEMS: Final = 5
"""Arrays up to this length are kept with the metadata."""

_STRING: Final = 8
_ARRAY: Final = 9
_FLOAT32: Final = 6
_SCALARS: Final = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    _FLOAT32: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32: Final = _SCALARS[4]
_U64: Final = _SCALARS[10]


class LongArray:
    """An array that was skipped: its element count alone is known."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __str__(self) -> str:
        return f"an array of {self.count}"


class Reader:
    """Reads values one after the other; `position` is a byte offset. `what` names what is being read, for errors."""

    def __init__(self, buffer: memoryview, position: int) -> None:
        self._buffer = buffer
        self._size = len(buffer)
        self.position = position
        self.what = "the header"

    def u32(self) -> int:
        """Raises: GgufTruncated."""
        return int(self._take(_U32))

    def u64(self) -> int:
        """Raises: GgufTruncated."""
        return int(self._take(_U64))

    def string(self) -> str:
        """A length of 64 bits and that many bytes of UTF-8 (damaged ones are replaced). Raises: GgufTruncated."""
        length = self.u64()
        self._need(length)
        start = self.position
        self.position += length
        return str(self._buffer[start : start + length], "utf-8", "replace")

    def value(self, max_items: int) -> Any:
        """A type number and a value of it; an array of more than `max_items` is skipped and comes as a LongArray.

        Raises: GgufTruncated, GgufError for a type number out of range or an array in an array.
        """
        kind = self.u32()
        return self._array(max_items) if kind == _ARRAY else self._scalar(kind)

    def _scalar(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        value = self._take(self._form(kind))
        if isinstance(value, float):
            return _plain_float(value, kind == _FLOAT32)
        return value

    def _array(self, max_items: int) -> Any:
        kind = self.u32()
        count = self.u64()
        if kind == _ARRAY:
            raise GgufError(f"the GGUF is damaged: {self.what} is an array of arrays")
        if count <= max_items:
            # One at a time: a false count runs into the end of the buffer before it costs memory.
            return [self._scalar(kind) for _ in range(count)]
        if kind == _STRING:
            self._skip_strings(count)
        else:
            length = count * self._form(kind).size
            self._need(length)
            self.position += length
        return LongArray(count)

    def _skip_strings(self, count: int) -> None:
        if count > MAX_ARRAY_ITEMS:
            raise GgufError(f"the GGUF is damaged: {self.what} claims {count} strings")
        unpack, buffer, position = _U64.unpack_from, self._buffer, self.position
        try:
            for _ in range(count):
                position += 8 + unpack(buffer, position)[0]
        except (struct.error, OverflowError, IndexError):
            position = self._size + 1
        if position > self._size:
            raise self._cut_off()
        self.position = position

    def _form(self, kind: int) -> struct.Struct:
        form = _SCALARS.get(kind)
        if form is None:
            raise GgufError(f"the GGUF is damaged: {self.what} is of the unknown type {kind}")
        return form

    def _take(self, form: struct.Struct) -> Any:
        self._need(form.size)
        (value,) = form.unpack_from(self._buffer, self.position)
        self.position += form.size
        return value

    def _need(self, count: int) -> None:
        if count > self._size - self.position:
            raise self._cut_off()

    def _cut_off(self) -> GgufTruncated:
        return GgufTruncated(
            f"the GGUF is cut off or damaged: {self.what} reaches beyond the end of the file ({self._size} bytes)"
        )


def _plain_float(value: float, single: bool) -> float | None:
    """The shortest decimal that is the same number: 1e-05, where the nearest double is 9.999999747378752e-06.

    None for what JSON can't say (infinities, NaN).
    """
    if not isfinite(value):
        return None
    if not single:
        return value
    form = _SCALARS[_FLOAT32]
    packed = form.pack(value)
    shortest = (float(f"{value:.{digits}g}") for digits in range(6, 10))  # 9 digits tell any two singles apart
    return next(short for short in shortest if form.pack(short) == packed)
