"""`ollamamax config show|get|set|unset|history|diff|rollback`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ollamamax.core.types import SettingsChange

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Key = Annotated[str, typer.Argument(help="A setting, e.g. engine.keep_alive.", metavar="KEY")]
_One = Annotated[str, typer.Option("--node", help="Only for that node. [all nodes]", metavar="NAME")]
_Of = Annotated[str, typer.Option("--node", help="Of another node. [the one on this machine]", metavar="NAME")]
_Offline = Annotated[bool, typer.Option("--offline", help="What `serve` would use, started now.")]
_Home = Annotated[str, typer.Option(help="As of `serve`; means --offline.")]
_File = Annotated[Path | None, typer.Option("--config", help="As of `serve`; means --offline.", metavar="FILE")]


@app.callback()
def config() -> None:
    """Settings: those of a node, and those that the cluster shares at run time.

    \b
    Who wins, the later one: default, the cluster's, the cluster's for that node, config.toml, environment, flags.
    docs/settings.md says what each setting means, and which the cluster can share.
    """


@app.command("show")
def show(
    node: _Of = "", offline: _Offline = False, home: _Home = "", file: _File = None, as_json: _Json = False
) -> None:
    """Print every setting, its value and where that comes from.

    \b
    Those of the running node; where none runs, what `ollamamax serve` would use in this environment.
    Secrets are shown as ***.

    \b
    Examples:
      ollamamax config show
      ollamamax config show --node gpu-box
      ollamamax config show --json | jq '.settings["engine.keep_alive"]'
    """
    import msgspec

    from ollamamax.cli.configuring import look, settings_text, whose_text
    from ollamamax.cli.output import print_json

    settings, is_running = look(node, offline, home, file)
    if as_json:
        print_json(msgspec.to_builtins(settings))
        return
    sys.stdout.write(settings_text(settings))
    sys.stderr.write(whose_text(settings, is_running))


@app.command("get")
def get(
    key: _Key, node: _Of = "", offline: _Offline = False, home: _Home = "", file: _File = None, as_json: _Json = False
) -> None:
    """Print the value of one setting, alone: for scripts. --json tells where it comes from, too."""
    import msgspec

    from ollamamax.cli.configuring import look, value_text
    from ollamamax.cli.errors import CliError
    from ollamamax.cli.output import print_json
    from ollamamax.settings.load import unknown_key

    settings, _ = look(node, offline, home, file)
    row = settings.settings.get(key)
    if row is None:
        raise CliError(unknown_key("key", key, "config get", list(settings.settings)), exit_code=2)
    if as_json:
        print_json(msgspec.to_builtins(row))
    else:
        sys.stdout.write(f"{value_text(row.value)}\n")


@app.command("set", context_settings={"ignore_unknown_options": True})
def set_(
    key: _Key,
    value: Annotated[str, typer.Argument(help="As in the settings file, without quotes.", metavar="VALUE")],
    node: _One = "",
    as_json: _Json = False,
) -> None:
    """Set something for all nodes of the cluster, or for one, while they run.

    \b
    The value is checked first: a bad one changes nothing anywhere. Nodes take it over at once; nodes that are away
    when they return. What a node's own file, environment or flags say still wins there, and is told.

    \b
    Examples:
      ollamamax config set engine.keep_alive 30m
      ollamamax config set engine.max_loaded_models 1 --node old-laptop
      ollamamax config set engine.keep_alive -1         for ever
      ollamamax config unset engine.keep_alive          no longer set by the cluster
    """
    from ollamamax.cli.configuring import change, key_path

    _tell(change("PUT", key_path(key), {"value": value, "node": node}), node, as_json)


@app.command("unset")
def unset(key: _Key, node: _One = "", as_json: _Json = False) -> None:
    """Have the cluster no longer set something, for all nodes or for one: what is below it holds again.

    What was set with --node is unset with --node.
    """
    from ollamamax.cli.configuring import change, key_path

    _tell(change("DELETE", key_path(key, node)), node, as_json)


@app.command("history")
def history(as_json: _Json = False) -> None:
    """List the changes of the cluster's settings, each with its version. The newest 100 are kept."""
    import time

    from ollamamax.cli.client import connect
    from ollamamax.cli.configuring import PATH, history_text
    from ollamamax.cli.output import print_json

    with connect() as client:
        versions = client.get(f"{PATH}/history")["versions"]
    if as_json:
        print_json(versions)
    else:
        sys.stdout.write(history_text(versions, time.time_ns()))


@app.command("diff")
def diff(
    before: Annotated[int | None, typer.Argument(min=0, help="A version. [the one before B]", metavar="[A]")] = None,
    after: Annotated[int | None, typer.Argument(min=0, help="Another. [the newest]", metavar="[B]")] = None,
    as_json: _Json = False,
) -> None:
    """Show what differs between two versions of the cluster's settings. 0 is before anything was set.

    \b
    Examples:
      ollamamax config diff        what the last change did
      ollamamax config diff 3      what has changed since version 3
      ollamamax config diff 3 5
    """
    from urllib.parse import urlencode

    from ollamamax.cli.client import connect
    from ollamamax.cli.configuring import PATH, difference_text
    from ollamamax.cli.output import print_json

    versions = {name: version for name, version in (("before", before), ("after", after)) if version is not None}
    with connect() as client:
        answer = client.get(f"{PATH}/diff?{urlencode(versions)}")
    if as_json:
        print_json(answer)
    else:
        sys.stdout.write(difference_text(answer))


@app.command("rollback")
def rollback(
    version: Annotated[int, typer.Argument(min=0, help="As `config history` lists them.", metavar="VERSION")],
    as_json: _Json = False,
) -> None:
    """Make the cluster's settings what they were in a version; 0 is before anything was set.

    That becomes a new version, so it can be undone in the same way. `config diff VERSION` shows what it would change.
    """
    from ollamamax.cli.configuring import change

    _tell(change("POST", "/rollback", {"version": version}), "", as_json)


def _tell(change: "SettingsChange", node: str, as_json: bool) -> None:
    import msgspec

    from ollamamax.cli.configuring import change_text
    from ollamamax.cli.output import print_json

    if as_json:
        print_json(msgspec.to_builtins(change))
    else:
        sys.stdout.write(change_text(change, node))
