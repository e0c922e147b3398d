"""`ollamamax cp`."""

import sys
from typing import Annotated

import typer


def command(
    source: Annotated[str, typer.Argument(help="A model.")],
    destination: Annotated[str, typer.Argument(help="The new name.")],
) -> None:
    """Give a model a second name. No weights are copied."""
    from ollamamax.cli.client import connect

    with connect() as client:
        client.post("/api/copy", {"source": source, "destination": destination})
    sys.stdout.write(f"copied '{source}' to '{destination}'\n")
