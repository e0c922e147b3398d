"""Any OpenAI-compatible server as an engine: llama-server, vLLM, SGLang, hosted APIs.

Deliberate limits: such servers render prompts themselves, so a request with a template of its own, or with context
ids, can't be served here; token ids are not told.
"""

from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import Struct

from ollamamax.adapters.engines import openai_wire as wire
from ollamamax.adapters.engines import vectors
from ollamamax.adapters.engines.http import Deadlines, EngineHttp
from ollamamax.adapters.engines.openai_stream import EventGatherer
from ollamamax.adapters.engines.relay import relay
from ollamamax.adapters.engines.splitters import EventSplitter
from ollamamax.core.errors import EngineProtocol, EngineRefused, Unsupported
from ollamamax.core.modelspec import names
from ollamamax.core.types import (
    AttachedEngine,
    ChatRequest,
    Chunk,
    EmbedRequest,
    EmbedResult,
    EngineKind,
    EngineModel,
    GenerationStats,
    Message,
    Options,
)
from ollamamax.ports import ChunkStream, Clock, Dice

_SAMPLING: Final = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "top_k", "min_p", "repeat_penalty")
_sampling_of: Final = attrgetter(*_SAMPLING)


class _Offered(Struct):
    id: str


class _Models(Struct):
    data: list[_Offered] | None = None


_models_decoder = msgspec.json.Decoder(_Models)


class OpenAIEngine:
    """Speaks /v1. The url may end in /v1 or not."""

    def __init__(
        self,
        engine: AttachedEngine,
        clock: Clock,
        dice: Dice,
        deadlines: Deadlines | None = None,
    ) -> None:
        self._name = engine.name
        self._clock = clock
        self._dice = dice
        base = engine.url.rstrip("/").removesuffix("/v1")
        self._http = EngineHttp(f"{base}/v1", engine.name, engine.api_key, deadlines)

    @property
    def kind(self) -> EngineKind:
        """OPENAI."""
        return EngineKind.OPENAI

    async def models(self) -> tuple[EngineModel, ...]:
        """/models; what such a server lists, it has loaded. Raises: EngineError."""
        listed = await self._http.get("/models", _models_decoder)
        return tuple(
            EngineModel(key=names.key(model.id), served_as=model.id, loaded=True) for model in listed.data or ()
        )

    def generate(self, request: ChatRequest, served_as: str) -> ChunkStream:
        """Through /chat/completions; a raw prompt, or one with a suffix, through /completions.

        An empty request asks whether the model is there. Raises: EngineError, Unsupported, InvalidOption.
        """
        if not request.messages and not request.prompt:
            return self._load(request, served_as)
        gatherer = EventGatherer(
            self._name,
            self._clock.now_ms,
            lambda: f"call_{self._dice.token_hex(4)}",
            request.top_logprobs if request.logprobs else -1,
        )
        reply = self._http.stream(lambda: _path_and_body(request, served_as))
        return relay(self._name, reply, EventSplitter(), gatherer)

    async def embed(self, request: EmbedRequest, served_as: str) -> EmbedResult:
        """Through /embeddings. Raises: EngineError, Unsupported, BadRequest."""
        if not request.inputs:
            return EmbedResult(vectors=())
        body = {"model": served_as, "input": list(request.inputs), "encoding_format": "float"}
        try:
            answer = await self._http.post("/embeddings", body, wire.embeddings_decoder)
        except EngineRefused as error:
            if error.status == 501:
                raise Unsupported("this model does not support embeddings") from None
            raise
        found = sorted(answer.data, key=lambda item: item.index)
        if len(found) != len(request.inputs):
            raise EngineProtocol(f"engine {self._name} gave {len(found)} vectors for {len(request.inputs)} inputs")
        usage = answer.usage or wire.Usage()
        return EmbedResult(
            vectors=tuple(vectors.finished(item.embedding, request.dimensions) for item in found),
            prompt_tokens=usage.prompt_tokens or 0,
        )

    async def describe(self, served_as: str) -> dict[str, Any] | None:
        """None: OpenAI's API tells nothing about a model."""
        return None

    async def close(self) -> None:
        """End its connections. Idempotent."""
        await self._http.close()

    async def _load(self, request: ChatRequest, served_as: str) -> ChunkStream:
        if request.keep_alive_ms != 0 and all(model.served_as != served_as for model in await self.models()):
            raise EngineRefused(f"model '{served_as}' not found", 404)
        yield [Chunk(done_reason="unload" if request.keep_alive_ms == 0 else "load", stats=GenerationStats())]


def _path_and_body(request: ChatRequest, served_as: str) -> tuple[str, dict[str, Any]]:
    if request.count_only:
        raise Unsupported("an OpenAI-compatible engine can't count tokens; use a model of this node's own store")
    if request.render_only:
        raise Unsupported("an attached engine renders prompts itself and does not show them")
    if request.template or request.context:
        what = "a template" if request.template else "context ids"
        raise Unsupported(f"an OpenAI-compatible engine takes no {what}: it renders prompts itself; leave it out")
    body = {"model": served_as, "stream": True, "stream_options": {"include_usage": True}, **_sampling(request.options)}
    if request.format:
        body["response_format"] = wire.response_format(request.format)
    if request.prompt is not None and (request.raw or request.suffix):
        body["prompt"] = request.prompt
        if request.suffix:
            body["suffix"] = request.suffix
        return "/completions", body
    body["messages"] = wire.messages_json(_conversation(request))
    if request.think is not None:
        body |= _thinking(request.think)
    if request.tools:
        body |= _tools(request)
    if request.logprobs:
        body["logprobs"] = True
        if request.top_logprobs:
            body["top_logprobs"] = request.top_logprobs
    return "/chat/completions", body


def _conversation(request: ChatRequest) -> tuple[Message, ...]:
    """The messages; a prompt that is not raw is one of a user, as Ollama's templates make it."""
    if request.prompt is None:
        return request.messages
    system = (Message(role="system", content=request.system),) if request.system else ()
    return (*system, Message(role="user", content=request.prompt))


def _sampling(options: Options) -> dict[str, Any]:
    """Only what was said: the engine's own defaults are its business."""
    told = zip(_SAMPLING, _sampling_of(options), strict=True)
    made: dict[str, Any] = {name: value for name, value in told if value is not None}
    if "repeat_penalty" in made:  # llama-server's name; vLLM's is another
        made["repetition_penalty"] = made["repeat_penalty"]
    if options.num_predict is not None and options.num_predict >= 0:
        made["max_tokens"] = options.num_predict
    if options.seed is not None and options.seed >= 0:
        made["seed"] = options.seed
    if options.stop:
        made["stop"] = list(options.stop)
    return made


def _thinking(think: bool | str) -> dict[str, Any]:
    made: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": bool(think)}}
    if isinstance(think, str):
        made["reasoning_effort"] = think
    return made


def _tools(request: ChatRequest) -> dict[str, Any]:
    made: dict[str, Any] = {"tools": list(request.tools)}
    if name := wire.named_tool(request):
        made["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif request.tool_choice != "auto":
        made["tool_choice"] = request.tool_choice
    return made
