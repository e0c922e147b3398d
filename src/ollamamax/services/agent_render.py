"""From a client's request to what an engine is asked, and back.

Where the model has a Go template (or the request brings one) the prompt is rendered here and the answer is taken apart
here. Otherwise, or where the GGUF's own Jinja template knows more of what is asked for, the engine gets the messages.
Source: Ollama `server/routes.go` (order of checks, which template), `server/prompt.go`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from ollamamax.core.errors import TemplateError, Unsupported
from ollamamax.core.modelspec.capabilities import DEFAULT_TEMPLATE, unknown_form
from ollamamax.core.modelspec.media import audio_format
from ollamamax.core.modelspec.output import ThinkingSplitter, ToolCallParser
from ollamamax.core.modelspec.prompt import render_chat, render_fim, without_old_thinking
from ollamamax.core.modelspec.template import Template, parse
from ollamamax.core.types import ChatRequest, Chunk, Message, Options, ResolvedModel, TokenLogprob

_THINK_TAGS: Final = ("<think>", "</think>")
_REPLACED_LONG_AGO: Final = ". Pull the model again to get the latest version with full thinking support"
_HARMONY: Final = frozenset({"gptoss", "gpt-oss"})
_parsed: Final = functools.lru_cache(maxsize=64)(parse)


class Dates(Struct, frozen=True):
    """What templates may print; YYYY-MM-DD, local time."""

    today: str
    yesterday: str


def is_empty(request: ChatRequest) -> bool:
    """Whether it only loads or unloads the model."""
    return not request.messages and not request.prompt


def wants_tools(request: ChatRequest) -> bool:
    """Whether the model is to know of the request's tools."""
    return bool(request.tools) and request.tool_choice != "none"


def check_capabilities(request: ChatRequest, model: ResolvedModel) -> None:
    """Raises: Unsupported in Ollama's words, naming the first thing that the model can't do; TemplateError."""
    _check_form(request, model)
    if request.think and not _can_think(model):
        stale = _REPLACED_LONG_AGO if _is_old_thinker(model) else ""
        raise Unsupported(f'"{request.model}" does not support thinking{stale}')
    if "completion" not in model.capabilities:
        is_chat = bool(request.messages) and not request.want_context
        raise Unsupported(f'"{request.model}" does not support {"chat" if is_chat else "generate"}')
    missing = []
    if wants_tools(request) and "tools" not in model.capabilities and not _jinja_knows_tools(model):
        missing.append("tools")
    if request.suffix and not request.template and "insert" not in model.capabilities:
        missing.append("insert")
    missing += [sense for sense in _senses(request) if sense not in model.capabilities]
    if missing:
        raise Unsupported("\n".join(f"{model.name.full} does not support {capability}" for capability in missing))


def _check_form(request: ChatRequest, model: ResolvedModel) -> None:
    """A model that names code of Ollama's for its prompts is rendered by the template in its GGUF; no text is guessed.

    Raises: TemplateError.
    """
    if not (model.renderer or model.parser) or request.raw or request.template is not None:
        return
    if problem := unknown_form(model.renderer, model.parser):
        raise TemplateError(problem)
    if not model.facts.chat_template:
        raise TemplateError(
            f"{model.name.short} names '{model.renderer or model.parser}', code of Ollama's, for its prompts, and its "
            "GGUF has no chat template of its own to use in place of that; create it anew from a GGUF that has one"
        )


def conversation(request: ChatRequest, model: ResolvedModel) -> tuple[Message, ...]:
    """The request's messages with the model's own before them; none for a raw prompt."""
    if request.prompt is not None:
        return ()
    before = () if request.context else model.messages
    messages = (*before, *request.messages)
    system = request.system if request.system is not None else model.system
    if system and request.messages[0].role != "system":
        messages = (Message("system", system), *messages)
    if _is_old_thinker(model):
        messages = without_old_thinking(messages, *_THINK_TAGS)
    return messages


def without_oldest(messages: Sequence[Message]) -> tuple[Message, ...] | None:
    """One message less: never a system message, nor the last one; None if no other is left."""
    oldest = next((place for place, message in enumerate(messages[:-1]) if message.role != "system"), None)
    return None if oldest is None else (*messages[:oldest], *messages[oldest + 1 :])


class Renderer:
    """One request made ready for engines, as often as its conversation is shortened.

    options: the model's with the request's upon them.  new_id: an id for a tool call.
    Raises: TemplateError if the template does not parse.
    """

    def __init__(
        self, request: ChatRequest, model: ResolvedModel, options: Options, dates: Dates, new_id: Callable[[], str]
    ) -> None:
        self._dates = dates
        self._new_id = new_id
        self._think = _think(request, model)
        self._request = replace(request, options=options, think=self._think, system=None, template=None)
        template = None if request.prompt is not None else _template(request, model, self._think)
        self._template = None if template is None else _parsed(template)

    def engine_request(self, messages: tuple[Message, ...]) -> ChatRequest:
        """What to ask an engine. Raises: TemplateError, BadRequest."""
        if self._template is None:
            return replace(self._request, messages=messages)
        prompt = self._prompt(self._template, messages)
        return replace(self._request, messages=(), prompt=prompt, suffix="", tools=(), think=None)

    def thinking_tags(self) -> tuple[str, str] | None:
        """What stands around the thinking in a text that is taken apart here; None if nothing does."""
        if self._template is None or not self._think or self._request.render_only:
            return None
        return self._template.thinking_tags() or _THINK_TAGS

    def parser(self, asked: ChatRequest, has_thought: bool = False) -> "AnswerParser | None":
        """Takes the answer to `asked` apart; None where the engine does that, or nothing is to be taken apart.

        has_thought: the prompt ends with what the model thought.
        """
        template, request = self._template, self._request
        if template is None or request.render_only:
            return None
        splitter = calls = None
        if (tags := self.thinking_tags()) is not None and not has_thought:
            is_open = (asked.prompt or "").rstrip().endswith(tags[0])
            splitter = ThinkingSplitter(*tags, starts_inside=is_open)
        if wants_tools(request):
            calls = ToolCallParser(template.tool_tag(), request.tools, self._new_id)
        return AnswerParser(splitter, calls) if splitter or calls else None

    def _prompt(self, template: Template, messages: tuple[Message, ...]) -> str:
        request, dates = self._request, self._dates
        if request.suffix:
            return render_fim(
                template, request.messages[-1].content, request.suffix, self._think, dates.today, dates.yesterday
            )
        tools = request.tools if wants_tools(request) else ()
        return render_chat(template, messages, tools, self._think, dates.today, dates.yesterday)


class AnswerParser:
    """Chunks of plain text to chunks of thinking, content and tool calls; a held piece's token ids wait with it."""

    def __init__(self, splitter: ThinkingSplitter | None, calls: ToolCallParser | None) -> None:
        self._splitter = splitter
        self._calls = calls
        self._token_ids: tuple[int, ...] = ()
        self._logprobs: tuple[TokenLogprob, ...] = ()

    def feed(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """What is certain by now; all of it at the final chunk."""
        parsed: list[Chunk] = []
        for chunk in chunks:
            self._token_ids += chunk.token_ids
            self._logprobs += chunk.logprobs
            parsed += self._pieces(*(self._splitter.feed(chunk.text) if self._splitter else ("", chunk.text)))
            if chunk.done_reason:
                parsed += self._pieces(*(self._splitter.finish() if self._splitter else ("", "")), is_last=True)
                last = replace(chunk, text="", token_ids=self._token_ids, logprobs=self._logprobs)
                parsed.append(last)
        return parsed

    def _pieces(self, thinking: str, content: str, is_last: bool = False) -> list[Chunk]:
        text, calls = self._calls.feed(content) if self._calls else (content, [])
        if is_last and self._calls:
            rest, late = self._calls.finish()
            text, calls = text + rest, [*calls, *late]
        if not (thinking or text or calls):
            return []
        made = Chunk(
            text=text, thinking=thinking, tool_calls=tuple(calls), token_ids=self._token_ids, logprobs=self._logprobs
        )
        self._token_ids, self._logprobs = (), ()
        return [made]


def _senses(request: ChatRequest) -> list[str]:
    """What the attachments need, each once."""
    attached = [data for message in request.messages for data in message.images]
    return list(dict.fromkeys("audio" if audio_format(data) else "vision" for data in attached))


def _template(request: ChatRequest, model: ResolvedModel, think: bool | str | None) -> str | None:
    """The Go template to render with; None = the engine applies the GGUF's own."""
    if request.template is not None:
        return request.template
    if request.suffix:
        return model.template or DEFAULT_TEMPLATE
    jinja = model.facts.chat_template
    if model.template is None:
        return None if jinja else DEFAULT_TEMPLATE
    is_forced = wants_tools(request) and request.tool_choice != "auto"
    has_images = any(message.images for message in request.messages)
    if is_forced or has_images:  # only the engine can hold an answer to a call, or look at an image
        return None
    if (wants_tools(request) and _jinja_knows_tools(model)) or (think is not None and _jinja_knows_thinking(model)):
        return None
    return model.template


def _think(request: ChatRequest, model: ResolvedModel) -> bool | str | None:
    """A model that can think does, unless it is told not to; None for one that can't."""
    if not _can_think(model):
        return None
    if request.think == "max" and model.facts.architecture in _HARMONY:
        return "high"
    return True if request.think is None else request.think


def _can_think(model: ResolvedModel) -> bool:
    return "thinking" in model.capabilities or _jinja_knows_thinking(model)


def _jinja_knows_tools(model: ResolvedModel) -> bool:
    return "tools" in model.facts.chat_template or "tool_call" in model.facts.chat_template


def _jinja_knows_thinking(model: ResolvedModel) -> bool:
    return all(tag in model.facts.chat_template for tag in _THINK_TAGS)


def _is_old_thinker(model: ResolvedModel) -> bool:
    return model.details.family == "qwen3" or model.name.model.lower() == "deepseek-r1"
