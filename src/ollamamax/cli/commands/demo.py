"""`ollamamax demo`."""

from typing import Annotated

import typer


def command(
    once: Annotated[bool, typer.Option("--once", help="End after the answers.")] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the first node; 0: Ollama's 11434 if free, else any.")
    ] = 0,
) -> None:
    """See it work: three nodes on this machine that become one cluster, answers, an endpoint to try things on.

    The first founds the cluster; two more join it by a token, as other machines would. They keep their data
    in a temporary directory and end with this command.
    """
    from ollamamax.cli.showing import show

    show(once=once, port=port)
