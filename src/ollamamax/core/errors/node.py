"""What goes wrong on one node."""

from enum import Enum
from typing import ClassVar


class Retry(Enum):
    """Where a repeat of the failed request may succeed."""

    NEVER = "never"
    OTHER_ENGINE = "other_engine"
    LATER = "later"


class OllamaMaxError(Exception):
    """The root. `str(error)` is the text for the client.

    code: stable, for metrics and scripts.  retry: where a repeat may succeed.
    deterministic: the same request fails the same way everywhere, so breakers must not count it.
    """

    code: ClassVar[str] = "internal"
    retry: ClassVar[Retry] = Retry.NEVER
    deterministic: ClassVar[bool] = False


class BadRequest(OllamaMaxError):
    """The request can't be understood or honoured as it stands."""

    code = "bad_request"
    deterministic = True


class InvalidName(BadRequest):
    """A model name outside the grammar of core/modelspec/names.py."""

    code = "invalid_name"


class InvalidOption(BadRequest):
    """An option or a format of the wrong type or value."""

    code = "invalid_option"


class Unsupported(BadRequest):
    """The model lacks a capability that the request needs."""

    code = "unsupported"


class InputTooLong(BadRequest):
    """The input exceeds the context and may not be cut."""

    code = "input_too_long"


class BodyTooLarge(BadRequest):
    """The request's body exceeds the limit."""

    code = "body_too_large"


class BodyTimeout(BadRequest):
    """The request's body did not arrive in time."""

    code = "body_timeout"


class NotFound(OllamaMaxError):
    """The thing that is named does not exist here."""

    code = "not_found"
    deterministic = True


class ModelNotFound(NotFound):
    """No store and no attached engine has the model."""

    code = "model_not_found"


class BlobNotFound(NotFound):
    """No blob of that digest is in the store."""

    code = "blob_not_found"


class EngineNotFound(NotFound):
    """No engine of that name is attached."""

    code = "engine_not_found"


class Denied(OllamaMaxError):
    """The principal may not do this."""

    code = "denied"
    deterministic = True


class Unauthenticated(Denied):
    """No credentials, or bad ones."""

    code = "unauthenticated"


class Forbidden(Denied):
    """Known, but not allowed."""

    code = "forbidden"


class CloudDisabled(Denied):
    """Something was asked for that only ollama.com has."""

    code = "cloud_disabled"


class Conflict(OllamaMaxError):
    """What is asked for clashes with what stands."""

    code = "conflict"
    deterministic = True


class StoreError(OllamaMaxError):
    """The model store or a state file refused."""

    code = "store"


class DiskFull(StoreError):
    """No space is left for what was to be written; nothing was changed."""

    code = "disk_full"
    retry = Retry.LATER


class StoreReadOnly(StoreError):
    """The store can't be written by this user."""

    code = "store_read_only"


class StoreInUse(StoreError):
    """Another process holds the directory."""

    code = "store_in_use"


class DigestMismatch(StoreError):
    """The bytes are not those of the digest that names them."""

    code = "digest_mismatch"
    deterministic = True


class CorruptManifest(StoreError):
    """A manifest or config in the store can't be read."""

    code = "corrupt_manifest"


class GgufError(OllamaMaxError):
    """A file that is no usable GGUF."""

    code = "gguf"
    deterministic = True


class GgufForeign(GgufError):
    """Not a GGUF at all, or of an unknown version."""

    code = "gguf_foreign"


class GgufTruncated(GgufError):
    """Shorter than its own header says."""

    code = "gguf_truncated"


class GgufUnsupported(GgufError):
    """An architecture or a type that the engine can't run."""

    code = "gguf_unsupported"


class TemplateError(OllamaMaxError):
    """A prompt template that does not parse or run."""

    code = "template"
    deterministic = True


class Busy(OllamaMaxError):
    """No room now."""

    code = "busy"
    retry = Retry.LATER


class QueueFull(Busy):
    """More waiting requests than the queue holds. The default text is Ollama's, two spaces included."""

    code = "queue_full"

    def __init__(self, text: str = "server busy, please try again.  maximum pending requests exceeded") -> None:
        super().__init__(text)


class NoMemory(Busy):
    """The model does not fit beside what is in use."""

    code = "no_memory"
    retry = Retry.OTHER_ENGINE


class NoCandidate(Busy):
    """Every engine that has the model is out."""

    code = "no_candidate"


class ShuttingDown(Busy):
    """The node is stopping and takes no new work."""

    code = "shutting_down"
    retry = Retry.OTHER_ENGINE


class EngineError(OllamaMaxError):
    """An engine failed the request."""

    code = "engine"
    retry = Retry.OTHER_ENGINE


class EngineUnavailable(EngineError):
    """It can't be reached, or closed before it answered whole."""

    code = "engine_unavailable"


class EngineCrashed(EngineError):
    """Its process ended while it answered."""

    code = "engine_crashed"


class EngineTimeout(EngineError):
    """No first token, or no next one, within the deadline."""

    code = "engine_timeout"


class EngineProtocol(EngineError):
    """Its answer can't be understood."""

    code = "engine_protocol"


class EngineRefused(EngineError):
    """It answered with an error of its own.

    status: the HTTP status it gave. A 4xx is the client's own fault: deterministic, and not retried.
    """

    code = "engine_refused"

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status

    @property
    def is_clients_fault(self) -> bool:
        """True for 4xx save 408, 425 and 429, which speak of the engine's load."""
        return 400 <= self.status < 500 and self.status not in (408, 425, 429)


class LoadFailed(EngineError):
    """The model could not be loaded."""

    code = "load_failed"


class LoadTimeout(EngineError):
    """The model was not loaded within the limit."""

    code = "load_timeout"


class ClientGone(OllamaMaxError):
    """The client closed its connection."""

    code = "client_gone"
    deterministic = True


class SettingsError(OllamaMaxError):
    """A setting is unknown, ill-typed or out of range."""

    code = "settings"
    deterministic = True
