import hashlib
from pathlib import Path

import pytest

from ollamamax.adapters.storage.builtin_model import BuiltinModel
from ollamamax.core.errors import StoreError


async def test_it_is_due_once_per_home(tmp_path: Path) -> None:
    first, again = (BuiltinModel(tmp_path / "tiny.gguf", tmp_path / "home") for _ in range(2))
    assert await first.is_due()
    assert await again.is_due()
    await first.mark()
    assert not await again.is_due()
    assert await BuiltinModel(tmp_path / "other.gguf", tmp_path / "home").is_due()


async def test_its_bytes_and_digest(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "tiny.gguf").write_bytes(data)
    model = BuiltinModel(tmp_path / "tiny.gguf", tmp_path)
    assert b"".join([piece async for piece in model.body()]) == data
    assert await model.digest() == f"sha256:{hashlib.sha256(data).hexdigest()}"


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    model = BuiltinModel(tmp_path / "tiny.gguf", tmp_path)
    with pytest.raises(StoreError, match=r"tiny\.gguf: No such file"):
        await model.digest()
    with pytest.raises(StoreError, match=r"tiny\.gguf: No such file"):
        await anext(model.body())
