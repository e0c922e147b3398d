"""What errors say and carry by themselves."""

import pytest

from ollamamax.core.errors import EngineRefused, QueueFull, RegistryUnavailable


def test_a_full_queue_speaks_ollamas_words() -> None:
    assert str(QueueFull()) == "server busy, please try again.  maximum pending requests exceeded"
    assert str(QueueFull("other words")) == "other words"


@pytest.mark.parametrize(
    ("status", "is_clients"),
    [(400, True), (404, True), (499, True), (408, False), (425, False), (429, False), (399, False), (500, False)],
)
def test_whose_fault_a_refusal_is(status: int, is_clients: bool) -> None:
    error = EngineRefused("no", status)
    assert (str(error), error.status, error.is_clients_fault) == ("no", status, is_clients)


def test_a_registry_may_ask_to_be_left_alone() -> None:
    error = RegistryUnavailable("429: too many", 3.0)
    assert (str(error), error.wait_s) == ("429: too many", 3.0)
