"""`ollamamax pull`."""

from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(help="Name of the model, maybe with its registry's host.")],
    insecure: Annotated[bool, typer.Option("--insecure", help="Talk plain HTTP with the registry.")] = False,
    nodes: Annotated[
        str,
        typer.Option("--nodes", help="Then there, too: all, how many, or labels.", metavar="all|N|KEY=VALUE,..."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON when it is done, and no progress.")] = False,
) -> None:
    """Get a model from a registry, or its newest version.

    Ctrl-C ends it; what has come is kept, and the same command goes on with it.

    \b
    Examples:
      ollamamax pull llama3.2
      ollamamax pull llama3.2 --nodes all
      ollamamax pull hf.co/someone/model-GGUF:Q4_K_M
      ollamamax pull registry.example.com:5000/team/model:v2
    """
    from ollamamax.cli.client import connect
    from ollamamax.cli.output import print_json
    from ollamamax.cli.transferring import pull, spread

    with connect() as client:
        done = pull(client, model, insecure=insecure, quiet=as_json)
        if nodes:
            spread(client, model, nodes, quiet=as_json)
    if as_json:
        print_json(done | {"model": model})
