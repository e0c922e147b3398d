"""`ollamamax stop`."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ollamamax.cli.client import Client


def command(model: Annotated[str, typer.Argument(help="A model that is in memory.")]) -> None:
    """Take a model out of memory. Answers in progress are finished first."""
    from ollamamax.cli.client import connect
    from ollamamax.cli.errors import CliError

    with connect() as client:
        try:
            unload(client, model)
        except CliError as error:
            if error.status != 404:
                raise
            raise CliError(f'couldn\'t find model "{model}" to stop; `ollamamax ps` shows what is in memory') from error


def unload(client: "Client", model: str) -> None:
    """Ask for a model to leave memory when its requests are done. Raises: CliError."""
    client.post("/api/generate", {"model": model, "keep_alive": 0, "stream": False})
