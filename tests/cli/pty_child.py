"""`ollamamax` on a terminal of its own."""

import fcntl
import os
import select
import subprocess
import sys
import termios
import time
from pathlib import Path


class Pty:
    """A child on a terminal of its own."""

    def __init__(self, *words: str, node: str, home: Path) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("OLLAMA")}
        environ = {**inherited, "OLLAMA_HOST": node, "HOME": str(home), "TERM": "xterm"}
        self._master, slave = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ollamamax", *words],
            stdin=slave, stdout=slave, stderr=slave, env=environ, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str, limit_s: float = 20.0) -> None:
        """Wait until that was shown (after what was expected before)."""
        deadline = time.monotonic() + limit_s
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} was not shown; what was: {self.seen!r}"
            if select.select([self._master], [], [], left)[0]:
                try:
                    data = os.read(self._master, 65536)
                except OSError:
                    data = b""
                assert data, f"it ended before {text!r}; what was: {self.seen!r}"
                if b"\x1b[6n" in data:
                    os.write(self._master, b"\x1b[1;1R")  # where the cursor is
                self.seen += data.decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def close(self) -> int:
        """Its exit code, once it has ended by itself; what it still says is read and dropped."""
        try:
            while select.select([self._master], [], [], 20)[0] and os.read(self._master, 65536):
                pass
        except OSError:
            pass  # how Linux says that nobody is left on the other side
        return self.process.wait(timeout=20)

    def end(self) -> None:
        """Kill it, if it still runs, and close the terminal."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)
