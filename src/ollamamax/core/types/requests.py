"""Who asks, and what."""

from typing import Any, Final

from msgspec import Struct

FOREVER_MS: Final = -1
"""A keep-alive that never ends."""


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
    count_only: nothing is to be generated: the answer is one chunk like that of a load, whose stats tell the
    prompt's tokens.  render_only: likewise, and its text is the prompt.
    truncate: what does not fit the context may be left out: whole messages, of a single one the middle.
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
    count_only: bool = False
    render_only: bool = False


class EmbedRequest(Struct, frozen=True, kw_only=True):
    """Texts to embed. dimensions: 0 = the model's own."""

    model: str
    inputs: tuple[str, ...]
    truncate: bool = True
    dimensions: int = 0
    keep_alive_ms: int | None = None
    options: Options = Options()


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
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None
    quantize: str = ""


class TransferRequest(Struct, frozen=True):
    """What /api/pull and /api/push ask. model: as written, maybe with a scheme.  insecure: plain HTTP is allowed."""

    model: str
    insecure: bool = False
