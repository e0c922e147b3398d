"""Sizes, times, tables, word wrap, descriptions."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from fake_node import SHOWN
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.cli.describe import describe
from ollamamax.cli.listing import processor
from ollamamax.cli.output import ago, duration, harmless, size, span, statistics, table, until
from ollamamax.cli.wrap import WordWrap, cells

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 KB"), (1500, "1.5 KB"), (274_000_000, "274 MB"), (4_661_000_000, "4.7 GB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.5, "less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "1 minute"), (3 * 3600, "3 hours")),
        *((47 * 3600, "47 hours"), (3 * 86400, "3 days"), (21 * 86400, "3 weeks"), (90 * 86400, "3 months")),
        (800 * 86400, "2 years"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_times_relative_to_now() -> None:
    assert ago("2026-01-02T03:04:00.123456789Z", NOW) == "4 seconds ago"
    assert ago("2026-01-02T05:04:05+02:00", NOW) == "less than a second ago"
    assert ago("2026-01-02T03:14:05Z", NOW) == "10 minutes from now"
    assert ago("", NOW) == ago("soon", NOW) == ago("2026-01-02T03:04:05", NOW) == "-"
    assert until((NOW + timedelta(minutes=4, seconds=9)).isoformat(), NOW) == "4 minutes from now"
    assert until("2318-04-10T23:47:16.854775807Z", NOW) == "Forever"
    assert until("2026-01-02T03:04:04Z", NOW) == "Stopping..."
    assert until("", NOW) == "-"


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        *((0, "0s"), (12_500_000, "12.5ms"), (1_234_567_000, "1.234567s"), (62_500_000_000, "1m2.5s")),
        (3_600_000_000_000, "1h0m0s"),
    ],
)
def test_durations(nanoseconds: int, text: str) -> None:
    assert duration(nanoseconds) == text


def test_statistics() -> None:
    final = {"total_duration": 2 * 10**9, "prompt_eval_count": 10, "prompt_eval_duration": 10**9, "eval_count": 3}
    assert statistics(final) == (
        "total duration:       2s\n"
        "prompt eval count:    10 token(s)\n"
        "prompt eval duration: 1s\n"
        "prompt eval rate:     10.00 tokens/s\n"
        "eval count:           3 token(s)\n"
    )


def test_tables_align() -> None:
    assert table(("A", "LONG"), [("xyz", "1"), ("", "2")]) == "A      LONG\nxyz    1\n       2\n"


def test_processor() -> None:
    assert processor(100, 0) == "100% CPU"
    assert processor(100, 100) == "100% GPU"
    assert processor(100, 52) == "48%/52% CPU/GPU"
    assert processor(0, 0) == "100% CPU"


def test_control_characters_stay_out() -> None:
    assert harmless("a\x1b[2Jb\tc\nd\x07\x9b\x7f") == "a[2Jb\tc\nd"


def wrapped(text: str, width: int, pieces: int = 1) -> str:
    wrap = WordWrap(width)
    return "".join(wrap.feed(text[i : i + pieces]) for i in range(0, len(text), pieces)) + wrap.finish()


def test_words_wrap() -> None:
    assert wrapped("one two three four", 9) == "one two\nthree\nfour"
    assert wrapped("  indented\n  code", 40) == "  indented\n  code"
    assert wrapped("exactly10! next", 10) == "exactly10!\nnext"
    assert wrapped("averyveryverylongword x", 8) == "averyveryverylongword x"
    assert wrapped("日本語のテキスト", 6) == "日本語\nのテキ\nスト"
    assert cells("é日́") == 3


@given(st.text(alphabet="ab \n", max_size=60), st.integers(4, 20), st.integers(1, 7))
def test_wrapping_moves_blanks_only_and_splits_no_word_that_fits(text: str, width: int, pieces: int) -> None:
    result = wrapped(text, width, pieces)
    assert result.split() == text.split()
    assert result == wrapped(text, width), "how the text was cut does not matter"
    for line in result.split("\n"):
        for word in re.finditer(r"\S+", line):
            first, last = word.start() // width, (word.end() - 1) // width  # rows, as the terminal folds them
            assert first == last or len(word.group()) > width or line.startswith(" ")


def test_a_description() -> None:
    assert describe(SHOWN) == (
        "  Model\n"
        "    architecture        llama\n"
        "    parameters          3.5M\n"
        "    context length      512\n"
        "    embedding length    64\n"
        "    quantization        F16\n"
        "\n"
        "  Capabilities\n"
        "    completion\n"
        "    thinking\n"
        "\n"
        "  Parameters\n"
        '    stop           "<end>"\n'
        "    temperature    0.5\n"
        "\n"
        "  System\n"
        "    You are small.\n"
        "\n"
        "  License\n"
        "    one\n"
        "    two\n"
        "    ...\n"
    )


def test_a_description_of_what_a_model_requires() -> None:
    assert "    requires            0.14.0\n" in describe(SHOWN | {"requires": "0.14.0"})


def test_a_verbose_description() -> None:
    text = describe(SHOWN | {"tensors": [{"name": "t", "type": "F16", "shape": [2, 3]}]}, verbose=True)
    assert "  Metadata\n    general.architecture      llama\n" in text
    assert "  Tensors\n    t    F16    [2, 3]\n" in text
    assert describe({}) == ""
