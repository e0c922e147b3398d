"""How blobs are divided."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.modelspec.parts import MAX_PART_BYTES, MIN_PART_BYTES, part_sizes

MB = 1_000_000


@pytest.mark.parametrize(
    ("size_bytes", "parts"),
    [
        (0, []),
        (1, [1]),
        (100 * MB, [100 * MB]),
        (100 * MB + 1, [100 * MB, 1]),
        (1600 * MB, [100 * MB] * 16),
        (3200 * MB, [200 * MB] * 16),
        (3200 * MB + 15, [200 * MB] * 16 + [15]),
        (16_000 * MB, [1000 * MB] * 16),
        (20_500 * MB, [1000 * MB] * 20 + [500 * MB]),
    ],
)
def test_parts_of_real_sizes(size_bytes: int, parts: list[int]) -> None:
    assert part_sizes(size_bytes) == parts


@given(st.integers(0, 1 << 42))
def test_the_parts_are_the_whole_and_within_bounds(size_bytes: int) -> None:
    parts = part_sizes(size_bytes)
    assert sum(parts) == size_bytes
    assert all(MIN_PART_BYTES <= part <= MAX_PART_BYTES for part in parts[:-1])
    assert all(0 < part <= MAX_PART_BYTES for part in parts)
    assert len(set(parts[:-1])) <= 1


@given(st.integers(0, 10_000), st.integers(1, 50), st.integers(1, 500))
def test_with_other_bounds(size_bytes: int, min_bytes: int, more_bytes: int) -> None:
    parts = part_sizes(size_bytes, min_bytes, min_bytes + more_bytes)
    assert sum(parts) == size_bytes
    assert all(0 < part <= min_bytes + more_bytes for part in parts)
