"""(principal, action, model) -> allowed or not, and the rule that said so."""

from typing import Final

from msgspec import Struct

from ollamamax.core.access.roles import ROLES, Action
from ollamamax.core.types import Principal


class Verdict(Struct, frozen=True, gc=False):
    """rule: in words, for the audit and for the one who is refused."""

    allowed: bool
    rule: str


_ALLOWED: Final = {
    role: {action: Verdict(True, f"role {role} may {action.value}") for action in actions}
    for role, actions in ROLES.items()
}


def decide(principal: Principal, action: Action, model: str) -> Verdict:
    """The first of the principal's roles that allows the action decides; roles that do not exist allow nothing.

    model: what it is about, "" if nothing in particular.
    """
    for role in principal.roles:
        allowed = _ALLOWED.get(role)
        if allowed is not None and (verdict := allowed.get(action)) is not None:
            return verdict
    roles = ", ".join(principal.roles) or "none"
    subject = f" on '{model}'" if model else ""
    return Verdict(False, f"'{principal.name}' may not {action.value}{subject} (roles: {roles})")
