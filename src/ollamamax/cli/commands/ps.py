"""`ollamamax ps`."""

import sys
from typing import Annotated

import typer


def command(
    prefix: Annotated[str, typer.Argument(help="Only names that begin so.", show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models that are in memory."""
    from ollamamax.cli.client import connect
    from ollamamax.cli.listing import running_table, starting_with
    from ollamamax.cli.output import print_json

    with connect() as client:
        models = starting_with(client.get("/api/ps")["models"], prefix)
    if as_json:
        print_json(models)
    else:
        sys.stdout.write(running_table(models))
