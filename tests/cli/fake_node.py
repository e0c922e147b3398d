"""A node that says what the test wants, on loopback, and remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DIGEST = "0123456789abcdef" * 4
SHOWN: dict[str, Any] = {
    "modelfile": "FROM tiny\n",
    "parameters": 'temperature                    0.5\nstop                           "<end>"',
    "template": "{{ .Prompt }}",
    "system": "You are small.",
    "license": "one\n\ntwo\nthree\n",
    "details": {"family": "llama", "parameter_size": "3.5M", "quantization_level": "F16"},
    "model_info": {"general.architecture": "llama", "llama.context_length": 512, "llama.embedding_length": 64},
    "capabilities": ["completion", "thinking"],
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
}


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """What to answer. lines: an NDJSON stream instead of a body; `hold`: wait before this line until released."""

    status: int = 200
    body: Any = None
    lines: list[Any] | None = None
    hold: threading.Event | None = None
    hold_before: int = 1


def error(status: int, text: str) -> Reply:
    return Reply(status, {"error": text})


def stream(*lines: Any, hold: threading.Event | None = None, hold_before: int = 1) -> Reply:
    return Reply(lines=list(lines), hold=hold, hold_before=hold_before)


def chat_answer(*texts: str, thinking: str = "", **final: Any) -> Reply:
    """A streamed chat answer."""
    thoughts = [{"message": {"role": "assistant", "content": "", "thinking": thinking}, "done": False}]
    chunks = [{"message": {"role": "assistant", "content": text}, "done": False} for text in texts]
    last = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", **final}
    return stream(*(thoughts if thinking else []), *chunks, last)


def generated(*texts: str, **final: Any) -> Reply:
    """A streamed completion."""
    chunks = [{"response": text, "done": False} for text in texts]
    return stream(*chunks, {"response": "", "done": True, "done_reason": "stop", **final})


Answer = Reply | Callable[[Asked], Reply]


@dataclass
class FakeNode:
    """answers: by "METHOD /path". Unknown ones get 404 as text. gone: set when a held stream lost its client."""

    url: str
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)

    def to(self, path: str) -> list[Asked]:
        """The requests to that path."""
        return [request for request in self.asked if request.path == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    node: FakeNode

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _handle(self) -> None:
        asked = Asked(self.command, self.path, self._body(), {k.lower(): v for k, v in self.headers.items()})
        self.node.asked.append(asked)
        answer = self.node.answers.get(f"{self.command} {self.path}")
        reply = answer(asked) if callable(answer) else answer
        if reply is None:
            self._send(404, "text/plain", b"404 page not found")
        elif reply.lines is None:
            body = b"" if reply.body is None else json.dumps(reply.body, ensure_ascii=False).encode()
            self._send(reply.status, "application/json", body)
        else:
            self._stream(reply)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _handle

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self, reply: Reply) -> None:
        assert reply.lines is not None
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for number, line in enumerate(reply.lines):
            if reply.hold is not None and number == reply.hold_before:
                self._wait_until_gone_or(reply.hold)
            data = line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode() + b"\n"
            try:
                self.wfile.write(data)
                self.wfile.flush()
            except OSError:
                self.node.gone.set()
                return

    def _wait_until_gone_or(self, released: threading.Event) -> None:
        """Until the test releases, or the client has closed its end."""
        self.connection.settimeout(0.02)
        while not released.is_set():
            try:
                if self.connection.recv(1) == b"":
                    self.node.gone.set()
                    return
            except TimeoutError:
                continue
            except OSError:
                self.node.gone.set()
                return


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


@contextmanager
def fake_node() -> Iterator[FakeNode]:
    """A running one, with a model `tiny`."""
    server = _Server(("127.0.0.1", 0), _Handler)
    node = FakeNode(f"http://127.0.0.1:{server.server_address[1]}")
    node.answers["POST /api/show"] = Reply(body=SHOWN)
    node.answers["GET /api/version"] = Reply(body={"version": "0.12.0"})
    server.RequestHandlerClass = type("Handler", (_Handler,), {"node": node})  # type: ignore[assignment]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield node
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Terminal:
    """Standard input of a command that is run in the test's own process. typed: at a terminal."""

    def __init__(self, text: str | None, typed: str = "") -> None:
        self._text = text
        self._typed = typed

    def isatty(self) -> bool:
        return self._text is None

    def read(self) -> str:
        return self._text or ""

    def readline(self) -> str:
        return (self._text or self._typed).partition("\n")[0]
