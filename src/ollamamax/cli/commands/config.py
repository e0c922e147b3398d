"""`ollamamax config show`."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(help="Settings of the node on this machine.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def config() -> None:
    """Settings of the node on this machine."""


@app.command("show")
def show(
    home: Annotated[str, typer.Option(help="As of `serve`.")] = "",
    file: Annotated[Path | None, typer.Option("--config", help="As of `serve`.", metavar="FILE")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print every setting, its value and where that comes from.

    It is what `ollamamax serve` would use, started now with these options and in this environment.
    Secrets are shown as ***. docs/settings.md says what each one means.
    """
    from ollamamax.cli.output import print_json, table
    from ollamamax.settings import load
    from ollamamax.settings.knobs import as_text

    loaded = load({"home": home or None}, os.environ, config=file)
    if as_json:
        print_json({key: {"value": _plain(item.value), "source": item.origin} for key, item in loaded.sources.items()})
        return
    rows = [(key, as_text(item.value), item.origin) for key, item in loaded.sources.items()]
    sys.stdout.write(table(("SETTING", "VALUE", "SOURCE"), rows))


def _plain(value: Any) -> Any:
    """In a form that JSON has; of a secret only that there is one."""
    from pydantic import SecretStr

    from ollamamax.settings.knobs import as_text

    if isinstance(value, Path):
        return str(value)
    if isinstance(value, SecretStr):
        return as_text(value)
    return list(value) if isinstance(value, tuple) else value
