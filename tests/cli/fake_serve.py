"""Stands in for the interpreter of `python -m ollamamax serve ...`: a fake node that ends when its input closes.

Its cluster is a directory with a file per member: the first makes it, its token is the path, joining is adding a file.

What it does is chosen by FAKE_SERVE: "" serves; "dies" ends at once with words; "deaf" never becomes ready;
"stays" ignores the end of its input.
"""

import os
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from fake_node import Asked, FakeNode, Reply, _Handler, _Server, chat_answer


def main() -> None:
    """Serve on --port until standard input ends."""
    mode = os.environ.get("FAKE_SERVE", "")
    if mode == "dies":
        print("Error: port is in use", flush=True)
        sys.exit(1)
    assert "--exit-on-stdin-close" in sys.argv
    port, members = int(flag("--port")), Path(flag("--join") or Path(flag("--home")) / "members")
    members.mkdir(exist_ok=True)
    (members / flag("--name")).touch()
    server = _Server(("127.0.0.1", port), _Handler)
    node = FakeNode(f"http://127.0.0.1:{port}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"node": node})  # type: ignore[assignment]
    _teach(node, members, ready=mode != "deaf")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    print("listening", flush=True)
    sys.stdin.read()
    while mode == "stays":
        time.sleep(1)


def flag(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else ""


def _teach(node: FakeNode, members: Path, ready: bool) -> None:
    def chat(asked: Asked) -> Reply:
        if asked.json.get("stream", True):
            return chat_answer(f"{flag('--name')} says ", f"pid {os.getpid()}.")
        answered.append(1)
        return Reply(body={"message": {"content": "4"}, "done": True})

    def nodes(asked: Asked) -> Reply:
        """Facts come some time after the members are known."""
        asks.append(1)
        one = {"state": "ready", "models": 1, "facts_age_ms": 900.0 if len(asks) > 1 else None}
        names = sorted(path.name for path in members.iterdir())
        return Reply(body={"nodes": [{**one, "name": name, "is_this": name == flag("--name")} for name in names]})

    asks: list[int] = []
    answered: list[int] = []
    node.answers["GET /readyz"] = Reply(200 if ready else 503, {})
    node.answers["POST /admin/v1/tokens"] = Reply(201, {"token": str(members)})
    node.answers["GET /admin/v1/nodes"] = nodes
    node.answers["POST /api/chat"] = chat
    node.answers["GET /metrics"] = lambda _: Reply(
        lines=[
            b"# TYPE ollamamax_output_tokens_total counter\n",
            b'ollamamax_output_tokens_total{engine="local",model="tiny:latest"} 9.0\n',
            b'ollamamax_output_tokens_total{engine="second/local",model="tiny:latest"} %d.0\n' % (2 * len(answered)),
            b'ollamamax_output_tokens_total{engine="second/other",model="tiny:latest"} %d.0\n' % len(answered),
            b'ollamamax_output_tokens_total{engine="third/local",model="tiny:latest"} 5.0\n',
        ]
    )


if __name__ == "__main__":
    main()
