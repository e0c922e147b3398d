"""`ollamamax node show|remove|cordon|uncordon|drain|undrain|label`."""

import sys
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="One machine of the cluster; `ollamamax nodes` lists them.", no_args_is_help=True, rich_markup_mode=None
)

_Name = Annotated[str, typer.Argument(help="Its name or id.", metavar="NAME")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("show")
def show(name: _Name, as_json: _Json = False) -> None:
    """Show what is known of a node."""
    from ollamamax.cli.client import connect

    with connect() as client:
        node = client.get(_path(name))
    _print(node, as_json)


@app.command("remove")
def remove(
    name: _Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: _Json = False,
) -> None:
    """Take a node out of the cluster. All others refuse it within two seconds, even if its machine was stolen.

    Its models stay on its disk. To come back it has to join anew, by a new token.
    """
    from ollamamax.cli.asking import agreed
    from ollamamax.cli.client import connect
    from ollamamax.cli.errors import CliError
    from ollamamax.cli.output import print_json

    if not yes and not agreed(f"Remove '{name}' from the cluster? It can come back only with a new token."):
        raise CliError(f"'{name}' was not removed")
    with connect() as client:
        client.delete(_path(name))
    if as_json:
        print_json({"name": name})
    else:
        sys.stdout.write(f"removed '{name}'\n")


@app.command("cordon")
def cordon(name: _Name, as_json: _Json = False) -> None:
    """Keep new requests away from a node, e.g. before its machine is taken down. Those under way are finished."""
    _change(name, {"cordoned": True}, as_json, f"cordoned '{name}'")


@app.command("uncordon")
def uncordon(name: _Name, as_json: _Json = False) -> None:
    """Let a node take requests again."""
    _change(name, {"cordoned": False}, as_json, f"'{name}' takes requests again")


@app.command("drain")
def drain(
    name: _Name,
    timeout: Annotated[
        str, typer.Option("--timeout", help="How long it may take; 0: as long as it takes.", metavar="TIME")
    ] = "10m",
    on_timeout: Annotated[
        str, typer.Option("--on-timeout", help="stop: then end what is left; keep: let it end.", metavar="stop|keep")
    ] = "stop",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until it is empty, or the time is over.")] = True,
    as_json: _Json = False,
) -> None:
    """Empty a node without failing a request: no new work, replicas elsewhere first, answers under way end.

    It stays empty until `ollamamax node undrain`, also when it is started anew.

    \b
    Examples:
      ollamamax node drain gpu-box --timeout 30m --on-timeout keep
      ollamamax node drain gpu-box --no-wait
    """
    from ollamamax.cli.client import connect
    from ollamamax.cli.output import print_json
    from ollamamax.cli.placing import drain_text, milliseconds, wait_until_drained
    from ollamamax.cli.progress import ProgressView

    timeout_ms = milliseconds(timeout, "--timeout")
    with connect() as client:
        node = client.post(f"{_path(name)}/drain", {"timeout_ms": timeout_ms, "on_timeout": on_timeout})
        if wait:
            node = wait_until_drained(client, _path(name), timeout_ms / 1000, ProgressView(quiet=as_json).say)
    print_json(node) if as_json else sys.stdout.write(f"{drain_text(node)}\n")


@app.command("undrain")
def undrain(name: _Name, as_json: _Json = False) -> None:
    """Let a node that is drained take work again."""
    from ollamamax.cli.client import connect
    from ollamamax.cli.output import print_json

    with connect() as client:
        node = client.delete(f"{_path(name)}/drain")
    print_json(node) if as_json else sys.stdout.write(f"'{name}' takes work again\n")


@app.command("label")
def label(
    name: _Name,
    labels: Annotated[list[str], typer.Argument(help="key=value sets a label, key- removes it.", metavar="LABELS...")],
    as_json: _Json = False,
) -> None:
    """Set and remove a node's labels.

    \b
    Examples:
      ollamamax node label gpu-box room=cellar gpu=4090
      ollamamax node label gpu-box room-
    """
    _change(name, {"labels": _labels(labels)}, as_json, f"labelled '{name}'")


def _labels(words: list[str]) -> dict[str, str | None]:
    """What the words ask for; None = remove. Raises: CliError."""
    from ollamamax.cli.errors import CliError

    labels: dict[str, str | None] = {}
    for word in words:
        key, equals, value = word.partition("=")
        removed = not equals and key.endswith("-")
        key = key.removesuffix("-") if removed else key
        if not key or not (equals or removed):
            raise CliError(f"{word!r} is no label; write key=value to set one, key- to remove it", exit_code=2)
        if key in labels:
            raise CliError(f"the label {key!r} is given twice", exit_code=2)
        labels[key] = None if removed else value
    return labels


def _change(name: str, change: dict[str, Any], as_json: bool, text: str) -> None:
    from ollamamax.cli.client import connect
    from ollamamax.cli.output import print_json

    with connect() as client:
        node = client.patch(_path(name), change)
    if as_json:
        print_json(node)
    else:
        sys.stdout.write(f"{text}\n")


def _print(node: dict[str, Any], as_json: bool) -> None:
    import time

    from ollamamax.cli.cluster_words import node_text
    from ollamamax.cli.output import print_json

    if as_json:
        print_json(node)
    else:
        sys.stdout.write(node_text(node, time.time_ns()))


def _path(name: str) -> str:
    from urllib.parse import quote

    return f"/admin/v1/nodes/{quote(name, safe='')}"
