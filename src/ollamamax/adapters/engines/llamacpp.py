"""Our own engines: one llama.cpp child process per launch, spoken to over loopback HTTP with a random key.

A prompt, and a conversation without tools, goes through /completion, whose chunks carry token ids; a conversation with
tools, with images, or in a form whose thinking only llama.cpp's own parser knows, goes through the chat endpoint.
"""

import asyncio
import sys
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import msgspec

from ollamamax.adapters.engines import llamacpp_embed
from ollamamax.adapters.engines import llamacpp_wire as wire
from ollamamax.adapters.engines.http import Deadlines, EngineHttp
from ollamamax.adapters.engines.llamacpp_process import ChildProcess
from ollamamax.adapters.engines.llamacpp_stream import CompletionGatherer
from ollamamax.adapters.engines.openai_stream import EventGatherer
from ollamamax.adapters.engines.relay import relay
from ollamamax.adapters.engines.splitters import EventSplitter
from ollamamax.core.errors import (
    EngineCrashed,
    EngineError,
    EngineRefused,
    EngineUnavailable,
    InputTooLong,
    LoadFailed,
    Unsupported,
)
from ollamamax.core.modelspec import names
from ollamamax.core.modelspec.output import ThinkingSplitter
from ollamamax.core.types import (
    ChatRequest,
    Chunk,
    EmbedRequest,
    EmbedResult,
    EngineKind,
    EngineModel,
    GenerationStats,
    LaunchSpec,
    ToolCall,
)
from ollamamax.ports import ChunkStream, Clock, Dice

CRASHED: Final = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error, "
    "check ollama server logs for details"
)
TOO_LONG: Final = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, adjust the "
    "context length in settings, or use a model with a longer context length"
)
_OVERFLOW: Final = "exceeds the available context size"
_OPEN, _CLOSE, _CALL_TAG = "<think>", "</think>", "<tool_call>"
# Marks of answer forms that only llama.cpp's own parsers take apart.
_FOREIGN_FORMS: Final = (
    "<|channel|>",
    "<|channel>",
    "[THINK]",
    "<|START_THINKING|>",
    "<seed:think>",
    "<|inner_prefix|>",
)
# The end of a process is told a moment after its connections break.
_OBITUARY_S: Final = 1.0
# Pings come every 15 s while a prompt is evaluated.
_DEADLINES: Final = Deadlines(connect_ms=5_000.0, idle_ms=120_000.0, probe_ms=5_000.0)


class LlamaCppLauncher:
    """Starts children. python: the interpreter that has this package."""

    def __init__(self, clock: Clock, dice: Dice, python: str = sys.executable) -> None:
        self._clock = clock
        self._dice = dice
        self._python = python

    async def launch(self, spec: LaunchSpec) -> "LlamaCppEngine":
        """Start a child and wait until it answers. Cancelling kills it. Raises: LoadFailed."""
        api_key = self._dice.token_hex(24)
        child = await ChildProcess.start(self._python, spec, api_key)
        http: EngineHttp | None = None
        try:
            port = await child.port()
            # llama.cpp offers to keep the connection of a stream and then closes it.
            http = EngineHttp(f"http://127.0.0.1:{port}", spec.name, api_key, _DEADLINES, keeps_streams=False)
            await http.get("/health", wire.health_decoder)
            props = await http.get("/props", wire.props_decoder)
        except BaseException as error:
            if http is not None:
                await http.close()
            await child.kill()
            if isinstance(error, EngineError) and not isinstance(error, LoadFailed):
                raise LoadFailed(f"model {spec.name} was loaded but its engine does not answer: {error}") from error
            raise
        return LlamaCppEngine(spec, child, http, props, self._clock, self._dice)


class LlamaCppEngine:
    """A running child; made by the launcher."""

    def __init__(
        self,
        spec: LaunchSpec,
        child: ChildProcess,
        http: EngineHttp,
        props: wire.Props,
        clock: Clock,
        dice: Dice,
    ) -> None:
        self._spec = spec
        self._child = child
        self._http = http
        self._clock = clock
        self._dice = dice
        template = props.chat_template
        self._has_own_form = any(mark in template for mark in _FOREIGN_FORMS)
        self._thinks = _CLOSE in template
        self._tags_calls = _CALL_TAG in template

    @property
    def kind(self) -> EngineKind:
        """LLAMACPP."""
        return EngineKind.LLAMACPP

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._child.pid

    async def models(self) -> tuple[EngineModel, ...]:
        """The one model, if the child is healthy. Raises: EngineUnavailable, EngineTimeout, EngineProtocol."""
        self._must_be_open()
        await self._http.get("/health", wire.health_decoder)
        spec = self._spec
        return (EngineModel(names.key(spec.name), served_as=spec.name, loaded=True, slots=spec.parallel),)

    async def generate(self, request: ChatRequest, served_as: str) -> ChunkStream:
        """Answer. served_as is not looked at: there is one model. An empty request is a load, done already.

        Raises: EngineError, Unsupported, InputTooLong, InvalidOption.
        """
        self._must_be_open()
        if request.prompt is None and not request.messages:
            yield [Chunk(done_reason="load", stats=GenerationStats())]
            return
        try:
            if request.count_only:
                yield [Chunk(done_reason="load", stats=GenerationStats(prompt_tokens=await self._count(request)))]
                return
            if request.render_only:
                yield [Chunk(text=await self._prompt(request), done_reason="load", stats=GenerationStats())]
                return
            async with aclosing(self._answered(request)) as stream:
                async for chunks in stream:
                    yield chunks
        except EngineUnavailable as error:
            raise await self._obituary(error) from None

    async def embed(self, request: EmbedRequest, served_as: str) -> EmbedResult:
        """Vectors. Raises: Unsupported, InputTooLong, EngineError."""
        self._must_be_open()
        try:
            return await llamacpp_embed.embed(self._http, request, self._spec.ctx_tokens, self._spec.batch_tokens)
        except EngineUnavailable as error:
            raise await self._obituary(error) from None

    async def describe(self, served_as: str) -> dict[str, Any] | None:
        """None: the store describes our own models."""
        return None

    async def close(self) -> None:
        """Stop the child (closed lifeline, SIGKILL after 3 s), reap it, drop connections. Idempotent."""
        await self._child.stop()
        await self._http.close()

    async def exited(self) -> str:
        """Returns when the child has ended, with the reason."""
        return await self._child.ended()

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Ids of a piece of text, without special tokens around it."""
        return (await self._http.post("/tokenize", {"content": text}, wire.tokens_decoder)).tokens

    async def detokenize(self, tokens: tuple[int, ...]) -> str:
        """Text of ids."""
        return (await self._http.post("/detokenize", {"tokens": tokens}, wire.content_decoder)).content

    async def _count(self, request: ChatRequest) -> int:
        """Tokens of the prompt that a request to be answered would be. Raises: Unsupported, EngineError."""
        if any(message.images for message in request.messages):
            raise Unsupported("the tokens of images can't be counted; leave the images out")
        return len(request.context) + len(await self._prompt_ids(await self._prompt(request)))

    async def _prompt(self, request: ChatRequest) -> str:
        """What a request to be answered would have the model read."""
        if request.prompt is not None:
            return request.prompt
        return await (self._prompt_of_call(request) if _forces_call(request) else self._rendered(request))

    async def _rendered(self, request: ChatRequest) -> str:
        """The conversation as a prompt, by the GGUF's own template."""
        return (await self._http.post("/apply-template", wire.template_body(request), wire.rendered_decoder)).prompt

    async def _prompt_ids(self, prompt: str | list[int | str]) -> tuple[int, ...]:
        """Ids of a whole prompt, the special tokens that belong to it included."""
        return (
            await self._http.post("/tokenize", {"content": prompt, "add_special": True}, wire.tokens_decoder)
        ).tokens

    async def _answered(self, request: ChatRequest) -> ChunkStream:
        """The answer. A prompt that does not fit is cut in its middle if that is allowed."""
        is_cut = False
        while True:
            try:
                async with aclosing(await self._route(request, is_cut)) as stream:
                    async for chunks in stream:
                        yield chunks
                return
            except EngineRefused as error:
                if _OVERFLOW not in str(error):
                    raise
                if is_cut or not request.truncate or not self._spec.context_shift:
                    raise InputTooLong(TOO_LONG) from None
                is_cut = True

    async def _route(self, request: ChatRequest, is_cut: bool) -> ChunkStream:
        if request.prompt is not None:
            return await self._complete(request, request.prompt, wire.format_schema(request), None, is_cut)
        has_images = any(message.images for message in request.messages)
        if has_images and not self._spec.projector_path:
            raise Unsupported("this model does not support images")
        if _forces_call(request) and not has_images:
            return self._forced_call(request, is_cut)
        is_parsed_there = has_images or self._has_own_form or (request.tools and request.tool_choice != "none")
        prompt = "" if is_parsed_there else await self._rendered(request)
        is_open = prompt.rstrip().endswith(_OPEN)
        # With a format the chat endpoint lets the thinking be free and holds the answer to the schema.
        if is_parsed_there or (self._thinks and request.format and is_open):
            if is_cut:
                raise InputTooLong(TOO_LONG)  # that endpoint takes messages, which have no middle
            return self._chat(request)
        splitter = ThinkingSplitter(_OPEN, _CLOSE, starts_inside=is_open) if self._thinks else None
        return await self._complete(request, prompt, wire.format_schema(request), splitter, is_cut)

    async def _complete(
        self,
        request: ChatRequest,
        prompt: str,
        schema: dict[str, Any] | None,
        splitter: ThinkingSplitter | None,
        is_cut: bool,
    ) -> ChunkStream:
        body = wire.completion_body(request, prompt, self._spec.ctx_tokens, schema)
        if is_cut:
            body["prompt"] = await self._without_middle(request, prompt)
        top = request.top_logprobs if request.logprobs else -1
        wanted = partial(self._prompt_ids, body["prompt"]) if request.want_context else None
        gatherer = CompletionGatherer(self._spec.name, self, splitter, top, wanted)
        return relay(self._spec.name, self._http.stream(lambda: ("/completion", body)), EventSplitter(), gatherer)

    def _chat(self, request: ChatRequest) -> ChunkStream:
        body = wire.chat_body(request, self._spec.ctx_tokens)
        top = request.top_logprobs if request.logprobs else -1
        gatherer = EventGatherer(self._spec.name, self._clock.now_ms, self._call_id, top)
        reply = self._http.stream(lambda: ("/v1/chat/completions", body))
        return relay(self._spec.name, reply, EventSplitter(), gatherer)

    async def _without_middle(self, request: ChatRequest, prompt: str) -> list[int]:
        """The prompt's ids without so many from the middle that half of the context behind its head stays free."""
        whole = [*request.context, *await self._prompt_ids(prompt)]
        special = len(whole) > len(request.context) + len(await self.tokenize(prompt))
        return wire.without_middle(whole, request.options.num_keep, special, self._spec.ctx_tokens)

    async def _forced_call(self, request: ChatRequest, is_cut: bool) -> ChunkStream:
        """One call, held to the tools' schemas and read as JSON, whatever form the model was trained on.

        The chat endpoint has a way to force calls too, but where it can't make out a template's form it forces nothing
        and does not say so.
        """
        prompt = await self._prompt_of_call(request)
        text = ""
        ids: tuple[int, ...] = ()
        schema = wire.forced_call_schema(request)
        async with aclosing(await self._complete(request, prompt, schema, None, is_cut)) as stream:
            async for chunks in stream:
                text += "".join(chunk.text for chunk in chunks)
                ids += tuple(number for chunk in chunks for number in chunk.token_ids)
        try:
            call = wire.call_decoder.decode(text)
        except msgspec.DecodeError:  # cut by num_predict
            yield [Chunk(text=text, token_ids=ids), chunks[-1]]
            return
        made = ToolCall(id=self._call_id(), index=0, name=call.name, arguments=bytes(call.arguments).decode())
        yield [Chunk(tool_calls=(made,), token_ids=ids), chunks[-1]]

    async def _prompt_of_call(self, request: ChatRequest) -> str:
        prompt = await self._rendered(msgspec.structs.replace(request, think=False))
        # Where such a model learned to write the JSON of a call.
        return f"{prompt}{_CALL_TAG}\n" if self._tags_calls else prompt

    def _call_id(self) -> str:
        return f"call_{self._dice.token_hex(4)}"

    def _must_be_open(self) -> None:
        if self._child.was_asked:
            raise EngineUnavailable(f"engine {self._spec.name} was stopped")

    async def _obituary(self, error: EngineUnavailable) -> EngineError:
        """A broken connection is a crash if the process is dead, or dies within the moment."""
        try:
            async with asyncio.timeout(_OBITUARY_S):
                await self._child.ended()
        except TimeoutError:
            return error
        return error if self._child.was_asked else EngineCrashed(CRASHED)


def _forces_call(request: ChatRequest) -> bool:
    return bool(request.tools) and request.tool_choice not in ("auto", "none")
