"""Counters and histograms as plain numbers: prometheus_client exposes them, but does not count.

Its own children take a lock and check their state at each call: 5 us for a request, where these take 1.7.
Deliberate limits: for one thread; no exemplars.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Count:
    """One counter. made_s: Unix time."""

    __slots__ = ("made_s", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.made_s = time.time()

    def add(self, amount: float = 1.0) -> None:
        """Count up."""
        self.value += amount


class Spread:
    """One histogram. bounds: upper ones, inclusive, ascending.  counts: per bucket, the last without an upper bound."""

    __slots__ = ("bounds", "counts", "made_s", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.made_s = time.time()

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


T = TypeVar("T", Count, Spread)


class Children(dict[tuple[str, ...], T]):
    """By the values of the labels; each is made when first asked for."""

    def __init__(self, labels: int, make: Callable[[], T]) -> None:
        super().__init__()
        self._labels = labels
        self._make: Callable[[], T] = make

    def __missing__(self, values: tuple[str, ...]) -> T:
        assert len(values) == self._labels, "each label has a value"
        child = self[values] = self._make()
        return child


class Family(Collector, Generic[T]):
    """Counters or histograms of one name.

    by: the one of some labels, as in `by["llama", "here"]`: no call, as there are six of them for each request.
    """

    def __init__(self, name: str, text: str, labels: Sequence[str]) -> None:
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self.by: Children[T] = Children(len(self._labels), self._new)

    def of(self, *values: str) -> T:
        """The one of these labels."""
        return self.by[values]

    def _new(self) -> T:
        raise AssertionError("a family is of counts or of spreads")

    def _add_made(self, family: Metric) -> None:
        for values, child in self.by.items():
            family.add_sample(f"{family.name}_created", dict(zip(self._labels, values, strict=True)), child.made_s)


class Counts(Family[Count]):
    """Counters."""

    def _new(self) -> Count:
        return Count()

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, child in self.by.items():
            family.add_metric(values, child.value)
        self._add_made(family)
        yield family


class Spreads(Family[Spread]):
    """Histograms with the same bounds."""

    def __init__(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        super().__init__(name, text, labels)
        self._bounds = bounds

    def _new(self) -> Spread:
        return Spread(self._bounds)

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        names = [floatToGoString(bound) for bound in (*self._bounds, float("inf"))]  # type: ignore[no-untyped-call]
        for values, child in self.by.items():
            family.add_metric(values, list(zip(names, accumulate(child.counts), strict=True)), child.total)
        self._add_made(family)
        yield family
