"""Who calls: the Authorization header to a Principal."""

from ollamamax.api.call import Call
from ollamamax.core.types import Principal


async def authenticate(call: Call) -> Principal:
    """Raises: Unauthenticated."""
    authorization = call.headers.get(b"authorization")
    return await call.services.verifier.verify(None if authorization is None else authorization.decode("latin-1"))
