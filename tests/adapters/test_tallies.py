"""Our counters and histograms expose what prometheus_client's own would."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from ollamamax.adapters.telemetry.tallies import Counts, Spreads

BOUNDS = (0.005, 0.1, 1, 2.5, 300)
LABELS = st.tuples(st.sampled_from(["a", 'q"uote\n', ""]), st.sampled_from(["x", "y"]))
AMOUNTS = st.floats(0, 1e6) | st.integers(0, 1000)
VALUES = st.sampled_from(BOUNDS) | st.floats(-1, 1000)


def exposed(registry: CollectorRegistry) -> str:
    """Without the times at which they were made."""
    return re.sub(r"(_created\S* )\S+", r"\1", generate_latest(registry).decode())


@given(st.lists(st.tuples(LABELS, AMOUNTS)))
def test_counters(events: list[tuple[tuple[str, str], float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counts = Counts("things", "Some things", ("one", "two"))
    ours.register(counts)
    oracle = Counter("things", "Some things", ("one", "two"), registry=theirs)
    for labels, amount in events:
        counts.of(*labels).add(amount)
        oracle.labels(*labels).inc(amount)
    assert exposed(ours) == exposed(theirs)


@given(st.lists(st.tuples(LABELS, VALUES)))
def test_histograms(events: list[tuple[tuple[str, str], float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    spreads = Spreads("seconds", "Some times", ("one", "two"), BOUNDS)
    ours.register(spreads)
    oracle = Histogram("seconds", "Some times", ("one", "two"), registry=theirs, buckets=BOUNDS)
    for labels, value in events:
        spreads.of(*labels).observe(value)
        oracle.labels(*labels).observe(value)
    assert exposed(ours) == exposed(theirs)


def test_a_wrong_number_of_labels_is_our_own_bug() -> None:
    with pytest.raises(AssertionError):
        Counts("things", "Some things", ("one",)).of("a", "b")
