import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hf_directory as hf
from ollamamax.core.errors import GgufError, GgufTruncated, GgufUnsupported
from ollamamax.core.modelspec.safetensors import LENGTH_BYTES, header_bytes, tensors


def read(data: bytes) -> list[Any]:
    length = header_bytes(data[:LENGTH_BYTES], len(data))
    return tensors(data[LENGTH_BYTES : LENGTH_BYTES + length], len(data))


@pytest.mark.parametrize(("dtype", "kind"), [("F32", 0), ("F16", 1), ("BF16", 30)])
def test_tensors_and_where_they_are(dtype: str, kind: int) -> None:
    written = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32), "c": np.zeros((0, 2))}
    data = hf.safetensors(written, dtype)
    found = read(data)
    assert [(tensor.name, tensor.kind, tensor.shape) for tensor in found] == [
        ("a", kind, (2, 3)),
        ("b", kind, (4,)),
        ("c", kind, (0, 2)),
    ]
    for tensor in found:
        expected = hf.encoded(written[tensor.name], dtype)
        assert data[tensor.offset : tensor.offset + len(expected)] == expected


def of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str = "F32", shape: tuple[int, ...] = (2,), offsets: tuple[int, int] = (0, 8)) -> dict[str, Any]:
    return {"t": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (b"", GgufTruncated, "it has no header"),
        (b"\xff" * 8, GgufError, "claims a header of"),
        (of({})[:-1], GgufTruncated, "cut off in its header"),
        (of(b"{"), GgufError, "its header can't be read"),
        (of(b"[]"), GgufError, "its header can't be read"),
        (of({"t": {"dtype": "F32"}}), GgufError, "its header can't be read"),
        (of(entry("F8_E4M3")), GgufUnsupported, "'t' has numbers of the type F8_E4M3; F32, F16 and BF16 can be"),
        (of(entry(offsets=(0, 7)), bytes(8)), GgufError, "does not have the size of its shape"),
        (of(entry(shape=(-2,), offsets=(8, 0)), bytes(8)), GgufError, "does not have the size of its shape"),
        (of(entry(offsets=(-8, 0)), bytes(8)), GgufError, "does not have the size of its shape"),
        (of(entry(), bytes(7)), GgufTruncated, "tensor 't' ends"),
    ],
)
def test_damage(data: bytes, kind: type, text: str) -> None:
    with pytest.raises(kind) as caught:
        read(data)
    assert type(caught.value) is kind
    assert text in str(caught.value)


@given(st.binary(), st.integers(0, 1 << 40))
def test_any_header_is_read_or_refused(data: bytes, size: int) -> None:
    try:
        tensors(data, size)
    except GgufError:
        pass
