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

    node = ollama = ""
    try:
        with connect() as client:
            told = client.get("/api/version")
            node, ollama = str(told.get("ollamamax", "")), str(told.get("version", ""))
    except CliError as error:
        if not as_json:
            sys.stderr.write(f"Warning: {error}\n")
    if as_json:
        print_json({"version": __version__, "node": node, "ollama": ollama})
        return
    sys.stdout.write(f"ollamamax version is {__version__}\n")
    if node and node != __version__:
        sys.stdout.write(f"Warning: the node runs version {node}\n")
    if ollama:
        said = f"the node speaks Ollama's API of version {ollama}" if node else f"what answers is Ollama {ollama}"
        sys.stdout.write(f"{said}\n")
