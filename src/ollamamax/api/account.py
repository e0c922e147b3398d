"""Handlers about ollama.com: its accounts, its cloud and its web search. This server has none of them, and says so.

The replies are those of an Ollama that nobody is signed in to and whose cloud is switched off.
"""

from typing import Final

from ollamamax.api.call import Call
from ollamamax.api.wording import cloud_disabled
from ollamamax.core.dialects.framing import encode

_UNAUTHORIZED: Final = 401


async def status(call: Call) -> None:
    """GET /api/status: the cloud is off, and it is the program that says so."""
    await call.reply(200, encode({"cloud": {"disabled": True, "source": "config"}}))


async def me(call: Call) -> None:
    """POST /api/me: nobody is signed in. No address to sign in at is told, since that would not help."""
    await call.reply(_UNAUTHORIZED, encode({"error": "unauthorized"}))


async def signout(call: Call) -> None:
    """POST /api/signout and DELETE /api/user/keys/:encodedKey."""
    await call.reply(_UNAUTHORIZED, encode({"error": "you are not currently signed in"}))


async def web_search(call: Call) -> None:
    """POST /api/experimental/web_search. Raises: CloudDisabled."""
    raise cloud_disabled("web search is unavailable")


async def web_fetch(call: Call) -> None:
    """POST /api/experimental/web_fetch. Raises: CloudDisabled."""
    raise cloud_disabled("web fetch is unavailable")


async def recommendations(call: Call) -> None:
    """GET /api/experimental/model-recommendations: none; that list comes from ollama.com."""
    await call.reply(200, encode({"recommendations": []}))
