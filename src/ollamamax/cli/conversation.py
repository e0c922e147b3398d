"""A conversation at a terminal: its state, what is said in it, and the loop that reads."""

import sys
from dataclasses import dataclass, field
from typing import Any

from ollamamax.cli import attachments
from ollamamax.cli.client import Client
from ollamamax.cli.errors import CliError
from ollamamax.cli.reader import LineSource, unquoted
from ollamamax.cli.talk import Talk, chat, load, look_up_to_talk


@dataclass
class Conversation:
    """info: what /api/show says of the model.  messages: so far, without the system message."""

    client: Client
    talk: Talk
    lines: LineSource
    info: dict[str, Any]
    messages: list[dict[str, Any]] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Ask, print the answer, remember both. Raises: CliError; then nothing is remembered."""
        content, images = unquoted(text), list[str]()
        if "vision" in self.talk.capabilities or "audio" in self.talk.capabilities:
            content, images = attachments.extract(content)
        message = {"role": "user", "content": content} | ({"images": images} if images else {})
        answer = chat(self.client, self.talk, [*self.messages, message])
        if answer is not None:
            self.messages += [message, answer]

    def switch(self, model: str) -> None:
        """Go on with another model, from the beginning. Raises: CliError; then everything stays as it was."""
        info = look_up_to_talk(self.client, model)
        talk = Talk(**{**vars(self.talk), "model": model, "capabilities": tuple(info.get("capabilities", ()))})
        load(self.client, talk)
        self.talk, self.info = talk, info
        self.messages.clear()


def print_opening(info: dict[str, Any]) -> None:
    """The example messages that a model comes with."""
    for message in info.get("messages") or []:
        mark = ">>> " if message.get("role") == "user" else ""
        sys.stdout.write(f"{mark}{message.get('content', '')}\n\n")


def report(error: CliError) -> None:
    """An error that does not end the conversation."""
    sys.stderr.write(f"Error: {error}\n")
