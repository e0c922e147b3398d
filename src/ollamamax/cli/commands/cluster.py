"""`ollamamax cluster status|ha|backup|restore|restore-state`."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ollamamax.cli.commands import ha

if TYPE_CHECKING:
    from ollamamax.cli.client import Client

app = typer.Typer(help="The cluster as a whole.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(ha.app, name="ha")


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


@app.command("backup")
def backup(
    file: Annotated[Path, typer.Argument(help="Where to write it; an existing file is replaced.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write all that the cluster has agreed on into a file: nodes, models, placements, settings.

    \b
    No model weights, and no secret keys; whoever has it can't join by it. `ollamamax cluster restore FILE` brings it
    back where the state itself is lost. Nodes that hold the state on etcd keep a copy of each hour, too.

    \b
    Example:
      ollamamax cluster backup cluster-$(date +%F).state
    """
    from ollamamax.cli.client import connect
    from ollamamax.cli.errors import CliError
    from ollamamax.cli.output import print_json, size

    with connect() as client:
        data = client.data("/admin/v1/cluster/backup")
    try:
        _write_whole(file, data)
    except OSError as error:
        raise CliError(f"can't write {file}: {error.strerror}") from error
    if as_json:
        print_json({"file": str(file), "bytes": len(data)})
    else:
        sys.stdout.write(f"wrote {file} ({size(len(data))})\n")


@app.command("restore")
def restore(
    file: Annotated[Path, typer.Argument(help="From `cluster backup`, or of the directory cluster/backups of a home.")],
    home: Annotated[str, typer.Option(help="As of `serve`; no node may run on it.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a copy the cluster's state again, held by this machine alone. For when the state is lost for good.

    \b
    What the cluster agreed on after the copy (nodes, tokens, settings, placements) is forgotten; so be sure that those
    that held the state do not come back. Step by step:
      1. take the newest copy: ls -t ~/.ollamamax/cluster/backups/ on all machines, or a file of `cluster backup`
      2. stop the node of this machine (Ctrl-C, or systemctl stop ollamamax)
      3. ollamamax cluster restore FILE
      4. ollamamax serve        the others find the state here by themselves
      5. ollamamax cluster ha enable        to have it on several machines again
    """
    import os

    from ollamamax.cli import offline
    from ollamamax.cli.asking import agreed
    from ollamamax.cli.output import print_json
    from ollamamax.settings import load

    settings = load({"home": home or None}, os.environ).settings
    if not yes and not agreed(f"Make {file} the cluster's state? What was agreed on since then is forgotten."):
        raise typer.Exit(1)
    generation = offline.restore_backup(settings, file)
    if as_json:
        print_json({"file": str(file), "generation": generation})
    else:
        sys.stdout.write(f"The cluster's state is that of {file} now, on this machine.\nStart it: ollamamax serve\n")


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


def _write_whole(file: Path, data: bytes) -> None:
    """All of it or nothing, for this user's eyes only. Raises: OSError."""
    import os

    beside = file.with_name(f".{file.name}.part")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as part:
            part.write(data)
            part.flush()
            os.fsync(part.fileno())
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
