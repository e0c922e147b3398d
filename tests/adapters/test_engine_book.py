"""The file behind `engine add`: kept whole or not at all."""

from pathlib import Path

import pytest

from ollamamax.adapters.state.engine_book import FileEngineBook
from ollamamax.core.errors import StoreError
from ollamamax.core.types import AttachedEngine, EngineKind

BOX = AttachedEngine(name="box", kind=EngineKind.OLLAMA, url="http://127.0.0.1:1", api_key="secret", slots=2)


async def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    book = FileEngineBook(tmp_path)
    assert await book.load() == ()
    await book.save((BOX,))
    assert await FileEngineBook(tmp_path).load() == (BOX,)
    assert (tmp_path / "engines.json").stat().st_mode & 0o777 == 0o600
    await book.save(())
    assert await book.load() == ()
    assert [path.name for path in tmp_path.iterdir()] == ["engines.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 1, "engines": [{"name": 3}]}', '{"version": 2, "engines": []}']
)
async def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "engines.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"engines\.json"):
        await FileEngineBook(tmp_path).load()
    assert path.read_text() == text


async def test_an_unwritable_home_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"can't access .*/file/engines\.json"):
        await FileEngineBook(tmp_path / "file").save((BOX,))
