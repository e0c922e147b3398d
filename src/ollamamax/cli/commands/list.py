"""`ollamamax list`."""

import sys
from typing import Annotated

import typer


def command(
    prefix: Annotated[str, typer.Argument(help="Only names that begin so.", show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models that can be run here.

    \b
    Examples:
      ollamamax list
      ollamamax list llama --json
    """
    from ollamamax.cli.client import connect
    from ollamamax.cli.listing import models_table, starting_with
    from ollamamax.cli.output import print_json

    with connect() as client:
        models = starting_with(client.get("/api/tags")["models"], prefix)
    if as_json:
        print_json(models)
    else:
        sys.stdout.write(models_table(models))
