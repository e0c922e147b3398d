"""Schemathesis against a real node: the admin API does what its OpenAPI page says, whatever it is sent."""

from collections.abc import Callable

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.errors import Unsatisfiable
from nodes import Node
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

EXAMPLES = 20
LIMIT_S = 60
UNCHECKED = [positive_data_acceptance]
"""That what fits the page is accepted: names and tokens have a grammar that no page can tell."""


@pytest.fixture
def operations(new_node: Callable[..., Node]) -> list[schemathesis.APIOperation]:
    """All that the page tells of."""
    schema = schemathesis.openapi.from_url(f"{new_node().url}/admin/v1/openapi.json")
    return [found.ok() for found in schema.get_all_operations()]


def test_the_admin_api_is_as_its_page_says(operations: list[schemathesis.APIOperation]) -> None:
    assert len(operations) > 10
    wrong = {}
    for operation in operations:
        for mode in GenerationMode:
            try:
                check(operation, mode)
            except* Unsatisfiable:
                pass  # it takes nothing that could be wrong
            except* AssertionError as told:  # all that is wrong is told at once
                wrong[f"{operation.label} {mode.name}"] = told
    assert not wrong, "\n\n".join(f"{label}: {'; '.join(map(str, told.exceptions))}" for label, told in wrong.items())


def check(operation: schemathesis.APIOperation, mode: GenerationMode) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    def run(case: schemathesis.Case) -> None:
        assume("%0A" not in case.formatted_path)  # no route at all has such a path
        query = case.query or {}
        query.pop("follow", None)  # which goes on for ever
        if case.path == "/discover" and str(query.get("timeout_ms", 1)).isdecimal():
            case.query = {**query, "timeout_ms": 1}
        response = case.call(timeout=LIMIT_S)
        is_slow = response.status_code == 503  # a deadline passed, on a machine with other things to do
        case.validate_response(response, excluded_checks=[*UNCHECKED, *([not_a_server_error] if is_slow else [])])

    run()
