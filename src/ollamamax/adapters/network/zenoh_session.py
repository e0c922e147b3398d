"""One zenoh session: this node's token, its facts, and what it hears. Methods block: call them in threads."""

import re
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import zenoh

from ollamamax.adapters.network import zenoh_config
from ollamamax.core.membership.deltas import MAX_MESSAGE_BYTES
from ollamamax.ports import MeshConfig, MeshEvent, MeshRole

_NODE_ID: Final = re.compile(r"[0-9a-f]{16}")
_MAX_ANSWERS: Final = 20_000
_MAX_ANSWER_BYTES: Final = 128 << 20
_SETTLE_S: Final = 1.0
_LOOK_S: Final = 0.02
_PASS_ON_S: Final = 0.1


class ZenohSession:
    """Opens at once. hear: called with each event, answer: with each query for this node's facts; in zenoh's threads.

    Nothing is heard before `begin()`, and nothing after `mute()`. Raises: zenoh.ZError.
    """

    def __init__(
        self,
        config: MeshConfig,
        hear: Callable[[MeshEvent], None],
        answer: Callable[[Any], None],
        *,
        by_scouting: bool = False,
    ) -> None:
        self.config = config
        self._hear = hear
        self._answer = answer
        self._me = config.keys.node_id
        self._is_router = config.role is MeshRole.ROUTER
        root = f"omx/{config.keys.cluster_id}"
        self._alive = f"{root}/alive"
        self._facts = f"{root}/facts"
        self._is_muted = False
        self._open: Any = zenoh.open(zenoh_config.session_config(config, by_scouting=by_scouting))
        self._declared: list[Any] = []
        # It reaches nobody. The end of a router waits for threads of zenoh's, which wait for the interpreter where they
        # tell another session of this process something. Where the last reference to it is the session's own, Python
        # holds the interpreter meanwhile, and everything stands still until zenoh gives up after ten seconds; where it
        # is a publisher's, zenoh's binding lets go of it.
        self._last_reference: Any = self._open.declare_publisher(
            f"{root}/nothing", allowed_destination=zenoh.Locality.SESSION_LOCAL
        )

    @property
    def _session(self) -> Any:
        """Raises: zenoh.ZError once it is closed."""
        session = self._open
        if session is None:
            raise zenoh.ZError("the session is closed")
        return session

    def begin(self) -> None:
        """Listen, answer, and be seen."""
        session, liveliness = self._session, self._session.liveliness()
        self._declared = [
            session.declare_subscriber(f"{self._facts}/*", _direct(self._on_facts)),
            session.declare_queryable(f"{self._facts}/{self._me}", _direct(self._on_query)),
            liveliness.declare_subscriber(f"{self._alive}/*", _direct(self._on_token), history=True),
            # Last of these, so that whoever sees this node can ask it.
            liveliness.declare_token(f"{self._alive}/{self._me}"),
        ]
        if self._is_router:
            self._tell(self._me, True)
        else:
            listen = session.info.declare_transport_events_listener
            self._declared.append(listen(_direct(self._on_transport), history=True))

    def settle(self) -> None:
        """Wait until others have had time to hear it, or for a second where there is nobody."""
        deadline = time.monotonic() + _SETTLE_S
        while self.config.connect and time.monotonic() < deadline and not self._session.info.transports():
            time.sleep(_LOOK_S)
        time.sleep(_PASS_ON_S)

    def mute(self) -> None:
        """Nothing that it hears counts any more."""
        self._is_muted = True

    def close(self) -> None:
        """Leave; the others are told at once."""
        self.mute()
        # One by one: a router that ends while its neighbours do panics over what it still has declared.
        while self._declared:
            try:
                self._declared.pop().undeclare()
            except zenoh.ZError:
                continue
        session, self._open = self._open, None
        if session is not None:
            session.close()
        # Both go here: where that happens in a thread that ends with the program, zenoh aborts it.
        del session
        self._last_reference = None

    def put(self, data: bytes) -> None:
        """Tell all others. Dropped rather than waited for where somebody does not keep up."""
        self._session.put(
            f"{self._facts}/{self._me}", data, congestion_control=zenoh.CongestionControl.DROP, express=False
        )

    def reply(self, query: Any, data: bytes) -> None:
        """Answer a query that `answer` was called with."""
        with query:
            query.reply(f"{self._facts}/{self._me}", data)

    def ask(self, node_id: str, timeout_s: float) -> dict[str, bytes]:
        """Answers of one node, or of all others ("")."""
        found: dict[str, bytes] = {}
        room = [_MAX_ANSWER_BYTES]

        def take(reply: Any) -> None:
            sample = reply.ok
            name = "" if sample is None else self._node_of(sample, self._facts)
            if not name or name == self._me or name in found or len(found) >= _MAX_ANSWERS:
                return
            size = len(sample.payload)
            if size <= min(MAX_MESSAGE_BYTES, room[0]):
                room[0] -= size
                found[name] = sample.payload.to_bytes()

        self._gather(
            lambda handler: self._session.get(
                f"{self._facts}/{node_id or '*'}",
                handler,
                timeout=timeout_s,
                target=zenoh.QueryTarget.ALL,
                consolidation=zenoh.ConsolidationMode.NONE,
            ),
            take,
            timeout_s,
        )
        return found

    def alive(self, timeout_s: float) -> frozenset[str]:
        """Ids of the tokens that stand; none if the mesh is not heard, or did not answer properly."""
        found: set[str] = set()

        def take(reply: Any) -> None:
            name = "" if reply.ok is None else self._node_of(reply.ok, self._alive)
            if name and len(found) < _MAX_ANSWERS:
                found.add(name)

        self._gather(
            lambda handler: self._session.liveliness().get(f"{self._alive}/*", handler, timeout=timeout_s),
            take,
            timeout_s,
        )
        if self._me not in found or not (self._is_router or self._session.info.transports()):
            # Its own session tells it of its own token, connected or not; if even that is missing, more may be.
            return frozenset()
        return frozenset(found)

    def _gather(self, start: Callable[[Any], None], take: Callable[[Any], None], timeout_s: float) -> None:
        """Give each reply to `take` until there are no more. A callback: zenoh's queues hang beyond 256 replies."""
        is_over = threading.Event()
        lock = threading.Lock()

        def on_reply(reply: Any) -> None:
            with lock:
                if not is_over.is_set():
                    take(reply)

        start(_direct(on_reply, is_over.set))
        is_over.wait(timeout_s + 0.5)
        with lock:
            is_over.set()

    def _on_token(self, sample: Any) -> None:
        """This node's own token says little: it is seen without a mesh, and ends with this node's former session."""
        node_id = self._node_of(sample, self._alive)
        if node_id and node_id != self._me:
            self._tell(node_id, sample.kind == zenoh.SampleKind.PUT)

    def _on_transport(self, event: Any) -> None:
        """A client has one: its router."""
        self._tell(self._me, event.kind == zenoh.SampleKind.PUT)

    def _tell(self, node_id: str, is_alive: bool) -> None:
        if not self._is_muted:
            self._hear(MeshEvent(node_id, is_alive))

    def _on_facts(self, sample: Any) -> None:
        node_id = self._node_of(sample, self._facts)
        is_news = node_id and node_id != self._me and sample.kind == zenoh.SampleKind.PUT
        if is_news and not self._is_muted and len(sample.payload) <= MAX_MESSAGE_BYTES:
            self._hear(MeshEvent(node_id, None, sample.payload.to_bytes()))

    def _on_query(self, query: Any) -> None:
        if self._is_muted:
            query.drop()
        else:
            self._answer(query)

    @staticmethod
    def _node_of(sample: Any, root: str) -> str:
        """The node that a key is of, "" for what is no node's."""
        prefix, _, node_id = str(sample.key_expr).rpartition("/")
        return node_id if prefix == root and _NODE_ID.fullmatch(node_id) else ""


def _direct(callback: Callable[[Any], None], drop: Callable[[], None] | None = None) -> Any:
    """Called in the thread that hears it. zenoh's own threads would mix the order up, and end before the last reply."""
    return zenoh.handlers.Callback(callback, drop, indirect=False)
