"""The process that makes a GGUF: reads its sources, writes the new file to standard output.

Started as `python -m ollamamax.adapters.engines.gguf_child`. Standard input brings one line of JSON, the fields of
`GgufJob`. Standard output gets one line of JSON, `{"size_bytes": n}` or `{"code": ..., "text": ...}`, and in the first
case the n bytes of the file. What goes wrong after that goes to standard error. It ends with its parent.
"""

import json
import os
import sys
from contextlib import ExitStack
from typing import Final

from ollamamax.adapters.engines.gguf_pieces import pieces
from ollamamax.adapters.engines.gguf_sources import assembled
from ollamamax.adapters.engines.lifeline import die_with_parent
from ollamamax.core.errors import OllamaMaxError

_NICENESS: Final = 10


def main() -> None:
    """Read the job, write the file."""
    job = json.loads(sys.stdin.buffer.readline())
    out = os.dup(1)
    os.dup2(2, 1)  # whatever native code prints belongs to the log
    die_with_parent()
    os.nice(_NICENESS)  # who asks a model of this machine comes first
    with ExitStack() as stack:
        try:
            assembly, files = assembled(job["files"], job["quantize"], stack)
            body = pieces(assembly, files, os.cpu_count() or 1)
            first = next(body)
        except OllamaMaxError as error:
            _write(out, json.dumps({"code": error.code, "text": str(error)}).encode() + b"\n")
            return
        _write(out, json.dumps({"size_bytes": assembly.size_bytes()}).encode() + b"\n")
        _write(out, first)
        for piece in body:
            _write(out, piece)


def _write(out: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(out, rest) :]


if __name__ == "__main__":
    main()
