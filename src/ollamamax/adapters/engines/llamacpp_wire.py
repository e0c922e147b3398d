"""llama.cpp's own wire form: options and requests out, completion events in.

Source: llama.cpp `tools/server/server-schema.cpp` (names, ranges) and `server-task.cpp` (events).
"""

from typing import Any, Final

import msgspec
from msgspec import Struct

from ollamamax.adapters.engines.gbnf import gbnf_of
from ollamamax.adapters.engines.openai_wire import (
    Logprob,
    Timings,
    messages_json,
    named_tool,
    response_format,
    schema_of,
)
from ollamamax.core.options import DEFAULTS, overlay
from ollamamax.core.types import ChatRequest, Options

_INT32_MAX: Final = (1 << 31) - 1
_PREDICT_FACTOR: Final = 10
# The final event would else repeat the whole prompt and all settings.
_FINAL_FIELDS: Final = ["stop", "stop_type", "timings", "tokens_predicted"]


class CompletionEvent(Struct, frozen=True):
    """One event of a streamed /completion. tokens_predicted: counts all so far, those not told of included."""

    content: str = ""
    tokens: tuple[int, ...] = ()
    stop: bool = False
    stop_type: str = ""
    tokens_predicted: int = 0
    completion_probabilities: list[Logprob] | None = None
    timings: Timings | None = None
    error: dict[str, Any] | None = None


class Tokens(Struct, frozen=True):
    """The answer of /tokenize."""

    tokens: tuple[int, ...]


class Content(Struct, frozen=True):
    """The answer of /detokenize."""

    content: str


class Rendered(Struct, frozen=True):
    """The answer of /apply-template."""

    prompt: str


class Props(Struct, frozen=True):
    """The part of /props that is read."""

    chat_template: str = ""


class ForcedCall(Struct, frozen=True):
    """What a model says when it is held to `forced_call_schema`."""

    name: str
    arguments: msgspec.Raw


class Anything(Struct, frozen=True):
    """An answer of which only the arrival counts."""


event_decoder = msgspec.json.Decoder(CompletionEvent)
tokens_decoder = msgspec.json.Decoder(Tokens)
content_decoder = msgspec.json.Decoder(Content)
rendered_decoder = msgspec.json.Decoder(Rendered)
props_decoder = msgspec.json.Decoder(Props)
call_decoder = msgspec.json.Decoder(ForcedCall)
health_decoder = msgspec.json.Decoder(Anything)


def sampling(request: ChatRequest, ctx_tokens: int) -> dict[str, Any]:
    """The options with Ollama's defaults, under llama.cpp's names and within its ranges."""
    options = overlay(DEFAULTS, request.options)
    made: dict[str, Any] = {
        "n_predict": _predict(options, ctx_tokens),
        "n_keep": _within(options.num_keep, -1, ctx_tokens),
        # -1 is llama.cpp's "random" once it is read as an unsigned number of 32 bits.
        "seed": (options.seed or 0) & 0xFFFFFFFF,
        "temperature": max(options.temperature or 0.0, 0.0),
        "top_k": _within(options.top_k, 0, _INT32_MAX),
        "top_p": options.top_p,
        "min_p": options.min_p,
        "typical_p": options.typical_p,
        "repeat_last_n": _window(options, ctx_tokens),
        "repeat_penalty": options.repeat_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "cache_prompt": True,
        "stream": True,
    }
    if options.stop:
        made["stop"] = list(options.stop)
    return made


def completion_body(
    request: ChatRequest, prompt: str, ctx_tokens: int, schema: dict[str, Any] | None
) -> dict[str, Any]:
    """For /completion. schema: what the answer must conform to."""
    body = sampling(request, ctx_tokens)
    body["prompt"] = [*request.context, prompt] if request.context else prompt
    body["return_tokens"] = True
    body["response_fields"] = _FINAL_FIELDS
    if request.logprobs:
        body["n_probs"] = max(request.top_logprobs, 1)
    if schema is not None:
        grammar = gbnf_of(schema)
        body |= {"json_schema": schema} if grammar is None else {"grammar": grammar}
    return body


def without_middle(tokens: list[int], num_keep: int | None, has_special: bool, ctx_tokens: int) -> list[int]:
    """What is kept of a prompt that is too long: its head, and half of the rest of the context from its end.

    num_keep: tokens of the head, None = Ollama's default, negative = as many as there is room for.
    has_special: the tokenizer puts one of its own in front, which is kept too.
    """
    asked = DEFAULTS.num_keep if num_keep is None else num_keep
    head = ctx_tokens - 1 if asked is None or asked < 0 else min(asked + has_special, ctx_tokens - 1)
    tail = (ctx_tokens - head) // 2
    return tokens[:head] + tokens[len(tokens) - tail :]


def template_body(request: ChatRequest) -> dict[str, Any]:
    """For /apply-template, and the beginning of one for the chat endpoint. Raises: InvalidOption."""
    body: dict[str, Any] = {"messages": messages_json(request.messages)}
    if request.think is not None:
        kwargs: dict[str, Any] = {"enable_thinking": bool(request.think)}
        if isinstance(request.think, str):
            kwargs["reasoning_effort"] = request.think
        body["chat_template_kwargs"] = kwargs
    if request.tools and request.tool_choice != "none":
        name = named_tool(request)
        body["tools"] = [tool for tool in request.tools if not name or tool["function"]["name"] == name]
        body["tool_choice"] = "auto" if request.tool_choice == "auto" else "required"
    return body


def chat_body(request: ChatRequest, ctx_tokens: int) -> dict[str, Any]:
    """For /v1/chat/completions. Raises: InvalidOption."""
    body = sampling(request, ctx_tokens) | template_body(request)
    body["stream_options"] = {"include_usage": True}
    if "tools" in body:
        body["parse_tool_calls"] = True
    elif request.logprobs:  # llama.cpp refuses the two together in a stream
        body["logprobs"] = True
        body["top_logprobs"] = max(request.top_logprobs, 1)
    if request.format:
        body["response_format"] = response_format(request.format)
    return body


def forced_call_schema(request: ChatRequest) -> dict[str, Any]:
    """What a forced call must look like: one of the tools by name, with arguments of its schema.

    Raises: InvalidOption.
    """
    wanted = named_tool(request)
    variants = [
        {
            "type": "object",
            "properties": {"name": {"const": function["name"]}, "arguments": _parameters(function)},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in request.tools
        if (function := tool.get("function", {})).get("name") and wanted in ("", function["name"])
    ]
    return variants[0] if len(variants) == 1 else {"anyOf": variants}


def format_schema(request: ChatRequest) -> dict[str, Any] | None:
    """The schema that `format` asks for. Raises: InvalidOption."""
    return schema_of(request.format) if request.format else None


def _parameters(function: dict[str, Any]) -> dict[str, Any]:
    """A function's parameters as a schema that a grammar can be made of."""
    parameters = function.get("parameters")
    if not isinstance(parameters, dict) or not parameters.get("properties"):
        return {"type": "object"}
    return {"additionalProperties": False, **parameters, "type": "object"}


def _predict(options: Options, ctx_tokens: int) -> int:
    """Ollama bounds an endless answer to ten times the context."""
    limit = _PREDICT_FACTOR * ctx_tokens
    asked = options.num_predict if options.num_predict is not None else -1
    return limit if asked < 0 or asked > limit else asked


def _window(options: Options, ctx_tokens: int) -> int:
    """repeat_last_n, where -1 means the whole context."""
    asked = options.repeat_last_n or 0
    return ctx_tokens if asked < 0 else min(asked, _INT32_MAX)


def _within(value: int | None, low: int, high: int) -> int:
    return max(low, min(value or 0, high))
