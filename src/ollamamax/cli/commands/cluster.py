"""`ollamamax cluster status` and `ollamamax cluster restore-state`."""

import sys
import time
from pathlib import Path
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


@app.command("restore-state")
def restore_state(
    snapshot: Annotated[
        Path | None, typer.Option("--from", help="A file of the directory *.snapshots. [the last good one]")
    ] = None,
    home: Annotated[str, typer.Option(help="As of `serve`; no node may run on it.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Go back to a snapshot of the cluster's state, where its file is damaged.

    \b
    Only on the node that holds the state, while it does not run. The damaged file is moved aside, not deleted.
    What the cluster agreed on after the snapshot (nodes, tokens, labels) is forgotten.
    """
    import os

    from ollamamax.cli import offline
    from ollamamax.cli.asking import agreed
    from ollamamax.cli.output import print_json
    from ollamamax.settings import load

    settings = load({"home": home or None}, os.environ).settings
    if not yes and not agreed("Go back to a snapshot of the cluster's state?"):
        raise typer.Exit(1)
    used, former = offline.restore_state(settings, snapshot)
    if as_json:
        print_json({"snapshot": str(used), "former": str(former) if former is not None else None})
    else:
        aside = f"; the former file is {former}" if former is not None else ""
        sys.stdout.write(f"The state is that of {used} now{aside}.\nStart the node: ollamamax serve\n")


def _text(client: "Client", as_json: bool) -> str:
    import json

    from ollamamax.cli.cluster_words import nodes_table, status_text

    status = client.get("/admin/v1/cluster")
    if as_json:
        return json.dumps(status, indent=2, ensure_ascii=False) + "\n"
    nodes = client.get("/admin/v1/nodes")["nodes"]
    return status_text(status, time.time_ns()) + "\n" + nodes_table(nodes)
