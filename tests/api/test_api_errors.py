import inspect

import pytest

from ollamamax.api.errors import STATUS, headers_of, outcome_of, status_of, text_of
from ollamamax.core import errors
from ollamamax.core.types import OutcomeKind


def all_errors() -> list[type[errors.OllamaMaxError]]:
    found = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    return [kind for kind in found if issubclass(kind, errors.OllamaMaxError)]


def make(kind: type[errors.OllamaMaxError]) -> errors.OllamaMaxError:
    return kind("x", 418) if issubclass(kind, errors.EngineRefused) else kind("x")


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_has_a_status_and_an_outcome(kind: type[errors.OllamaMaxError]) -> None:
    error = make(kind)
    status = status_of(error)
    assert 400 <= status < 600
    outcome, code = outcome_of(error)
    assert code == kind.code
    # Who is at fault agrees with the status: 4xx the client's, save where Ollama's own status says otherwise.
    if kind not in (errors.InvalidOption, errors.EngineRefused, errors.ClientGone):
        is_clients = issubclass(kind, errors.BadRequest | errors.NotFound | errors.Denied)
        assert (outcome is OutcomeKind.CLIENT_ERROR) == is_clients
        assert not is_clients or status < 500
    assert text_of(error, "r") == "x"


def test_the_nearest_ancestor_counts() -> None:
    class Special(errors.DiskFull):
        pass

    assert status_of(Special("x")) == STATUS[errors.DiskFull] == 507
    assert status_of(errors.LoadFailed("x")) == STATUS[errors.EngineError] == 500


def test_the_unexpected() -> None:
    error = ZeroDivisionError("secret")
    assert status_of(error) == 500
    assert outcome_of(error) == (OutcomeKind.INTERNAL, "internal")
    assert text_of(error, "r-1") == "internal error; the log tells more of request r-1"
    assert headers_of(error) == []


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (errors.QueueFull(), [(b"retry-after", b"1")]),
        (errors.ShuttingDown("x"), [(b"retry-after", b"1")]),
        (errors.Unauthenticated("x"), [(b"www-authenticate", b"Bearer")]),
        (errors.BodyTooLarge("x"), [(b"connection", b"close")]),
        (errors.BadRequest("x"), []),
    ],
)
def test_headers(error: errors.OllamaMaxError, headers: list[tuple[bytes, bytes]]) -> None:
    assert headers_of(error) == headers


def test_outcomes_that_are_no_ones_fault() -> None:
    assert outcome_of(errors.ClientGone("x"))[0] is OutcomeKind.CLIENT_GONE
    assert outcome_of(errors.QueueFull())[0] is OutcomeKind.REJECTED
    assert outcome_of(errors.DiskFull("x"))[0] is OutcomeKind.INTERNAL
