"""Embeddings from llama.cpp, with Ollama's rules for inputs that are too long."""

from typing import Any, Final

from ollamamax.adapters.engines import openai_wire as wire
from ollamamax.adapters.engines import vectors
from ollamamax.adapters.engines.http import EngineHttp
from ollamamax.adapters.engines.llamacpp_wire import tokens_decoder
from ollamamax.core.errors import EngineProtocol, EngineRefused, InputTooLong, Unsupported
from ollamamax.core.types import EmbedRequest, EmbedResult

# A token is at least a byte of text, but tokenizers add a few of their own (BOS, EOS, a leading space in bytes).
_SPARE_TOKENS: Final = 8
_TOO_LONG: Final = "the input length exceeds the context length"


async def embed(http: EngineHttp, request: EmbedRequest, ctx_tokens: int, batch_tokens: int) -> EmbedResult:
    """One vector per input. Raises: Unsupported, InputTooLong, EngineError."""
    if not request.inputs:
        return EmbedResult(vectors=())
    inputs = [await _fitted(http, text, ctx_tokens, request.truncate) for text in request.inputs]
    try:
        answer = await _ask(http, inputs)
    except EngineRefused as error:
        # A model without a causal mask takes no more than one batch, which can be less than the context.
        if "too large to process" not in str(error) or batch_tokens >= ctx_tokens:
            raise _explained(error) from None
        inputs = [await _fitted(http, text, batch_tokens, request.truncate) for text in request.inputs]
        answer = await _ask(http, inputs)
    found = sorted(answer.data, key=lambda item: item.index)
    if len(found) != len(inputs):
        raise EngineProtocol(f"the engine gave {len(found)} vectors for {len(inputs)} inputs")
    usage = answer.usage or wire.Usage()
    return EmbedResult(
        vectors=tuple(vectors.finished(item.embedding, request.dimensions) for item in found),
        prompt_tokens=usage.prompt_tokens or 0,
    )


async def _ask(http: EngineHttp, inputs: list[str | list[int]]) -> wire.Embeddings:
    return await http.post("/v1/embeddings", {"input": inputs}, wire.embeddings_decoder)


def _explained(error: EngineRefused) -> Exception:
    if error.status == 501 or "Pooling type 'none'" in str(error):
        return Unsupported("this model does not support embeddings")
    if "too large to process" in str(error) or "larger than the max context" in str(error):
        return InputTooLong(_TOO_LONG)
    return error


async def _fitted(http: EngineHttp, text: str, limit: int, may_cut: bool) -> str | list[int]:
    """The text itself where it fits, else its first tokens between the model's special ones."""
    if len(text.encode()) + _SPARE_TOKENS <= limit:
        return text
    whole = await _tokens(http, text, add_special=True)
    if len(whole) <= limit:
        return text
    if not may_cut:
        raise InputTooLong(_TOO_LONG)
    bare = await _tokens(http, text, add_special=False)
    before = next((at for at in range(len(whole) - len(bare) + 1) if whole[at : at + len(bare)] == bare), 0)
    after = whole[before + len(bare) :]
    room = limit - before - len(after)
    if room <= 0:
        raise InputTooLong("input after truncation exceeds maximum context length")
    return [*whole[:before], *bare[:room], *after]


async def _tokens(http: EngineHttp, text: str, add_special: bool) -> tuple[int, ...]:
    body: dict[str, Any] = {"content": text, "add_special": add_special}
    return (await http.post("/tokenize", body, tokens_decoder)).tokens
