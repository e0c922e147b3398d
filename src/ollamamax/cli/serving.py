"""How `ollamamax serve` becomes a node, in a process that has imported nothing that a node does not need."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from msgspec import Struct


class Order(Struct, frozen=True):
    """What the command line says. flags: by dotted key, None is not given.  join: a token, or None."""

    flags: dict[str, Any]
    config: str | None
    join: str | None
    exit_on_stdin_close: bool


def run(order: Order) -> int:
    """Be that node, until it is stopped. Its exit code. Raises: OllamaMaxError."""
    import_structlog()
    from ollamamax.settings import load

    loaded = load(order.flags, os.environ, config=Path(order.config) if order.config is not None else None)
    if order.join is not None:
        from ollamamax.cli import offline
        from ollamamax.cli.cluster_words import joined_text

        settings = loaded.settings
        joined = offline.join(settings, order.join, name=settings.peer.node_name, force=False)
        sys.stderr.write(joined_text(msgspec.to_builtins(joined)))
    from ollamamax.main import run_node

    return run_node(loaded, ready=_announce, exit_on_stdin_close=order.exit_on_stdin_close)


def ordered(read: Callable[[Callable[[Order], int]], NoReturn]) -> Order:
    """What a child process makes of the command line; what it imports for that goes with it.

    read: called in the child; calls what it is given with the order, or ends the child otherwise.
    Raises: SystemExit with the child's code if there is nothing to serve.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        read(lambda order: _send(order, writer))
    os.close(writer)
    with open(reader, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if data:
        return msgspec.msgpack.decode(data, type=Order)
    code = os.waitstatus_to_exitcode(status)
    sys.exit(code if code >= 0 else 128 - code)


def _send(order: Order, writer: int) -> int:
    with open(writer, "wb") as pipe:
        pipe.write(msgspec.msgpack.encode(order))
    return 0


def import_structlog() -> None:
    """Without rich, which it imports wherever that is installed, for tracebacks that no node writes: 4 MB."""
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]
        import structlog  # noqa: F401

        del sys.modules["rich"]


def _announce(address: str) -> None:
    sys.stdout.write(f"OllamaMax is listening on {address}\n")
    sys.stdout.flush()
