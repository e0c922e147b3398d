"""`ollamamax cluster status`."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ollamamax.cli.client import Client

app = typer.Typer(help="The cluster as a whole.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def cluster() -> None:
    """The cluster as a whole."""


@app.command("status")
def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it anew every second, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how the cluster is: its nodes, who holds its state, what does not work now.

    \b
    The holder is the node that keeps what the cluster has agreed on. While it can't be reached, requests are
    answered as ever; only changes (joining, removing, labels, tokens) are refused.
    """
    from ollamamax.cli.client import connect

    with connect() as client:
        if not watch:
            sys.stdout.write(_text(client, as_json))
            return
        from ollamamax.cli.watching import watch as show

        show(lambda: _text(client, as_json))


def _text(client: "Client", as_json: bool) -> str:
    import json

    from ollamamax.cli.cluster_words import nodes_table, status_text

    status = client.get("/admin/v1/cluster")
    if as_json:
        return json.dumps(status, indent=2, ensure_ascii=False) + "\n"
    nodes = client.get("/admin/v1/nodes")["nodes"]
    return status_text(status, time.time_ns()) + "\n" + nodes_table(nodes)
