"""A node that only holds the state, as a process: `python state_holder.py STATE_FILE PAPERS_FILE PORT`.

Prints its port once it listens; ends when its standard input does.
"""

import asyncio
import sys
from pathlib import Path

import msgspec

from ollamamax.adapters.network.peer_server import PeerServer
from ollamamax.adapters.state.sqlite_state import SqliteState
from ollamamax.adapters.system.clock import SystemClock
from ollamamax.ports import NodeKeys
from ollamamax.services.state_host import StateHost


async def hold(path: Path, keys: NodeKeys, port: int) -> None:
    store = await SqliteState.open(path, SystemClock(), heartbeat_ms=200.0, snapshot_every_ms=500.0)
    host = StateHost(lambda: store)
    server = PeerServer([host.methods()], keys, lambda node_id, key_hash: False)
    print(await server.start("127.0.0.1", port), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    host.close()
    await server.close(2_000)
    await store.close()


if __name__ == "__main__":
    papers = msgspec.msgpack.decode(Path(sys.argv[2]).read_bytes(), type=NodeKeys)
    asyncio.run(hold(Path(sys.argv[1]), papers, int(sys.argv[3])))
