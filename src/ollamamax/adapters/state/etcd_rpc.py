"""gRPC and etcd's messages, imported when a node first needs them: most nodes never do (a third of a second, 23 MB)."""

import asyncio
import importlib
import os
from typing import Any, NamedTuple


class Rpc(NamedTuple):
    """What the import gave. grpc: `grpc`, with `grpc.aio`.  pb: etcd's generated messages and stubs."""

    grpc: Any
    pb: Any


async def load() -> Rpc:
    """Import both, in a thread."""
    return await asyncio.to_thread(_load)


def _load() -> Rpc:
    # Read once, by the import: it would write lines of its own to our standard error for every refused connection,
    # and this program starts processes by exec alone.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    importlib.import_module("grpc.aio")
    return Rpc(importlib.import_module("grpc"), importlib.import_module("aetcd.rpc"))
