"""`ollamamax join`."""

import sys
from typing import Annotated, Any, Final

import typer

_BACK_S: Final = 30.0
_LOOK_S: Final = 0.1


def command(
    token: Annotated[str, typer.Argument(help="From `ollamamax token create` on a member; - reads it from stdin.")],
    name: Annotated[str, typer.Option(help="What to call this machine there. [its host name]")] = "",
    force: Annotated[bool, typer.Option("--force", help="Leave a cluster that has other members, too.")] = False,
    home: Annotated[str, typer.Option(help="As of `serve`; no node may run on it then.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make this machine a member of a cluster.

    \b
    If a node runs here it joins at once, and goes on serving. Else its papers are fetched and kept,
    and `ollamamax serve` starts it as a member. `serve --join TOKEN` does both.

    \b
    Examples:
      ollamamax join TOKEN
      ollamamax join TOKEN --name gpu-box
    """
    from ollamamax.cli.cluster_words import joined_text
    from ollamamax.cli.output import print_json

    said = _token(token)
    joined = None if home else _by_the_node(said, name, force)
    is_running = joined is not None
    if joined is None:
        joined = _by_ourselves(said, name, force, home)
    if as_json:
        print_json(joined)
    else:
        sys.stdout.write(joined_text(joined) + ("" if is_running else "Start it: ollamamax serve\n"))


def _token(word: str) -> str:
    from ollamamax.cli.errors import CliError

    token = sys.stdin.readline().strip() if word == "-" else word.strip()
    if not token:
        raise CliError("there is no token; `ollamamax token create` on a member makes one")
    return token


def _by_the_node(token: str, name: str, force: bool) -> dict[str, Any] | None:
    """What the node that runs here says; None if none runs."""
    from ollamamax.cli.client import ask_node

    body = {"token": token, "name": name, "force": force}
    joined: dict[str, Any] | None = ask_node(lambda client: client.post("/admin/v1/cluster/join", body))
    if joined is not None and not joined["was_member"]:
        _wait_until_it_is_back(joined["cluster_id"])
    return joined


def _wait_until_it_is_back(cluster_id: str) -> None:
    """It starts its services anew in its new cluster; answers under way end first."""
    import time

    from ollamamax.cli.client import connect
    from ollamamax.cli.errors import CliError, Unreachable

    deadline = time.monotonic() + _BACK_S
    with connect() as client:
        while True:
            try:
                if client.get("/admin/v1/cluster")["cluster_id"] == cluster_id:
                    return
            except Unreachable:
                pass
            if time.monotonic() > deadline:
                raise CliError(f"the node has joined, but is not back after {_BACK_S:g} s; its log tells why")
            time.sleep(_LOOK_S)


def _by_ourselves(token: str, name: str, force: bool, home: str) -> dict[str, Any]:
    import os

    import msgspec

    from ollamamax.cli import offline
    from ollamamax.settings import load

    settings = load({"home": home or None, "peer.node_name": name or None}, os.environ).settings
    joined: dict[str, Any] = msgspec.to_builtins(offline.join(settings, token, name=name, force=force))
    return joined
