"""What comes back, and how a request ended."""

from enum import Enum

from msgspec import Struct

from ollamamax.core.types.requests import ToolCall


class TokenLogprob(Struct, frozen=True, array_like=True):
    """A sampled token, its natural log probability and its rivals. Between nodes as an array: add fields at the end."""

    token: str
    logprob: float
    bytes: tuple[int, ...] = ()
    top: "tuple[TokenLogprob, ...]" = ()


class GenerationStats(Struct, frozen=True):
    """What the engine measured. prompt_tokens counts cached ones too."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_ms: float = 0.0
    eval_tokens: int = 0
    eval_ms: float = 0.0
    load_ms: float = 0.0


class Chunk(Struct, frozen=True, gc=False, array_like=True):
    """A piece of an answer. The last one, and only it, has a `done_reason` ("stop", "length", "load", "unload").
    Between nodes as an array: add fields at the end.

    token_ids: ids of the tokens behind this piece where the engine tells them (held-back bytes arrive with the
    piece that completes them); empty where it does not.
    """

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    done_reason: str = ""
    stats: GenerationStats | None = None
    context: tuple[int, ...] = ()


class EmbedResult(Struct, frozen=True):
    """One L2-normalised vector of float32 per input, in order."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int = 0
    load_ms: float = 0.0


class Progress(Struct, frozen=True, omit_defaults=True):
    """One line of a long operation's progress, in Ollama's words. total and completed in bytes, 0 = not said."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


class OutcomeKind(Enum):
    """How a request ended; each ends in exactly one."""

    OK = "ok"
    CLIENT_ERROR = "client_error"
    CLIENT_GONE = "client_gone"
    REJECTED = "rejected"
    ENGINE_FAILED = "engine_failed"
    INTERNAL = "internal"


class Outcome(Struct, frozen=True, kw_only=True):
    """The one record of a finished request. engine_id: "" if none was reached. error_code: "" if OK.

    ttft_ms: arrival to first token, None if none came.  tpot_ms: mean time per output token after the first.
    traceparent: the caller's trace context (W3C Trace Context, section 3.2), "" if it sent none.
    """

    request_id: str
    route: str
    model: str
    kind: OutcomeKind
    error_code: str = ""
    engine_id: str = ""
    attempts: int = 0
    queued_ms: float = 0.0
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    total_ms: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    traceparent: str = ""
