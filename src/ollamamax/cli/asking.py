"""A question to the person at the terminal."""

import sys


def agreed(question: str) -> bool:
    """Whether they said yes. Where nobody sits at a terminal nobody is asked: a script has decided."""
    if not sys.stdin.isatty():
        return True
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
