"""`ollamamax cluster ha enable|disable|replace|status`."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ollamamax.cli.client import Client

_PATH = "/admin/v1/cluster/ha"
_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def ha() -> None:
    """High availability: the cluster's state on several machines, so that any of them may be lost.

    \b
    At first one machine holds what the cluster has agreed on. While it is away requests are answered as ever, but
    nothing can be changed. With three machines one of them may be lost, with five two; changes go on.
    Each of them runs etcd, which has to be installed there.
    """


@app.command("enable")
def enable(
    voters: Annotated[int, typer.Option(min=1, max=7, help="How many machines: 3, 5 or 7.")] = 3,
    nodes: Annotated[str, typer.Option(help="Which ones: names with commas. [the holder, then by joining]")] = "",
    external: Annotated[
        bool, typer.Option("--external", help="In an etcd that others run (settings state.*).")
    ] = False,
    as_json: _JSON = False,
) -> None:
    """Spread the cluster's state over several machines. Nothing stops for it; changes wait for a second.

    \b
    Each of them gets etcd as a child of its node (ports: the peer listener's + 2, and + 3 on loopback only), and the
    key with which nodes are let in, so that joining works whichever of them is lost.

    \b
    Examples:
      ollamamax cluster ha enable
      ollamamax cluster ha enable --nodes n1,n2,n3
    """
    named = [name.strip() for name in nodes.split(",") if name.strip()]
    body = {"voters": voters, "nodes": named, "external": external}
    _work(as_json, lambda client: client.stream(_PATH, body))


@app.command("disable")
def disable(
    node: Annotated[str, typer.Option(help="Which of those that hold it now. [the one that is asked]")] = "",
    as_json: _JSON = False,
) -> None:
    """Bring the state back to one machine alone, and stop etcd on all of them."""
    from urllib.parse import quote

    _work(as_json, lambda client: client.stream(f"{_PATH}?node={quote(node, safe='')}", method="DELETE"))


@app.command("replace")
def replace(
    node: Annotated[str, typer.Argument(help="Who leaves: the one that is lost.")],
    by: Annotated[str, typer.Argument(help="Who takes its place. [one that holds nothing yet]")] = "",
    nobody: Annotated[bool, typer.Option("--nobody", help="Nobody does: the others go on without it.")] = False,
    as_json: _JSON = False,
) -> None:
    """Have another machine in the place of one that holds the state. May be repeated after a failure.

    \b
    Examples:
      ollamamax cluster ha replace n2 n4
      ollamamax cluster ha replace n2        # whoever can
    """
    body = {"node": node, "by": by, "nobody": nobody}
    _work(as_json, lambda client: client.stream(f"{_PATH}/replace", body))


@app.command("status")
def status(as_json: _JSON = False) -> None:
    """Show where the state lives, how those are that hold it, and what is wrong."""
    import time

    from ollamamax.cli.client import connect
    from ollamamax.cli.ha_words import home_text
    from ollamamax.cli.output import print_json

    with connect() as client:
        told = client.get(_PATH)
    if as_json:
        print_json(told)
    else:
        sys.stdout.write(home_text(told, time.time_ns()))


def _work(as_json: bool, begin: "Callable[[Client], Generator[dict[str, Any], None, None]]") -> None:
    """Show the steps; then how it is. Raises: CliError."""
    from contextlib import closing

    from ollamamax.cli.client import connect
    from ollamamax.cli.errors import CliError
    from ollamamax.cli.progress import ProgressView

    last: dict[str, Any] = {}
    with connect() as client, ProgressView(quiet=as_json) as view, closing(begin(client)) as steps:
        for last in steps:
            view.report(last)
    if last.get("status") != "success":
        raise CliError("the node broke off; `ollamamax cluster ha status` tells how far it came")
    status(as_json=as_json)
