"""`ollamamax version`."""

import sys
from typing import Annotated

import typer

from ollamamax import __version__


def command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print the version of this program, and of the node if it is another one."""
    from ollamamax.cli.client import connect
    from ollamamax.cli.errors import CliError
    from ollamamax.cli.output import print_json

    try:
        with connect() as client:
            node = str(client.get("/api/version").get("version", ""))
    except CliError as error:
        node = ""
        if not as_json:
            sys.stderr.write(f"Warning: {error}\n")
    if as_json:
        print_json({"version": __version__, "node": node})
        return
    sys.stdout.write(f"ollamamax version is {__version__}\n")
    if node and node != __version__:
        sys.stdout.write(f"the node speaks Ollama's API of version {node}\n")
