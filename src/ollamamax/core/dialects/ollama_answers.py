"""Answers of Ollama's own API: chunks, vectors, progress and lists to its JSON. All `*_duration` are nanoseconds."""

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from ollamamax.core.dialects.framing import Stamp, encode, local_time, ndjson
from ollamamax.core.errors import EngineProtocol
from ollamamax.core.types import (
    FOREVER_MS,
    Chunk,
    EmbedResult,
    GenerationStats,
    LoadedModel,
    ModelDetails,
    ModelRecord,
    Progress,
    TokenLogprob,
    ToolCall,
)

ZoneOffset = Callable[[int], int]
"""Unix seconds to the local zone's offset in seconds, east positive."""

SPOKEN_VERSION: Final = "0.33.0"
"""Of Ollama's API. Clients choose by it what they ask for, and some refuse what is older than they know."""
_NS_PER_MS: Final = 1_000_000
_FOREVER_NS: Final = (1 << 63) - 1
_NO_ANSWER: Final = ("load", "unload")


class OllamaAnswer:
    """One answer of /api/chat (`is_chat`) or /api/generate. model: as the client wrote it.

    A chunk of text alone, which is nearly all of them, is put together from bytes rendered once.
    """

    __slots__ = ("_is_chat", "_middle", "_model", "_open", "_stamp", "_tail")

    def __init__(self, model: str, is_chat: bool, stamp: Stamp) -> None:
        self._model = model
        self._is_chat = is_chat
        self._stamp = stamp
        self._open = b'{"model":' + encode(model) + b',"created_at":"'
        self._middle = b'","message":{"role":"assistant","content":' if is_chat else b'","response":'
        self._tail = b'},"done":false}\n' if is_chat else b',"done":false}\n'

    def frames(self, chunks: Iterable[Chunk], wall_ns: int, elapsed_ns: int) -> bytes:
        """One line per chunk that says something. elapsed_ns: since the request arrived."""
        created_at = self._stamp.at(wall_ns)
        head, tail = self._open + created_at + self._middle, self._tail
        parts: list[bytes] = []
        for chunk in chunks:
            if chunk.done_reason or chunk.thinking or chunk.tool_calls or chunk.logprobs:
                parts.append(ndjson(self._object(chunk, created_at, elapsed_ns)))
            elif chunk.text:
                parts += (head, encode(chunk.text), tail)
        return b"".join(parts)

    def whole(self, chunk: Chunk, wall_ns: int, elapsed_ns: int) -> bytes:
        """The reply that is not streamed, from the whole answer as one chunk."""
        return encode(self._object(chunk, self._stamp.at(wall_ns), elapsed_ns))

    def rendered(self, prompt: str, image_count: int, wall_ns: int) -> bytes:
        """The reply to `_debug_render_only`."""
        told: dict[str, Any] = {"rendered_template": prompt}
        if image_count:
            told["image_count"] = image_count
        answer: dict[str, Any] = {"model": self._model, "created_at": self._stamp.at(wall_ns).decode()}
        said = {"message": {"role": "", "content": ""}} if self._is_chat else {"response": ""}
        return encode(answer | said | {"done": False, "_debug_info": told})

    def error(self, text: str) -> bytes:
        """The last line of an answer that failed on the way."""
        return ndjson({"error": text})

    def end(self) -> bytes:
        """What follows the last chunk: nothing."""
        return b""

    def _object(self, chunk: Chunk, created_at: bytes, elapsed_ns: int) -> dict[str, Any]:
        answer: dict[str, Any] = {"model": self._model, "created_at": created_at.decode()}
        place = answer
        if self._is_chat:
            place = answer["message"] = {"role": "assistant", "content": chunk.text}
        else:
            answer["response"] = chunk.text
        if chunk.thinking:
            place["thinking"] = chunk.thinking
        if chunk.tool_calls:
            place["tool_calls"] = [_tool_call(call) for call in chunk.tool_calls]
        answer["done"] = bool(chunk.done_reason)
        if chunk.done_reason:
            answer["done_reason"] = chunk.done_reason
        if chunk.context and not self._is_chat:
            answer["context"] = chunk.context
        if chunk.stats is not None and chunk.done_reason not in _NO_ANSWER:
            answer |= _metrics(chunk.stats, elapsed_ns)
        if chunk.logprobs:
            answer["logprobs"] = [logprob(item) for item in chunk.logprobs]
        return answer


def version(program: str) -> dict[str, str]:
    """Of /api/version. program: this program's own version, for people and for our own command line."""
    return {"version": SPOKEN_VERSION, "ollamamax": program}


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """A call's arguments decoded. Raises: EngineProtocol if they are no JSON object."""
    try:
        return msgspec.json.decode(call.arguments, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError):
        raise EngineProtocol(f"the arguments of the call of '{call.name}' are no JSON object") from None


def logprob(item: TokenLogprob) -> dict[str, Any]:
    """Ollama's form of a token's probability; rivals only where there are any."""
    told: dict[str, Any] = {"token": item.token, "logprob": item.logprob, "bytes": item.bytes}
    if item.top:
        told["top_logprobs"] = [logprob(rival) for rival in item.top]
    return told


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "function": {"index": call.index, "name": call.name, "arguments": arguments_of(call)}}


def _metrics(stats: GenerationStats, elapsed_ns: int) -> dict[str, int]:
    """Zero counts are left out; a duration of something that took place never is."""
    told = {"total_duration": max(1, elapsed_ns), "load_duration": max(1, int(stats.load_ms * _NS_PER_MS))}
    if stats.prompt_tokens:
        told["prompt_eval_count"] = stats.prompt_tokens
        told["prompt_eval_duration"] = max(1, int(stats.prompt_ms * _NS_PER_MS))
    if stats.eval_tokens:
        told["eval_count"] = stats.eval_tokens
        told["eval_duration"] = max(1, int(stats.eval_ms * _NS_PER_MS))
    return told


def embeddings(model: str, result: EmbedResult, elapsed_ns: int) -> bytes:
    """The reply of /api/embed."""
    told: dict[str, Any] = {"model": model, "embeddings": result.vectors}
    if result.vectors:
        told["total_duration"] = max(1, elapsed_ns)
        told["load_duration"] = max(1, int(result.load_ms * _NS_PER_MS))
        if result.prompt_tokens:
            told["prompt_eval_count"] = result.prompt_tokens
    return encode(told)


def embedding(result: EmbedResult) -> bytes:
    """The reply of /api/embeddings."""
    return encode({"embedding": next(iter(result.vectors), ())})


def progress(step: Progress) -> dict[str, Any]:
    """One step of a long operation; what is empty or 0 is left out."""
    told: dict[str, Any] = {"status": step.status}
    if step.digest:
        told["digest"] = step.digest
    if step.total:
        told["total"] = step.total
    if step.completed:
        told["completed"] = step.completed
    return told


def tags(records: Iterable[ModelRecord], offset: ZoneOffset) -> bytes:
    """The reply of /api/tags, newest first."""
    newest_first = sorted(records, key=lambda record: (-record.modified_ns, record.name))
    return encode({"models": [_tag(record, offset) for record in newest_first]})


def _tag(record: ModelRecord, offset: ZoneOffset) -> dict[str, Any]:
    details = _details(record.details)
    if record.details.context_length:
        details["context_length"] = record.details.context_length
    if record.details.embedding_length:
        details["embedding_length"] = record.details.embedding_length
    told: dict[str, Any] = {
        "name": record.name,
        "model": record.name,
        "modified_at": _local(record.modified_ns, offset),
        "size": record.size_bytes,
        "digest": record.digest,
        "details": details,
    }
    if record.capabilities:
        told["capabilities"] = record.capabilities
    return told


def running(models: Iterable[LoadedModel], wall_ns: int, offset: ZoneOffset) -> bytes:
    """The reply of /api/ps, latest expiry first. One that never expires shows the latest time that Go can hold."""

    def expires_ns(model: LoadedModel) -> int:
        return wall_ns + _FOREVER_NS if model.expires_ns == FOREVER_MS else model.expires_ns

    rows = []
    for model in sorted(models, key=lambda model: (-expires_ns(model), model.name)):
        row: dict[str, Any] = {
            "name": model.name,
            "model": model.name,
            "size": model.size_bytes,
            "digest": model.digest,
            "details": {**_details(model.details), "parent_model": ""},
            "expires_at": _local(expires_ns(model), offset),
            "size_vram": model.vram_bytes,
            "context_length": model.context_length,
        }
        rows.append(row)
    return encode({"models": rows})


def _details(details: ModelDetails) -> dict[str, Any]:
    return {
        "parent_model": details.parent_model,
        "format": details.format,
        "family": details.family,
        "families": details.families or None,
        "parameter_size": details.parameter_size,
        "quantization_level": details.quantization_level,
    }


def _local(wall_ns: int, offset: ZoneOffset) -> str:
    return local_time(wall_ns, offset(wall_ns // 1_000_000_000))
