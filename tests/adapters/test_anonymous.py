"""A node without authentication: everyone is the operator."""

import pytest

from ollamamax.adapters.identity.anonymous import AnonymousVerifier
from ollamamax.core.access.decide import decide
from ollamamax.core.access.roles import Action


@pytest.mark.parametrize("authorization", [None, "", "Bearer whatever", "nonsense"])
async def test_whoever_asks_may_do_everything(authorization: str | None) -> None:
    principal = await AnonymousVerifier().verify(authorization)
    assert principal.name == "anonymous"
    assert all(decide(principal, action, "tiny").allowed for action in Action)
