"""`ollamamax rm`."""

import sys
from typing import Annotated

import typer


def command(models: Annotated[list[str], typer.Argument(help="Models to delete.")]) -> None:
    """Delete models. Weights that no other model uses go with them.

    All of them are tried; the exit code is 1 if one could not be deleted.
    """
    from ollamamax.cli.client import connect
    from ollamamax.cli.commands.stop import unload
    from ollamamax.cli.errors import CliError

    failed = []
    with connect() as client:
        for model in models:
            try:
                unload(client, model)
            except CliError as error:
                if not error.status:
                    raise
                # The deletion says better what is wrong with the name; a model that can't be run can still go.
            try:
                client.delete("/api/delete", {"model": model})
            except CliError as error:
                failed.append(str(error))
            else:
                sys.stdout.write(f"deleted '{model}'\n")
    if failed:
        raise CliError("; ".join(failed) + ". `ollamamax list` shows the models that are here")
