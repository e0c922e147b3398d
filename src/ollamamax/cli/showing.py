"""The demo: three nodes, of which two join the first by a token; an answer through each, and who gives it."""

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, Final

from rich.console import Console

from ollamamax.cli.client import Client
from ollamamax.cli.cluster_words import nodes_table
from ollamamax.cli.errors import CliError
from ollamamax.cli.nodes import Nodes, free_port
from ollamamax.settings.values import DEFAULT_PORT

_MODEL: Final = "tiny"
_FIRST: Final = "first"
_JOINING: Final = ("second", "third")
_QUESTIONS: Final = ("What is OllamaMax?", "What is the capital of France?", "What is 2 plus 3?")
_TOKEN_TTL_MS: Final = 600_000
_BURST: Final = (
    *("What is 2 plus 3?", "What is 7 plus 8?", "What is the capital of France?", "What colour is the sky?"),
    *("What is 9 plus 9?", "What is the capital of Italy?", "What colour is grass?", "Hello! How are you?"),
    *("What is 4 plus 5?", "What is the capital of Spain?", "What colour is snow?", "What is OllamaMax?"),
)
_SEEN_S = 30.0


def show(*, once: bool, port: int) -> None:
    """Run the demo; returns after the answers (once) or after Ctrl-C. Raises: CliError, KeyboardInterrupt."""
    console = Console(highlight=False, soft_wrap=True)
    with (
        _ending_by_signals(),
        TemporaryDirectory(prefix="ollamamax-demo-", ignore_cleanup_errors=True) as folder,
        Nodes(Path(folder)) as nodes,
    ):
        urls = _start(console, nodes, port or free_port(DEFAULT_PORT))
        for (name, at), question in zip(urls.items(), _QUESTIONS, strict=True):
            console.print(f"\n[bold]> {question}[/bold]  [dim](asked at {name}, {at})[/dim]")
            with Client(at) as client:
                _answer(client, question)
        url = urls[_FIRST]
        if once:
            console.print(f"\nThat was {url}. Bye.")
            return
        with Client(url) as client:
            _show_burst(console, client)
        try:
            _explain(console, url)
            while True:
                nodes.check()
                time.sleep(0.5)
        except KeyboardInterrupt:
            console.print("\nStopping the nodes.")


@contextmanager
def _ending_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end us as Ctrl-C does; only the first signal counts, so that the clean-up is not cut short."""
    came: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            raise KeyboardInterrupt

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _start(console: Console, nodes: Nodes, port: int) -> dict[str, str]:
    """Start one, have two more join it, show what it sees; their URLs by name."""
    began = time.monotonic()
    with console.status("Starting a node"):
        urls = {_FIRST: nodes.start(_FIRST, port)}
        nodes.wait(urls.items())
    console.print(f"[green]✓[/green] the first node is up at {urls[_FIRST]}; it has founded a cluster")
    with Client(urls[_FIRST]) as client:
        with console.status("Two more nodes join it"):
            wanted = {"ttl_ms": _TOKEN_TTL_MS, "uses": len(_JOINING)}
            token = client.post("/admin/v1/tokens", wanted)["token"]
            urls |= {name: nodes.start(name, free_port(), join=token) for name in _JOINING}
            nodes.wait(urls.items())
            for name, url in urls.items():
                _until(f"the node {name} sees all of them", partial(_sees_all, url, urls))
        took_s = time.monotonic() - began
        console.print(
            f"[green]✓[/green] two more have joined it by a token, over mutual TLS; all of it took {took_s:.1f} s\n"
        )
        console.print(nodes_table(client.get("/admin/v1/nodes")["nodes"]), markup=False, end="")
    return urls


def _sees_all(url: str, urls: Mapping[str, str]) -> bool:
    with Client(url) as client:
        nodes = client.get("/admin/v1/nodes")["nodes"]
    told = {node["name"] for node in nodes if node["state"] == "ready" and node.get("facts_age_ms") is not None}
    return told == set(urls)


def _until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SEEN_S
    while not condition():
        if time.monotonic() > deadline:
            raise CliError(f"waited {_SEEN_S:.0f} s in vain until {what}")
        time.sleep(0.05)


def _answer(client: Client, question: str) -> None:
    """Stream one answer, token by token."""
    body = {"model": _MODEL, "messages": [{"role": "user", "content": question}], "options": {"temperature": 0}}
    chunk: dict[str, Any] = {}
    with closing(client.stream("/api/chat", body)) as chunks:
        for chunk in chunks:
            sys.stdout.write(chunk["message"]["content"])
            sys.stdout.flush()
    sys.stdout.write("\n")
    if not chunk.get("done"):
        raise CliError("the answer broke off before its end")


def _show_burst(console: Console, client: Client) -> None:
    """Ask one node many things at once and tell which nodes answered."""
    before = _tokens_by_node(client)
    with ThreadPoolExecutor(len(_BURST)) as pool:
        list(pool.map(lambda question: _ask(client, question), _BURST))
    after = _tokens_by_node(client)
    told = ", ".join(f"{name} {after[name] - before[name]}" for name in after)
    console.print(
        f"\n{len(_BURST)} questions at once, asked at the first node. Tokens by the node that answered: {told}."
    )


def _ask(client: Client, question: str) -> None:
    body = {"model": _MODEL, "messages": [{"role": "user", "content": question}], "stream": False}
    client.post("/api/chat", body, patient=True)


def _tokens_by_node(client: Client) -> dict[str, int]:
    """How many tokens each node has written for this one, by this one's own count."""
    counts = dict.fromkeys((_FIRST, *_JOINING), 0)
    counted = re.findall(
        r'^ollamamax_output_tokens_total\{[^}]*engine="([^"/]*)[^}]*\} (\S+)', client.text("/metrics"), re.MULTILINE
    )
    for name, count in counted:
        counts[name if name in counts else _FIRST] += int(float(count))  # its own engine goes without its name
    return counts


def _explain(console: Console, url: str) -> None:
    """Where it is and what to try."""
    question = '{"model":"tiny","messages":[{"role":"user","content":"What is 2 plus 3?"}]}'
    console.print(f"\nThe endpoint is [bold]{url}[/bold]. Try, in another terminal:\n")
    for line in (
        f"  curl {url}/api/chat -d '{question}'",
        f"  OLLAMA_HOST={url} ollamamax run tiny            (or ollama run tiny)",
        f"  OLLAMA_HOST={url} ollamamax nodes           (or cluster status --watch, events --follow)",
        f"  OpenAI clients: base_url={url}/v1, any api_key, model tiny",
    ):
        console.print(line, markup=False)
    console.print("\nA fourth node joins with one command:\n")
    console.print(
        f'  D=$(mktemp -d); ollamamax serve --join "$(OLLAMA_HOST={url} ollamamax token create)" --name fourth '
        '--port 0 --peer-listen 127.0.0.1:0 --home "$D" --models "$D/models"',
        markup=False,
    )
    console.print("\nCtrl-C ends it.")
