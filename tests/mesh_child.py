"""A process that takes part in a mesh as a client until it is killed or its standard input, which begins with a line
that is its config, ends.
"""

import asyncio
import sys

import msgspec

from ollamamax.adapters.network.zenoh_mesh import ZenohMesh
from ollamamax.ports import MeshConfig


async def take_part(config: MeshConfig) -> None:
    mesh = ZenohMesh()
    await mesh.open(config)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    await mesh.close()


if __name__ == "__main__":
    asyncio.run(take_part(msgspec.json.decode(sys.stdin.buffer.readline(), type=MeshConfig)))
