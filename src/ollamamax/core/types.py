"""The words that all packages share: names, requests, chunks, facts, outcomes. Frozen data and views of it.

Units stand last in each name: `_ms` milliseconds, `_bytes`, `_tokens`, `_tps` tokens per second.
"""

from enum import Enum
from typing import Any, Final

from msgspec import Struct

FOREVER_MS: Final = -1
"""A keep-alive that never ends."""

DEFAULT_HOST: Final = "registry.ollama.ai"
DEFAULT_NAMESPACE: Final = "library"
DEFAULT_TAG: Final = "latest"


class ModelName(Struct, frozen=True, order=True):
    """A parsed model name, `host/namespace/model:tag`; casing as written. Grammar: core/modelspec/names.py."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def full(self) -> str:
        """All four parts: `registry.ollama.ai/library/tiny:latest`."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def short(self) -> str:
        """Default host and namespace dropped, the tag always kept: `tiny:latest`."""
        if self.host.lower() != DEFAULT_HOST:
            return self.full
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def key(self) -> str:
        """What routing compares: the short name in lower case (names match without regard to case)."""
        return self.short.lower()


# --- requests -------------------------------------------------------------------------------------------------


class ToolCall(Struct, frozen=True):
    """One call. `arguments` is the text of a JSON object, key order kept. `index` counts from 0 in the answer."""

    id: str
    index: int
    name: str
    arguments: str


class Message(Struct, frozen=True):
    """One turn. `images` are decoded bytes, kind sniffed later."""

    role: str
    content: str = ""
    thinking: str = ""
    images: tuple[bytes, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""


class Options(Struct, frozen=True, omit_defaults=True):
    """Sampling and runner options; None = not said. Meaning and defaults: Ollama's option table."""

    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int | None = None
    num_keep: int | None = None
    num_predict: int | None = None
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_last_n: int | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] | None = None


class ChatRequest(Struct, frozen=True, kw_only=True):
    """What a client asks, whatever dialect it spoke.

    `messages` is a conversation. Where `prompt` is not None the request is a text completion instead: `messages`
    is then empty for engines, and `prompt` goes to the model verbatim (special tokens parsed).
    model: as the client wrote it; answers echo it.  format: "" off, "json", or the text of a JSON Schema.
    think: None = the model's default, else False, True or a level.  tool_choice: "auto", "none", "required" or a
    function's name prefixed by "=".  keep_alive_ms: None = the node's default, 0 = unload after, FOREVER_MS = never.
    context: token ids put before `prompt`.  want_context: the final chunk carries the ids of prompt + answer.
    template, system, suffix: of /api/generate, before the agent renders them.
    """

    model: str
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    raw: bool = False
    suffix: str = ""
    system: str | None = None
    template: str | None = None
    context: tuple[int, ...] = ()
    want_context: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str = "auto"
    format: str = ""
    options: Options = Options()
    think: bool | str | None = None
    stream: bool = True
    keep_alive_ms: int | None = None
    truncate: bool = True
    shift: bool = True
    logprobs: bool = False
    top_logprobs: int = 0


class EmbedRequest(Struct, frozen=True, kw_only=True):
    """Texts to embed. dimensions: 0 = the model's own."""

    model: str
    inputs: tuple[str, ...]
    truncate: bool = True
    dimensions: int = 0
    keep_alive_ms: int | None = None
    options: Options = Options()


# --- answers --------------------------------------------------------------------------------------------------


class TokenLogprob(Struct, frozen=True):
    """A sampled token, its natural log probability and its rivals."""

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


class Chunk(Struct, frozen=True, gc=False):
    """A piece of an answer. The last one, and only it, has a `done_reason` ("stop", "length", "load", "unload").

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


# --- models ---------------------------------------------------------------------------------------------------


class ModelDetails(Struct, frozen=True):
    """Ollama's `details` object."""

    parent_model: str = ""
    format: str = ""
    family: str = ""
    families: tuple[str, ...] = ()
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: int = 0
    embedding_length: int = 0


class GgufFacts(Struct, frozen=True):
    """What placement needs to know of a GGUF, read from its header. Per-layer lists have one entry per block.

    metadata: all key-values save long arrays, which stand as an empty list (`general.name` included).
    tensors: (name, ggml type name, shape) of each tensor.  tensor_bytes: the sum of all tensors' data.
    """

    architecture: str
    file_bytes: int
    tensor_bytes: int
    parameter_count: int
    block_count: int
    context_length: int
    embedding_length: int
    feed_forward_length: int
    head_count: int
    head_count_kv: tuple[int, ...]
    key_length: int
    value_length: int
    vocab_size: int
    sliding_window: int = 0
    pooling_type: int | None = None
    file_type: str = ""
    chat_template: str = ""
    metadata: dict[str, Any] = {}
    tensors: tuple[tuple[str, str, tuple[int, ...]], ...] = ()


class ModelRecord(Struct, frozen=True):
    """One listed model of the store or of an attached engine. digest: bare hex sha256 of the manifest."""

    name: str
    digest: str
    size_bytes: int
    modified_ns: int
    details: ModelDetails
    capabilities: tuple[str, ...] = ()


class ResolvedModel(Struct, frozen=True):
    """A model of the local store, ready to be launched or shown. Paths are absolute. digest: see ModelRecord."""

    name: ModelName
    digest: str
    modified_ns: int
    size_bytes: int
    model_path: str
    model_digest: str
    facts: GgufFacts
    details: ModelDetails
    capabilities: tuple[str, ...]
    adapter_paths: tuple[str, ...] = ()
    projector_paths: tuple[str, ...] = ()
    template: str | None = None
    system: str = ""
    options: Options = Options()
    parameters: dict[str, Any] = {}
    messages: tuple[Message, ...] = ()
    licenses: tuple[str, ...] = ()


class LoadedModel(Struct, frozen=True):
    """One row of /api/ps. expires_ns: wall clock, unix nanoseconds; FOREVER_MS = never."""

    name: str
    digest: str
    size_bytes: int
    vram_bytes: int
    context_length: int
    expires_ns: int
    details: ModelDetails


class CreateRequest(Struct, frozen=True, kw_only=True):
    """What /api/create asks. files, adapters: relative file name -> digest of an uploaded blob.

    from_model: "" or a model to build on.  None = not said (inherited from the base); an empty value clears it.
    """

    model: str
    from_model: str = ""
    files: dict[str, str] = {}
    adapters: dict[str, str] = {}
    template: str | None = None
    system: str | None = None
    licenses: tuple[str, ...] = ()
    parameters: dict[str, Any] = {}
    messages: tuple[Message, ...] | None = None
    quantize: str = ""


class Progress(Struct, frozen=True, omit_defaults=True):
    """One line of a long operation's progress, in Ollama's words. total and completed in bytes, 0 = not said."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


class Principal(Struct, frozen=True):
    """Who asks."""

    name: str
    roles: tuple[str, ...] = ()


class RequestContext(Struct, frozen=True, kw_only=True):
    """What travels beside a request. route: the path template, a metric label.  arrived_ms: monotonic."""

    request_id: str
    route: str
    principal: Principal
    arrived_ms: float
    traceparent: str = ""


class LaunchSpec(Struct, frozen=True, kw_only=True):
    """All that a llama.cpp child needs. Two specs with equal fields can share one runner.

    key: identity of the weights (blob digest plus adapters).  ctx_tokens: per slot.  parallel: slots.
    gpu_layers: -1 = automatic, 0 = CPU.  threads: 0 = automatic.
    """

    key: str
    name: str
    model_path: str
    ctx_tokens: int
    parallel: int = 1
    batch_tokens: int = 512
    embedding: bool = False
    adapter_paths: tuple[str, ...] = ()
    projector_path: str = ""
    gpu_layers: int = -1
    main_gpu: int = 0
    threads: int = 0
    use_mmap: bool = True
    kv_cache_type: str = "f16"
    flash_attention: str = "auto"
    context_shift: bool = True


# --- engines and the fleet ------------------------------------------------------------------------------------


class EngineKind(Enum):
    """What stands behind an engine."""

    LLAMACPP = "llamacpp"
    OLLAMA = "ollama"
    OPENAI = "openai"


class AttachedEngine(Struct, frozen=True, kw_only=True):
    """A remote engine that an operator attached. slots: requests it is given at once."""

    name: str
    kind: EngineKind
    url: str
    api_key: str = ""
    slots: int = 4


class EngineModel(Struct, frozen=True):
    """A model that an engine offers. key: what routing compares.  served_as: the name to ask that engine for."""

    key: str
    served_as: str
    loaded: bool = False
    record: ModelRecord | None = None
    running: LoadedModel | None = None


class EngineFacts(Struct, frozen=True):
    """What is known of one engine. Advisory; the owner of the slots decides.

    outstanding_tokens: predicted tokens still to be produced for requests in flight.  prefill_tps, decode_tps:
    measured moving averages, per stream; 0 = not yet measured.  age_ms: since the model list was last confirmed.
    """

    engine_id: str
    kind: EngineKind
    models: dict[str, EngineModel]
    slots: int
    in_flight: int = 0
    outstanding_tokens: float = 0.0
    prefill_tps: float = 0.0
    decode_tps: float = 0.0
    load_ms: float = 0.0
    reachable: bool = True
    age_ms: float = 0.0


class FleetSnapshot(Struct, frozen=True):
    """All engines at one moment; every fact carries its age."""

    taken_ms: float
    engines: tuple[EngineFacts, ...]


# --- who, and how it ended ------------------------------------------------------------------------------------


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
