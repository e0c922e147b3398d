"""Stands in for the interpreter of `python -m ollamamax serve ...`: a fake node that ends when its input closes.

What it does is chosen by FAKE_SERVE: "" serves; "dies" ends at once with words; "deaf" never becomes ready;
"stays" ignores the end of its input.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from fake_node import Asked, FakeNode, Reply, _Handler, _Server, chat_answer


def main() -> None:
    """Serve on --port until standard input ends."""
    mode = os.environ.get("FAKE_SERVE", "")
    if mode == "dies":
        print("Error: port is in use", flush=True)
        sys.exit(1)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    assert "--exit-on-stdin-close" in sys.argv
    server = _Server(("127.0.0.1", port), _Handler)
    node = FakeNode(f"http://127.0.0.1:{port}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"node": node})  # type: ignore[assignment]
    _teach(node, ready=mode != "deaf")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    print("listening", flush=True)
    sys.stdin.read()
    while mode == "stays":
        time.sleep(1)


def _teach(node: FakeNode, ready: bool) -> None:
    engines: list[dict[str, Any]] = []

    def attach(asked: Asked) -> Reply:
        engines.append({**asked.json, "models": ["tiny:latest"], "reachable": True})
        return Reply(201, asked.json)

    def chat(asked: Asked) -> Reply:
        if asked.json.get("stream", True):
            return chat_answer("OllamaMax is ", f"pid {os.getpid()}.")
        answered.append(1)
        return Reply(body={"message": {"content": "4"}, "done": True})

    answered: list[int] = []
    node.answers["GET /readyz"] = Reply(200 if ready else 503, {})
    node.answers["POST /admin/v1/engines"] = attach
    node.answers["GET /admin/v1/engines"] = lambda _: Reply(body=json.loads(json.dumps({"engines": engines})))
    node.answers["POST /api/chat"] = chat
    node.answers["GET /metrics"] = lambda _: Reply(
        lines=[
            b"# TYPE ollamamax_requests_total counter\n",
            b'ollamamax_requests_total{error="",outcome="ok",route="/api/show"} 9.0\n',
            f'ollamamax_requests_total{{error="",outcome="ok",route="/api/chat"}} {len(answered)}.0\n'.encode(),
        ]
    )


if __name__ == "__main__":
    main()
