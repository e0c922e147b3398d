"""The one table from errors to HTTP, and the forms in which clients get them."""

from collections.abc import Callable
from typing import Final

from ollamamax.core import errors as e
from ollamamax.core.dialects import anthropic_answers, openai_answers
from ollamamax.core.dialects.framing import encode
from ollamamax.core.types import OutcomeKind

ErrorForm = Callable[[int, str, str], bytes]
"""Status, text and the request's id to a reply's body."""

STATUS: Final[dict[type[BaseException], int]] = {
    e.BadRequest: 400,
    e.InvalidOption: 500,  # as Ollama answers it
    e.BodyTooLarge: 413,
    e.BodyTimeout: 408,
    e.NotFound: 404,
    e.Denied: 403,
    e.Unauthenticated: 401,
    e.Conflict: 409,
    e.StoreError: 500,
    e.DiskFull: 507,
    e.StoreInUse: 503,
    e.DigestMismatch: 400,
    e.GgufError: 400,
    e.TemplateError: 500,
    e.Busy: 503,
    e.EngineError: 500,
    e.EngineUnavailable: 502,
    e.EngineProtocol: 502,
    e.EngineTimeout: 504,
    e.RegistryError: 500,  # as Ollama answers it, whatever the registry said
    e.PeerError: 502,
    e.PeerTimeout: 504,
    e.StateError: 500,
    e.StateUnavailable: 503,
    e.ClientGone: 499,
    e.SettingsError: 500,
    e.OllamaMaxError: 500,
}
"""Each class or its nearest ancestor."""

RETRY_AFTER_S: Final = 1
_OUR_OWN_CREDENTIALS: Final = (401, 403, 407)


def status_of(error: BaseException) -> int:
    """The HTTP status. An engine's refusal keeps its own, unless it refused *our* credentials."""
    if isinstance(error, e.EngineRefused):
        return error.status if 400 <= error.status < 600 and error.status not in _OUR_OWN_CREDENTIALS else 502
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def headers_of(error: BaseException) -> list[tuple[bytes, bytes]]:
    """Headers that the error's kind asks for."""
    match error:
        case e.Busy() | e.StateUnavailable():
            return [(b"retry-after", str(RETRY_AFTER_S).encode())]
        case e.Unauthenticated():
            return [(b"www-authenticate", b"Bearer")]
        case e.BodyTimeout() | e.BodyTooLarge():
            return [(b"connection", b"close")]
    return []


def text_of(error: BaseException, request_id: str) -> str:
    """What the client is told; of an unexpected error only where to find it in the log."""
    if isinstance(error, e.OllamaMaxError):
        return str(error)
    return f"internal error; the log tells more of request {request_id}"


def outcome_of(error: BaseException) -> tuple[OutcomeKind, str]:
    """How a request ended that failed before the gateway saw it, and the error's code."""
    if not isinstance(error, e.OllamaMaxError):
        return OutcomeKind.INTERNAL, e.OllamaMaxError.code
    match error:
        case e.ClientGone():
            kind = OutcomeKind.CLIENT_GONE
        case e.Busy():
            kind = OutcomeKind.REJECTED
        case e.BadRequest() | e.NotFound() | e.Denied():
            kind = OutcomeKind.CLIENT_ERROR
        case _:
            kind = OutcomeKind.INTERNAL
    return kind, error.code


def ollama_form(status: int, text: str, request_id: str) -> bytes:
    """`{"error": "..."}`."""
    return encode({"error": text})


def openai_form(status: int, text: str, request_id: str) -> bytes:
    """OpenAI's error object."""
    return encode(openai_answers.error_body(status, text))


def anthropic_form(status: int, text: str, request_id: str) -> bytes:
    """Anthropic's error object."""
    return encode(anthropic_answers.error_body(status, text, request_id))
