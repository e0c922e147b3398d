"""Who calls: the Authorization header, or Anthropic's x-api-key in its place, to a Principal."""

from ollamamax.api.call import Call
from ollamamax.core.types import Principal


async def authenticate(call: Call) -> Principal:
    """Raises: Unauthenticated."""
    authorization = call.headers.get(b"authorization")
    if authorization is None and (key := call.headers.get(b"x-api-key")) is not None:
        authorization = b"Bearer " + key
    return await call.services.verifier.verify(None if authorization is None else authorization.decode("latin-1"))
