"""Clients that ask a cluster without end, as through a load balancer: a node that does not answer is passed over."""

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from itertools import count
from typing import Final

import httpx
from nodes import LIMIT_S, Node, eventually

_LENGTHS: Final = (4, 40, 200)
"""Tokens of an answer: short, long, and so long that nodes stop meanwhile."""
_ROUND_S: Final = 0.05


class _Elsewhere(Exception):
    """A node that is told to stop did not take the request: a load balancer goes on to the next."""


class Callers:
    """Each node has a client per length that begins with it; every other client keeps its connections.

    outcomes: counts of "answered", and of nodes passed over by why.  failures: what nobody may see.
    """

    def __init__(self, nodes: Sequence[Node], model: str) -> None:
        self._nodes = nodes
        self._model = model
        self._is_over = threading.Event()
        self._stops: dict[int, tuple[float, float]] = {}
        """Of each node, by its index: since when it is told to stop, and until when it did not answer yet."""
        self._lock = threading.Lock()
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []
        self._counts = [0] * (len(nodes) * len(_LENGTHS))
        self._threads = [
            threading.Thread(target=self._ask_on, args=(number,), name=f"caller {number}", daemon=True)
            for number in range(len(self._counts))
        ]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *of_error: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(LIMIT_S)

    def stopping(self, node: Node) -> None:
        """From now on it may take no connections, and close those without a request."""
        self._stops[self._nodes.index(node)] = (time.monotonic(), float("inf"))

    def back(self, node: Node) -> None:
        """It answers again."""
        index = self._nodes.index(node)
        self._stops[index] = (self._stops[index][0], time.monotonic())

    def one_more_each(self) -> None:
        """Returns when each client has been answered a request that it began since."""
        before = list(self._counts)
        eventually(
            "every client is answered",
            lambda: bool(self.failures) or all(now >= then + 2 for now, then in zip(self._counts, before, strict=True)),
        )
        assert not self.failures, self.failures[:3]

    # --- one client -------------------------------------------------------------------------------------------------

    def _ask_on(self, number: int) -> None:
        first, length = divmod(number, len(_LENGTHS))
        keeps = httpx.Limits() if number % 2 else httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(timeout=LIMIT_S, limits=keeps, trust_env=False) as client:
            for asked in count():
                if self._is_over.is_set():
                    return
                try:
                    self._ask(client, first, f"{number} {asked}", _LENGTHS[length])
                except Exception as error:  # noqa: BLE001 - a failure of the test, told by it
                    self._tell(f"{type(error).__name__}: {error}")
                self._counts[number] += 1

    def _ask(self, client: httpx.Client, first: int, prompt: str, tokens: int) -> None:
        """Of one node after the other, until one takes it."""
        deadline_s = time.monotonic() + LIMIT_S
        for tried in count():
            index = (first + tried) % len(self._nodes)
            try:
                self._ask_one(client, index, prompt, tokens)
                with self._lock:
                    self.outcomes["answered"] += 1
                return
            except _Elsewhere as passed_over:
                with self._lock:
                    self.outcomes[str(passed_over)] += 1
            assert time.monotonic() < deadline_s, "no node takes it"
            if tried % len(self._nodes) == len(self._nodes) - 1:
                time.sleep(_ROUND_S)

    def _ask_one(self, client: httpx.Client, index: int, prompt: str, tokens: int) -> None:
        """Raises: _Elsewhere, AssertionError, httpx.TransportError."""
        began_s, has_begun = time.monotonic(), False
        options = {"num_predict": tokens, "temperature": 0}
        body = {"model": self._model, "prompt": prompt, "raw": True, "options": options}
        try:
            with client.stream("POST", f"{self._nodes[index].url}/api/generate", json=body) as answer:
                has_begun = True
                lines = [json.loads(line) for line in answer.iter_lines()]
        except httpx.TransportError as error:
            if has_begun or not self._was_stopping(index, began_s):
                raise
            raise _Elsewhere(f"no answer: {type(error).__name__}") from None
        assert answer.status_code == httpx.codes.OK, f"n{index + 1}: {answer.status_code} {lines}"
        assert lines, f"n{index + 1}: an empty answer"
        assert lines[-1].get("done") is True, f"n{index + 1}: ends with {lines[-1]}"
        assert lines[-1]["done_reason"] in ("length", "stop"), lines[-1]

    def _was_stopping(self, index: int, began_s: float) -> bool:
        """At some time since then."""
        return self._stops.get(index, (0.0, 0.0))[1] >= began_s

    def _tell(self, failure: str) -> None:
        with self._lock:
            self.failures.append(failure)
