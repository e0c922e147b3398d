"""`ollamamax demo`."""

from typing import Annotated

import typer


def command(
    once: Annotated[bool, typer.Option("--once", help="End after the answer.")] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the first node; 0: Ollama's 11434 if free, else any.")
    ] = 0,
) -> None:
    """See it work: three nodes on this machine, an answer, an endpoint to try things on.

    One node is the endpoint; two more are attached to it as if they were other machines. They keep their
    data in a temporary directory and end with this command.
    """
    from ollamamax.cli.showing import show

    show(once=once, port=port)
