"""`ollamamax push`."""

from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(help="Name of the model, maybe with its registry's host.")],
    insecure: Annotated[bool, typer.Option("--insecure", help="Talk plain HTTP with the registry.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON when it is done, and no progress.")] = False,
) -> None:
    """Send a model to a registry. What it has already is not sent again.

    The name says where to: give the model a name of that registry first.

    \b
    Examples:
      ollamamax cp mine registry.example.com:5000/team/mine:v1
      ollamamax push registry.example.com:5000/team/mine:v1
    """
    from ollamamax.cli.client import connect
    from ollamamax.cli.output import print_json
    from ollamamax.cli.transferring import push

    with connect() as client:
        done = push(client, model, insecure=insecure, quiet=as_json)
    if as_json:
        print_json(done | {"model": model})
