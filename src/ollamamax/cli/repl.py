"""The loop at a terminal, and its slash commands."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ollamamax.cli.conversation import Conversation, report
from ollamamax.cli.describe import describe, part
from ollamamax.cli.errors import CliError
from ollamamax.cli.listing import models_table, starting_with
from ollamamax.cli.reader import read_input, unquoted
from ollamamax.cli.talk import parse_think
from ollamamax.core.errors import InvalidOption
from ollamamax.core.modelspec.parameters import format_parameters, from_text
from ollamamax.core.options import OPTION_TYPES

HELP: Final = '''Available commands:
  /set            Set session variables
  /show           Show model information
  /load <model>   Talk with another model
  /save <model>   Save this session as a model
  /list [prefix]  List the models that are here
  /clear          Forget what was said
  /bye            Leave
  /?, /help       This help
  /? set, /? show, /? shortcuts

Use """ to begin and to end a message of several lines.
'''
HELP_SET: Final = """Available commands:
  /set parameter <name> <value>   Set a parameter: {parameters}
  /set system <text>              Set the system message
  /set history, nohistory         Keep what is typed in the history file, or not
  /set wordwrap, nowordwrap       Break lines between words, or not
  /set verbose, quiet             Show statistics after each answer, or not
  /set format json, noformat      Ask for JSON, or not
  /set think [level], nothink     Have the model think, or not
"""
HELP_SHOW: Final = """Available commands:
  /show info         Details of this model
  /show license      Its license
  /show modelfile    Its Modelfile
  /show parameters   Its parameters, and those of this session
  /show system       The system message
  /show template     The prompt template
"""
HELP_SHORTCUTS: Final = """Available keyboard shortcuts:
  Ctrl-A, Ctrl-E     To the beginning, to the end of the line
  Alt-B, Alt-F       A word back, a word forward
  Ctrl-K, Ctrl-U     Delete behind, before the cursor
  Ctrl-W             Delete the word before the cursor
  Ctrl-R             Search the history
  Ctrl-G             Write in $EDITOR
  Ctrl-L             Clear the screen
  Ctrl-C             Stop the answer
  Ctrl-D             Leave
"""
_LEAVE: Final = ("/bye", "/exit")
_SHOWN_PARTS: Final = ("license", "modelfile", "system", "template")


def loop(conversation: Conversation) -> None:
    """Read and answer until the person leaves."""
    while True:
        try:
            text = read_input(conversation.lines)
        except EOFError:
            return
        except KeyboardInterrupt:
            sys.stdout.write("\nUse Ctrl-D or /bye to leave.\n")
            continue
        if text.strip() in _LEAVE:
            return
        try:
            _handle(conversation, text)
        except KeyboardInterrupt:
            sys.stdout.write("\n")
        except CliError as error:
            report(error)


def _handle(conversation: Conversation, text: str) -> None:
    word, _, rest = text.strip().partition(" ")
    command = _COMMANDS.get(word)
    if command is not None:
        command(conversation, rest.strip())
    elif word.startswith("/") and not Path(word).exists():
        _say(f"Unknown command '{word}'. Type /? for help")
    elif word:
        conversation.say(text)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _help(_: Conversation, topic: str) -> None:
    parameters = ", ".join(OPTION_TYPES)
    pages = {"set": HELP_SET.format(parameters=parameters), "show": HELP_SHOW, "shortcuts": HELP_SHORTCUTS}
    _say(pages.get(topic.removeprefix("/"), HELP))


def _list(conversation: Conversation, prefix: str) -> None:
    _say(models_table(starting_with(conversation.client.get("/api/tags")["models"], prefix)))


def _load(conversation: Conversation, model: str) -> None:
    if not model:
        return _say("Usage:\n  /load <model>")
    conversation.switch(model)
    return _say(f"Now talking with {model}")


def _save(conversation: Conversation, model: str) -> None:
    if not model:
        return _say("Usage:\n  /save <model>")
    talk = conversation.talk
    said = {"system": talk.system, "parameters": talk.options, "messages": conversation.messages}
    body = {"model": model, "from": talk.model, "stream": False} | {key: value for key, value in said.items() if value}
    conversation.client.post("/api/create", body, patient=True)
    return _say(f"Created new model '{model}'")


def _clear(conversation: Conversation, _: str) -> None:
    conversation.messages.clear()
    _say("Cleared session context")


def _show(conversation: Conversation, what: str) -> None:
    if what == "info":
        _say(describe(conversation.info))
    elif what == "parameters":
        _say(_parameters(conversation))
    elif what in _SHOWN_PARTS:
        text = part(conversation.info, what)
        if what == "system":
            text = conversation.talk.system or text
        _say(text or f"No {what} was specified for this model.")
    else:
        _say(HELP_SHOW)


def _parameters(conversation: Conversation) -> str:
    own = part(conversation.info, "parameters") or "No parameters were specified for this model."
    session = format_parameters(conversation.talk.options)
    return f"Model parameters:\n{own}" + (f"\n\nSet in this session:\n{session}" if session else "")


def _set(conversation: Conversation, arguments: str) -> None:
    name, _, value = arguments.partition(" ")
    setter = _SETTERS.get(name)
    if setter is None:
        _help(conversation, "set")
    else:
        setter(conversation, value.strip())


def _set_parameter(conversation: Conversation, arguments: str) -> None:
    name, _, value = arguments.partition(" ")
    if not value.strip():
        return _say("Usage:\n  /set parameter <name> <value>")
    try:
        typed = value.split() if name == "stop" else from_text(name, value.strip())
    except InvalidOption as error:
        return _say(f"Couldn't set parameter: {error}")
    conversation.talk.options[name] = typed
    return _say(f"Set parameter '{name}' to '{value.strip()}'")


def _set_system(conversation: Conversation, text: str) -> None:
    if not text:
        return _say("Usage:\n  /set system <text>")
    conversation.talk.system = unquoted(text)
    return _say("Set system message.")


def _set_format(conversation: Conversation, value: str) -> None:
    if value != "json":
        return _say("Usage:\n  /set format json")
    conversation.talk.format = "json"
    return _say("Set format to 'json' mode.")


def _set_think(conversation: Conversation, level: str) -> None:
    if "thinking" not in conversation.talk.capabilities:
        _say(f"warning: model {conversation.talk.model} does not support thinking")
    conversation.talk.think = parse_think(level or "true")
    _say(f"Set 'think' mode{f' to {level}' if level else ''}.")


def _assign(attribute: str, value: Any, said: str) -> Callable[[Conversation, str], None]:
    """A setter of one field of the talk."""

    def setter(conversation: Conversation, _: str) -> None:
        setattr(conversation.talk, attribute, value)
        _say(said)

    return setter


def _set_history(wanted: bool) -> Callable[[Conversation, str], None]:
    def setter(conversation: Conversation, _: str) -> None:
        conversation.lines.keep_history = wanted
        _say(f"History is {'kept' if conversation.lines.keep_history else 'not kept'}.")

    return setter


_SETTERS: Final[dict[str, Callable[[Conversation, str], None]]] = {
    "parameter": _set_parameter,
    "system": _set_system,
    "format": _set_format,
    "noformat": _assign("format", "", "Disabled format."),
    "think": _set_think,
    "nothink": _assign("think", False, "Set 'nothink' mode."),
    "wordwrap": _assign("wrap", True, "Set 'wordwrap' mode."),
    "nowordwrap": _assign("wrap", False, "Set 'nowordwrap' mode."),
    "verbose": _assign("verbose", True, "Set 'verbose' mode."),
    "quiet": _assign("verbose", False, "Set 'quiet' mode."),
    "history": _set_history(True),
    "nohistory": _set_history(False),
}

_COMMANDS: Final[dict[str, Callable[[Conversation, str], None]]] = {
    "/?": _help,
    "/help": _help,
    "/list": _list,
    "/load": _load,
    "/save": _save,
    "/clear": _clear,
    "/show": _show,
    "/set": _set,
}
