"""A process that takes part in a mesh as a client until it is killed: `python mesh_child.py` with a config on stdin."""

import asyncio
import sys

import msgspec

from ollamamax.adapters.network.zenoh_mesh import ZenohMesh
from ollamamax.ports import MeshConfig


async def take_part(config: MeshConfig) -> None:
    mesh = ZenohMesh()
    await mesh.open(config)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(take_part(msgspec.msgpack.decode(sys.stdin.buffer.read(), type=MeshConfig)))
