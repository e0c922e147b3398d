"""The process between a node and its etcd: `python -I -S etcd_keeper.py ETCD ARGUMENT...`.

etcd knows nothing of pipes, so this process does: when its standard input ends, because the node closed it or died,
etcd is told to end (SIGTERM), and killed if it does not. When this process dies, the kernel kills etcd (Linux);
elsewhere the node, if it lives, kills it by its id, and else etcd ends by the next line that nobody reads.

Prints etcd's process id, and ends as etcd does. Standard library alone; nothing of this project is imported.
"""

import ctypes
import os
import signal
import sys
import threading
from typing import NoReturn

_GRACE_S = 5.0
_PR_SET_PDEATHSIG = 1


def main() -> NoReturn:
    """Run etcd until it ends or this process's standard input does."""
    keeper = os.getpid()
    child = os.fork()
    if child == 0:
        _become_etcd(keeper)
    os.write(1, b"%d\n" % child)
    os.close(1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGTERM))
    threading.Thread(target=_guard, args=(child,), daemon=True).start()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)  # a signal's exit code, as shells have it


def _become_etcd(keeper: int) -> NoReturn:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:  # it died before that
            os._exit(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    try:
        os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606
    except OSError as error:
        os.write(2, f"{sys.argv[1]} can't be started: {error.strerror}\n".encode())
        os._exit(126)


def _guard(child: int) -> None:
    while os.read(0, 4096):
        pass
    os.kill(child, signal.SIGTERM)
    threading.Event().wait(_GRACE_S)
    os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
