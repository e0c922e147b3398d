"""Estimates and moving averages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.routing.predict import (
    IMAGE_TOKENS,
    MIN_OUTPUT_MS,
    MIN_OUTPUT_TOKENS,
    MIN_PROMPT_TOKENS,
    WEIGHT,
    Rates,
    Sample,
    learn,
    prompt_tokens,
)


def test_prompt_tokens() -> None:
    assert prompt_tokens([]) == 1
    assert prompt_tokens(["abcd" * 10, "abcd"]) == 11
    assert prompt_tokens(["abcd"], images=2) == 1 + 2 * IMAGE_TOKENS


def test_the_first_sample_is_taken_whole_and_later_ones_by_weight() -> None:
    first = learn(Rates(), Sample(100, 500.0, 50, 1000.0, 700.0))
    assert first == Rates(200.0, 50.0, 700.0)
    second = learn(first, Sample(100, 250.0, 100, 1000.0, 1700.0))
    assert second.prefill_tps == pytest.approx(200 + WEIGHT * 200)
    assert second.decode_tps == pytest.approx(50 + WEIGHT * 50)
    assert second.load_ms == pytest.approx(700 + WEIGHT * 1000)


@pytest.mark.parametrize(
    "sample",
    [
        Sample(),
        Sample(MIN_PROMPT_TOKENS - 1, 1.0, MIN_OUTPUT_TOKENS - 1, 1.0),
        Sample(1000, 0.0, 1000, 0.0),
        Sample(-5, 10.0),
        Sample(output_tokens=1000, output_ms=MIN_OUTPUT_MS - 0.1),
    ],
)
def test_what_says_too_little_changes_nothing(sample: Sample) -> None:
    rates = Rates(1.0, 2.0, 3.0)
    assert learn(rates, sample) == rates


@given(st.lists(st.floats(1, 1e5), min_size=1, max_size=50))
def test_an_average_stays_within_what_was_measured(speeds: list[float]) -> None:
    rates = Rates()
    for speed in speeds:
        rates = learn(rates, Sample(output_tokens=10**6, output_ms=1e9 / speed))
    assert min(speeds) * 0.999 <= rates.decode_tps <= max(speeds) * 1.001
    assert rates.prefill_tps == rates.load_ms == 0
