"""The demo: starts three nodes, has one use the other two, shows an answer and who gives it."""

import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, Final

from rich.console import Console

from ollamamax.cli.client import Client
from ollamamax.cli.errors import CliError
from ollamamax.cli.nodes import Nodes, free_port
from ollamamax.settings.values import DEFAULT_PORT

_MODEL: Final = "tiny"
_QUESTION: Final = "What is OllamaMax?"
_BURST: Final = (
    *("What is 2 plus 3?", "What is 7 plus 8?", "What is the capital of France?", "What colour is the sky?"),
    *("What is 9 plus 9?", "What is the capital of Italy?", "What colour is grass?", "Hello! How are you?"),
    *("What is 4 plus 5?", "What is the capital of Spain?", "What colour is snow?", "What is OllamaMax?"),
)
_ATTACHED: Final = ("second", "third")
_ATTACHED_SLOTS: Final = 2
_SEEN_S = 30.0


def show(*, once: bool, port: int) -> None:
    """Run the demo; returns after the answer (once) or after Ctrl-C. Raises: CliError, KeyboardInterrupt."""
    console = Console(highlight=False, soft_wrap=True)
    with (
        _ending_by_signals(),
        TemporaryDirectory(prefix="ollamamax-demo-", ignore_cleanup_errors=True) as folder,
        Nodes(Path(folder)) as nodes,
    ):
        url = _start(console, nodes, port or free_port(DEFAULT_PORT))
        with Client(url) as client:
            console.print(f"\n[bold]> {_QUESTION}[/bold]")
            _answer(client)
            if once:
                console.print(f"\nThat was {url}. Bye.")
                return
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


def _start(console: Console, nodes: Nodes, port: int) -> str:
    """Start all three at once, attach two to the first; the URL of the first."""
    began = time.monotonic()
    with console.status("Starting three nodes"):
        url = nodes.start("first", port)
        attached = [(name, nodes.start(name, free_port())) for name in _ATTACHED]
        nodes.wait([("first", url), *attached])
    console.print(f"[green]✓[/green] three nodes are up in {time.monotonic() - began:.1f} s; the first is {url}")
    with Client(url) as client:
        for name, other in attached:
            body = {"name": name, "kind": "ollama", "url": other, "slots": _ATTACHED_SLOTS}
            client.post("/admin/v1/engines", body)
            console.print(f"[green]✓[/green] {name}, at {other}, is attached to it as an engine")
        _until("the first node sees the others' models", lambda: _sees_models(client))
    return url


def _sees_models(client: Client) -> bool:
    engines = {engine["name"]: engine for engine in client.get("/admin/v1/engines")["engines"]}
    return all(engines.get(name, {}).get("models") for name in _ATTACHED)


def _until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SEEN_S
    while not condition():
        if time.monotonic() > deadline:
            raise CliError(f"waited {_SEEN_S:.0f} s in vain until {what}")
        time.sleep(0.05)


def _answer(client: Client) -> None:
    """Stream one answer, token by token."""
    body = {"model": _MODEL, "messages": [{"role": "user", "content": _QUESTION}], "options": {"temperature": 0}}
    chunk: dict[str, Any] = {}
    with closing(client.stream("/api/chat", body)) as chunks:
        for chunk in chunks:
            sys.stdout.write(chunk["message"]["content"])
            sys.stdout.flush()
    sys.stdout.write("\n")
    if not chunk.get("done"):
        raise CliError("the answer broke off before its end")


def _show_burst(console: Console, client: Client) -> None:
    """Ask many things at once and tell who answered."""
    before = {name: _answered(url) for name, url in _others(client)}
    with ThreadPoolExecutor(len(_BURST)) as pool:
        list(pool.map(lambda question: _ask(client, question), _BURST))
    counts = {name: _answered(url) - before[name] for name, url in _others(client)}
    counts = {"first": len(_BURST) - sum(counts.values())} | counts
    told = ", ".join(f"{name} answered {count}" for name, count in counts.items())
    console.print(f"\n{len(_BURST)} questions at once: {told}.")


def _ask(client: Client, question: str) -> None:
    body = {"model": _MODEL, "messages": [{"role": "user", "content": question}], "stream": False}
    client.post("/api/chat", body, patient=True)


def _others(client: Client) -> list[tuple[str, str]]:
    """(name, URL) of the attached nodes."""
    engines = client.get("/admin/v1/engines")["engines"]
    return [(engine["name"], engine["url"]) for engine in engines if engine["name"] in _ATTACHED]


def _answered(url: str) -> int:
    """How many answers a node has given, by its own count."""
    with Client(url) as client:
        text = client.text("/metrics")
    counted = re.findall(
        r'^ollamamax_requests_total\{[^}]*route="/api/(?:chat|generate)"[^}]*\} (\S+)', text, re.MULTILINE
    )
    return int(sum(float(count) for count in counted))


def _explain(console: Console, url: str) -> None:
    """Where it is and what to try."""
    question = '{"model":"tiny","messages":[{"role":"user","content":"What is 2 plus 3?"}]}'
    console.print(f"\nThe endpoint is [bold]{url}[/bold]. Try, in another terminal:\n")
    for line in (
        f"  curl {url}/api/chat -d '{question}'",
        f"  OLLAMA_HOST={url} ollamamax run tiny            (or ollama run tiny)",
        f"  OLLAMA_HOST={url} ollamamax engine list",
        f"  OpenAI clients: base_url={url}/v1, any api_key, model tiny",
    ):
        console.print(line, markup=False)
    console.print("\nCtrl-C ends it.")
