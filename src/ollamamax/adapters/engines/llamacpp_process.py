"""A llama.cpp child seen from its parent: start, log, lifeline, end."""

import asyncio
import os
import re
import signal
from collections import deque
from contextlib import suppress
from typing import Any, Final

import msgspec
import structlog

from ollamamax.adapters.engines.children import start_child
from ollamamax.core.errors import LoadFailed
from ollamamax.core.types import LaunchSpec

_MODULE: Final = "ollamamax.adapters.engines.llamacpp_child"
_GRACE_S: Final = 3.0
_LINE: Final = re.compile(r"^\d+\.\d\d\.\d{3}\.\d{3} ([DIWE]) (.*)$")
_MAX_LINE_CHARS: Final = 2_000
_TAIL_LINES: Final = 20

# What a log tells of a failed start, the most telling first, and what a person can do about it.
_CAUSES: Final = (
    (re.compile(r"unknown model architecture.*"), "this engine does not know the architecture; update OllamaMax"),
    (
        re.compile(r"(.*(out of memory|failed to allocate|unable to allocate|alloc_tensor_range).*)", re.IGNORECASE),
        "free memory, or use a smaller num_ctx or a smaller model",
    ),
    (
        re.compile(r".*(not within the file bounds|failed to read|invalid magic|not a GGUF|corrupt).*", re.IGNORECASE),
        "the file is damaged or no model; create or pull it again",
    ),
    (re.compile(r".*lora.*", re.IGNORECASE), "the adapter does not belong to this model"),
    (re.compile(r"GGML_ASSERT.*|.*GGML_ABORT.*"), "this is a fault of the engine; the log has the details"),
    (re.compile(r"error loading model.*"), "the log has the details"),
)


class ChildProcess:
    """One child. Made by `start`; `stop` or `kill` must be awaited in the end."""

    def __init__(self, process: asyncio.subprocess.Process, lifeline: int, model: str) -> None:
        self._process = process
        self._lifeline = lifeline
        self._model = model
        self._log = structlog.get_logger("llamacpp").bind(model=model, pid=process.pid)
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._was_asked = False
        self._is_ready = False
        self._end = asyncio.create_task(self._follow(), name=f"llamacpp {process.pid}")

    @classmethod
    async def start(cls, python: str, spec: LaunchSpec, api_key: str) -> "ChildProcess":
        """Start the process and hand it its configuration. Raises: LoadFailed if it can't be started at all."""
        config = msgspec.json.encode({**msgspec.structs.asdict(spec), "api_key": api_key}) + b"\n"
        try:
            process, lifeline = await start_child(python, _MODULE, config)
        except OSError as error:
            raise LoadFailed(f"the engine's process could not be started: {error}") from error
        return cls(process, lifeline, spec.name)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def was_asked(self) -> bool:
        """Whether we ended it."""
        return self._was_asked

    async def port(self) -> int:
        """The port it serves on, once the model is loaded. Raises: LoadFailed with what its log tells."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            await asyncio.wait([self._end], timeout=_GRACE_S)
            if not self._end.done():
                await self.kill()
            reason = await self.ended()
            told, remedy = self._cause()
            raise LoadFailed(f"model {self._model} could not be loaded: {told or 'the engine ' + reason}; {remedy}")
        self._is_ready = True
        return int(msgspec.json.decode(line)["port"])

    async def ended(self) -> str:
        """Wait for the end; the reason in one line."""
        return await asyncio.shield(self._end)

    async def stop(self) -> None:
        """Close the lifeline; kill it if that is not enough. Returns when it is reaped; may be called again."""
        self._was_asked = True
        self._cut()
        done, _ = await asyncio.wait([self._end], timeout=_GRACE_S)
        if not done:
            await self.kill()

    async def kill(self) -> None:
        """End it at once and reap it."""
        self._was_asked = True
        self._cut()
        with suppress(ProcessLookupError):
            self._process.kill()
        await asyncio.wait([self._end])

    def _cut(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    async def _follow(self) -> str:
        """Read the log to its end, then reap."""
        assert self._process.stderr is not None
        rest = ""
        while data := await self._process.stderr.read(1 << 16):
            *lines, rest = (rest + data.decode("utf-8", "replace")).split("\n")
            rest = rest[-_MAX_LINE_CHARS:]
            for line in lines:
                self._note(line[:_MAX_LINE_CHARS])
        if rest:
            self._note(rest)
        code = await self._process.wait()
        reason = self._reason(code)
        if not self._was_asked:
            self._log.warning("engine process ended", reason=reason, was_ready=self._is_ready)
        self._cut()
        return reason

    def _note(self, line: str) -> None:
        """One step below llama.cpp's level: its information is seven lines per request, its warnings tell of daily
        business (a context was shifted), its errors of a client's too long prompt."""
        match = _LINE.match(line)
        level, text = (match[1], match[2]) if match else ("I", line)
        text = text.strip()
        if not text:
            return
        self._tail.append(text)
        emit: Any = self._log.info if level == "W" else self._log.warning if level == "E" else self._log.debug
        emit(text)

    def _cause(self) -> tuple[str, str]:
        for pattern, remedy in _CAUSES:
            for line in self._tail:
                if match := pattern.search(line):
                    return match[0].strip(), remedy
        return "", "the log has the details"

    def _reason(self, code: int) -> str:
        if self._was_asked:
            return "stopped"
        how = f"exited with code {code}"
        if code < 0:
            how = f"killed by signal {-code}"
            with suppress(ValueError):
                how += f" ({signal.Signals(-code).name})"
        told = self._cause()[0] if self._is_ready else ""
        return f"{how}: {told}" if told else how
