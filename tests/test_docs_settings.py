"""docs/settings.md is what the tree says."""

from pathlib import Path

from ollamamax.settings.tree import knobs
from ollamamax.settings_docs import render

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run `make docs`"


def test_every_setting_is_explained() -> None:
    for key, knob in knobs().items():
        assert knob.meaning.endswith("."), key
        assert knob.why.endswith("."), key
        assert f"`{key}`" in render()
        assert f"`{knob.variable}`" in render()


def test_a_number_with_a_unit_says_which() -> None:
    for key, knob in knobs().items():
        suffix = key.rpartition("_")[2]
        expected = {"s": "seconds", "bytes": "bytes", "ms": "milliseconds"}.get(suffix)
        assert expected is None or knob.unit == expected, key
