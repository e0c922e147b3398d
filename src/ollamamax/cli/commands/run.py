"""`ollamamax run`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ollamamax.cli.client import Client
    from ollamamax.cli.talk import Talk


def command(
    model: Annotated[str, typer.Argument(help="The model.")],
    prompt: Annotated[list[str] | None, typer.Argument(help="What to ask; without it a conversation begins.")] = None,
    keep_alive: Annotated[
        str, typer.Option("--keepalive", help="How long it stays in memory afterwards, e.g. 5m; -1s: for ever.")
    ] = "",
    verbose: Annotated[bool, typer.Option("--verbose", help="Print statistics after each answer.")] = False,
    format: Annotated[str, typer.Option("--format", help="json, or a JSON Schema that the answer must fit.")] = "",
    think: Annotated[
        str, typer.Option("--think", help="true, false, low, medium, high or max; alone it means true.")
    ] = "",
    hide_thinking: Annotated[
        bool, typer.Option("--hidethinking", help="Have it think, but show the answer only.")
    ] = False,
    no_word_wrap: Annotated[bool, typer.Option("--nowordwrap", help="Don't break lines between words.")] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Talk plain HTTP with the registry of a model that has to be pulled.")
    ] = False,
    dimensions: Annotated[int, typer.Option(help="Embedding models: length of the vector; 0 is the model's own.")] = 0,
    truncate: Annotated[
        str,
        typer.Option("--truncate", help="Embedding models: false = refuse a text that is too long.  [true or false]"),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the API's answer, when it is whole.")] = False,
) -> None:
    """Ask a model something, or talk with it. A model that is nowhere yet is pulled first.

    \b
    Examples:
      ollamamax run tiny                                a conversation; /? inside explains it
      ollamamax run tiny "What is OllamaMax?"           one answer
      ollamamax run tiny "Summarise this:" < notes.txt  what comes in goes before the prompt
      ollamamax run tiny --format json --json "Two colours as JSON"
    """
    from ollamamax.cli.talk import Talk, parse_bool, parse_format, parse_keep_alive, parse_think

    talk = Talk(
        model=model,
        format=parse_format(format),
        think=parse_think(think) if think else None,
        keep_alive=parse_keep_alive(keep_alive) if keep_alive else None,
        hide_thinking=hide_thinking,
        verbose=verbose,
        wrap=not no_word_wrap,
    )
    vector = {"dimensions": dimensions} if dimensions else {}
    if truncate:
        vector["truncate"] = parse_bool("--truncate", truncate)
    _run(talk, _question(prompt or []), vector, insecure=insecure, as_json=as_json)


def _run(talk: "Talk", question: str, vector: dict[str, Any], *, insecure: bool, as_json: bool) -> None:
    """vector: fields of a request for one."""
    from ollamamax.cli.client import connect
    from ollamamax.cli.errors import CliError

    if as_json and not question:
        raise CliError("--json needs a prompt")
    with connect() as client:
        info = _look_up_or_pull(client, talk.model, insecure=insecure, quiet=as_json)
        talk.capabilities = tuple(info.get("capabilities", ()))
        if question:
            _ask(client, talk, question, vector, as_json=as_json)
        else:
            _converse(client, talk, info)


def _look_up_or_pull(client: "Client", model: str, *, insecure: bool, quiet: bool) -> dict[str, Any]:
    from ollamamax.cli.errors import CliError
    from ollamamax.cli.talk import look_up_to_talk
    from ollamamax.cli.transferring import pull

    try:
        return look_up_to_talk(client, model)
    except CliError as error:
        if error.status != 404:
            raise
    pull(client, model, insecure=insecure, quiet=quiet)
    return look_up_to_talk(client, model)


def _question(words: list[str]) -> str:
    """Standard input, if it is no terminal, and then the prompt."""
    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
    question = " ".join(part for part in (piped, *words) if part)
    if not question and sys.stdin is not None and not sys.stdin.isatty():
        from ollamamax.cli.errors import CliError

        raise CliError("nothing was asked: standard input is empty, and there is no prompt")
    return question


def _ask(client: "Client", talk: "Talk", question: str, vector: dict[str, Any], *, as_json: bool) -> None:
    import json

    from ollamamax.cli import attachments
    from ollamamax.cli.output import print_json
    from ollamamax.cli.talk import embed, generate

    if "embedding" in talk.capabilities and "completion" not in talk.capabilities:
        sys.stdout.write(json.dumps(embed(client, talk, question, vector)) + "\n")
        return
    images: list[str] = []
    if "vision" in talk.capabilities or "audio" in talk.capabilities:
        question, images = attachments.extract(question)
    if as_json:
        body = talk.common() | {"prompt": question, "stream": False} | ({"images": images} if images else {})
        print_json(client.post("/api/generate", body, patient=True))
    else:
        generate(client, talk, question, images)


def _converse(client: "Client", talk: "Talk", info: dict[str, Any]) -> None:
    from ollamamax.cli.client import history_home
    from ollamamax.cli.conversation import Conversation, print_opening
    from ollamamax.cli.errors import CliError
    from ollamamax.cli.reader import TerminalLines
    from ollamamax.cli.repl import loop
    from ollamamax.cli.talk import load

    if "embedding" in talk.capabilities and "completion" not in talk.capabilities:
        raise CliError(f'{talk.model} makes vectors and can\'t talk; try: ollamamax run {talk.model} "some text"')
    load(client, talk)
    print_opening(info)
    kept = os.environ.get("OLLAMA_NOHISTORY", "").strip() in ("", "0", "false")
    loop(Conversation(client, talk, TerminalLines(Path(history_home()) / "history" if kept else None), info))
