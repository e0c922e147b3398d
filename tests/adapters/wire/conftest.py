"""The wire's tests run on both event loops: asyncio's, and uvloop where it is installed, which nodes use."""

import asyncio
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import pytest

from ollamamax.api.server import new_event_loop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Both."""
    factories: dict[str, Callable[[], Any]] = {"asyncio": asyncio.new_event_loop}
    if find_spec("uvloop") is not None:
        factories["uvloop"] = new_event_loop
    return factories
