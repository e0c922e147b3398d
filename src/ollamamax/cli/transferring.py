"""Models between a node and registries, as a person watches it."""

from contextlib import closing
from typing import Any, Final
from urllib.parse import quote

from ollamamax.cli.client import Client
from ollamamax.cli.errors import CliError
from ollamamax.cli.progress import ProgressView

_DENIED: Final = "access denied"
_ALL: Final = 100


def pull(client: Client, model: str, *, insecure: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Have a model in the node's store; the last progress object. Raises: CliError; KeyboardInterrupt, explained."""
    with ProgressView(quiet=quiet) as view:
        try:
            return _transfer(client, "/api/pull", model, insecure, view)
        except KeyboardInterrupt:
            view.say(f"cancelled; what has come is kept: `ollamamax pull {model}` goes on with it")
            raise


def spread(client: Client, model: str, nodes: str, *, quiet: bool = False) -> None:
    """Have a model of the cluster on other nodes, too, with a bar for each. nodes: as the admin API takes them.

    Raises: CliError.
    """
    path = f"/admin/v1/models/{quote(model, safe='/:')}/spread"
    with ProgressView(quiet=quiet) as view, closing(client.stream(path, {"nodes": nodes})) as steps:
        last: dict[str, Any] = {}
        for last in steps:
            view.report(last)
    if last.get("status") != "success":
        raise CliError("the node broke off; what has come is kept: the same command goes on with it")


def push(client: Client, model: str, *, insecure: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Send a model of the node's store to its registry; the last progress object. Raises: CliError."""
    with ProgressView(quiet=quiet) as view:
        try:
            return _transfer(client, "/api/push", model, insecure, view)
        except CliError as error:
            if _DENIED not in str(error):
                raise
            raise CliError(
                "you are not authorized to push to this namespace, create the model under a namespace you own"
            ) from error


def _transfer(client: Client, path: str, model: str, insecure: bool, view: ProgressView) -> dict[str, Any]:
    last: dict[str, Any] = {}
    seen: set[str] = set()
    with closing(client.stream(path, {"model": model, "insecure": insecure})) as steps:
        for last in steps:
            status, total, completed = str(last.get("status", "")), last.get("total", 0), last.get("completed", 0)
            if status not in seen and 0 < completed < total:
                view.say(f"{status}: going on, {completed * _ALL // total}% came earlier")
            seen.add(status)
            view.report(last)
    if last.get("status") != "success":
        raise CliError("the node broke off; what has come is kept: the same command goes on with it")
    return last
