"""Starts child processes that end with this one."""

import asyncio
import os
from contextlib import suppress


async def start_child(python: str, module: str, first_line: bytes) -> tuple[asyncio.subprocess.Process, int]:
    """A Python process that runs the module, and its lifeline: the descriptor whose closing is to end it.

    first_line: what its standard input brings first. Its output and its errors are pipes.
    Raises: OSError if it can't be started at all.
    """
    read_end, write_end = os.pipe()
    starting = asyncio.create_task(_spawn(python, module, read_end))
    try:
        process = await asyncio.shield(starting)
    except asyncio.CancelledError:
        # Half-started processes are lost to some event loops, so it is started whole and then ended.
        os.close(write_end)
        await asyncio.wait([starting])
        if not starting.cancelled() and starting.exception() is None:
            starting.result().kill()
            await starting.result().communicate()
        raise
    except OSError:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    with suppress(BrokenPipeError):  # it died at once: its end will tell
        os.write(write_end, first_line)
    return process, write_end


async def _spawn(python: str, module: str, lifeline: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        python,
        "-P",  # the current directory is no place to import from
        "-m",
        module,
        stdin=lifeline,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in the node's terminal is for the node
    )
