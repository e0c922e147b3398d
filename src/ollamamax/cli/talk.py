"""One exchange with a model: what a request says, and its answer shown as it comes."""

import json
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from ollamamax.cli.answer import AnswerPrinter, first_piece, spinner
from ollamamax.cli.client import Client
from ollamamax.cli.errors import CliError
from ollamamax.cli.output import statistics
from ollamamax.core.modelspec import names

THINK_LEVELS = ("low", "medium", "high", "max")


@dataclass
class Talk:
    """How a person wants to talk with a model. Values are those of the API's request fields; None or "" = not said."""

    model: str
    capabilities: tuple[str, ...] = ()
    system: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    format: Any = ""
    think: bool | str | None = None
    keep_alive: str | int | None = None
    hide_thinking: bool = False
    verbose: bool = False
    wrap: bool = True

    def common(self) -> dict[str, Any]:
        """The fields that all requests share."""
        said = {"options": self.options, "format": self.format, "keep_alive": self.keep_alive, "think": self.think}
        return {"model": self.model} | {key: value for key, value in said.items() if value not in (None, "", {})}


def parse_bool(option: str, text: str) -> bool:
    """The value of an option that is true or false. Raises: CliError."""
    if text not in ("true", "false"):
        raise CliError(f'invalid {option} value: "{text}" (must be true or false)')
    return text == "true"


def parse_think(text: str) -> bool | str:
    """A --think value. Raises: CliError."""
    if text in ("true", "false"):
        return text == "true"
    if text in THINK_LEVELS:
        return text
    raise CliError(f'invalid think value: "{text}" (must be {", ".join(THINK_LEVELS)}, true, or false)')


def parse_format(text: str) -> Any:
    """A --format value: "json", or the text of a JSON Schema. Raises: CliError."""
    if text in ("", "json"):
        return text
    try:
        schema = json.loads(text)
    except ValueError:
        schema = None
    if not isinstance(schema, dict):
        raise CliError(f"invalid format: {text}; expected json or a JSON Schema object")
    return schema


def parse_keep_alive(text: str) -> str | int:
    """A --keepalive value: whole seconds become a number, everything else is the server's to judge."""
    try:
        return int(text)
    except ValueError:
        return text


def look_up(client: Client, model: str, *, verbose: bool = False) -> dict[str, Any]:
    """What /api/show says. verbose: long arrays and tensors too. Raises: CliError that says how to get a model."""
    try:
        info: dict[str, Any] = client.post("/api/show", {"model": model} | ({"verbose": True} if verbose else {}))
    except CliError as error:
        if error.status != 404:
            raise
        raise CliError(
            f"{error}. `ollamamax list` shows the models that are here; "
            f"`ollamamax pull {model}` gets it from a registry; "
            f"`ollamamax create {model} -f Modelfile` makes one from a GGUF file.",
            status=404,
        ) from error
    return info


def look_up_to_talk(client: Client, model: str) -> dict[str, Any]:
    """The same; {} for a model that is listed, but of which its engine tells nothing. Raises: CliError."""
    try:
        return look_up(client, model)
    except CliError as error:
        wanted = names.key(model)
        if error.status == 404 and any(names.key(listed["name"]) == wanted for listed in _listed(client)):
            return {}
        raise


def _listed(client: Client) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = client.get("/api/tags")["models"]
    return models


def load(client: Client, talk: Talk) -> None:
    """Have the model in memory."""
    with spinner(f"loading {talk.model}"):
        client.post("/api/generate", talk.common() | {"prompt": "", "stream": False}, patient=True)


def generate(client: Client, talk: Talk, prompt: str, images: list[str]) -> None:
    """Answer a single prompt on standard output. Raises: CliError, also for an answer that breaks off."""
    body = talk.common() | {"prompt": prompt} | ({"images": images} if images else {})
    _answer(client, talk, "/api/generate", body, _printer(talk), lambda chunk: chunk)


def chat(client: Client, talk: Talk, messages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Answer a conversation on standard output; the assistant's message, None if nothing came.

    Ctrl-C ends the answer: what came so far is returned. Raises: CliError.
    """
    system = [{"role": "system", "content": talk.system}] if talk.system else []
    printer = _printer(talk)
    body = talk.common() | {"messages": system + messages}
    try:
        _answer(client, talk, "/api/chat", body, printer, lambda chunk: chunk.get("message", {}))
    except KeyboardInterrupt:
        pass  # a person has heard enough; the request is closed and the engine's slot with it
    if not printer.text:
        return None
    thinking = {"thinking": printer.thinking} if printer.thinking else {}
    return {"role": "assistant", "content": printer.text} | thinking


def _printer(talk: Talk) -> AnswerPrinter:
    return AnswerPrinter(sys.stdout, wrap=talk.wrap, hide_thinking=talk.hide_thinking)


def _answer(
    client: Client,
    talk: Talk,
    path: str,
    body: dict[str, Any],
    printer: AnswerPrinter,
    piece_of: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    """Print a stream of chunks. piece_of: the part of a chunk that holds content (or response) and thinking."""
    final: dict[str, Any] = {}
    with closing(client.stream(path, body)) as chunks:
        try:
            for final in first_piece(chunks, f"waiting for {talk.model}"):
                piece = piece_of(final)
                text = piece.get("content") or piece.get("response") or ""
                printer.feed(text=text, thinking=piece.get("thinking") or "")
        finally:
            printer.finish()
    if not final.get("done"):
        raise CliError("the answer broke off before its end; look at the node's log")
    if talk.verbose:
        sys.stderr.write("\n" + statistics(final))


def embed(client: Client, talk: Talk, text: str, fields: dict[str, Any]) -> list[float]:
    """The vector of a text. fields: of the request, beyond those that all requests share."""
    body = talk.common() | {"input": text} | fields
    body.pop("think", None)
    body.pop("format", None)
    vectors: list[list[float]] = client.post("/api/embed", body, patient=True)["embeddings"]
    return vectors[0] if vectors else []
