"""(principal, action, model) -> allowed or not, and the rule that said so."""

from msgspec import Struct

from ollamamax.core.access.roles import ROLES, Action
from ollamamax.core.types import Principal


class Verdict(Struct, frozen=True, gc=False):
    """rule: in words, for the audit and for the one who is refused."""

    allowed: bool
    rule: str


def decide(principal: Principal, action: Action, model: str) -> Verdict:
    """The first of the principal's roles that allows the action decides; roles that do not exist allow nothing.

    model: what it is about, "" if nothing in particular.
    """
    for role in principal.roles:
        if action in ROLES.get(role, ()):
            return Verdict(True, f"role {role} may {action.value}")
    roles = ", ".join(principal.roles) or "none"
    subject = f" on '{model}'" if model else ""
    return Verdict(False, f"'{principal.name}' may not {action.value}{subject} (roles: {roles})")
