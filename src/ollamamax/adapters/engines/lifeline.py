"""For child processes: the end of standard input is the end of the process, whatever it is doing.

Its parent holds the other end of the pipe, so that it dies with its parent, even after `kill -9`. Imports stay few.
"""

import os
import signal
import sys
import threading

_LIFELINE = 0


def die_with_parent() -> None:
    """Exit when the write end of the lifeline closes.

    A thread does it on every system. But loading a model holds the interpreter's lock, for minutes if it is large,
    so where the kernel can signal that a pipe changed (Linux), its SIGIO ends the process at once.
    """
    threading.Thread(target=_watch, name="lifeline", daemon=True).start()
    if sys.platform == "linux":
        import fcntl
        import select

        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(_LIFELINE, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(_LIFELINE, fcntl.F_SETFL, fcntl.fcntl(_LIFELINE, fcntl.F_GETFL) | os.O_ASYNC)
        poller = select.poll()
        poller.register(_LIFELINE, select.POLLIN)
        if poller.poll(0):  # closed before the signal was asked for
            os._exit(0)


def _watch() -> None:
    while os.read(_LIFELINE, 4096):
        continue
    os._exit(0)
