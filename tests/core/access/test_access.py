"""Roles and verdicts."""

import pytest

from ollamamax.core.access.decide import decide
from ollamamax.core.access.roles import MUTATING, ROLES, Action
from ollamamax.core.types import Principal

ALLOWED = {
    "admin": set(Action),
    "user": {Action.INFER, Action.READ},
    "reader": {Action.READ},
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("action", Action)
def test_the_whole_table(role: str, action: Action) -> None:
    verdict = decide(Principal("x", (role,)), action, "tiny")
    assert verdict.allowed == (action in ALLOWED[role])


def test_roles_add_up_and_the_rule_names_the_one_that_allowed() -> None:
    verdict = decide(Principal("x", ("reader", "user")), Action.INFER, "tiny")
    assert verdict.allowed
    assert verdict.rule == "role user may infer"


@pytest.mark.parametrize("roles", [(), ("root",), ("Admin",)])
def test_no_role_or_a_made_up_one_allows_nothing(roles: tuple[str, ...]) -> None:
    for action in Action:
        assert not decide(Principal("x", roles), action, "").allowed


def test_a_refusal_says_who_what_and_on_what() -> None:
    verdict = decide(Principal("bob", ("reader",)), Action.MANAGE_MODELS, "tiny")
    assert verdict.rule == "'bob' may not manage_models on 'tiny' (roles: reader)"
    assert decide(Principal("bob"), Action.READ, "").rule == "'bob' may not read (roles: none)"


def test_what_changes_something_is_known() -> None:
    assert {Action.MANAGE_MODELS, Action.MANAGE_ENGINES, Action.MANAGE_CLUSTER} == MUTATING
