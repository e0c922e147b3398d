"""The Meter over prometheus-client. Every metric is told of in docs/metrics.md; a test compares the two."""

from collections.abc import Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from ollamamax.adapters.telemetry.tallies import Counts, Spreads
from ollamamax.core.types import ClusterStatus, NodeState, Outcome

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)


class PrometheusMeter:
    """Counts into a registry of its own, so that two nodes in one process do not mix.

    Labels stay bounded: `model` is only ever a model that an engine accepted.
    """

    def __init__(self, version: str) -> None:
        registry = CollectorRegistry()
        self.registry = registry

        def counter(name: str, text: str, *labels: str) -> Counts:
            made = Counts(f"ollamamax_{name}", text, labels)
            registry.register(made)
            return made

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"ollamamax_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Spreads:
            made = Spreads(f"ollamamax_{name}", text, labels, bounds)
            registry.register(made)
            return made

        self._requests = counter("requests", "Finished requests", "route", "outcome", "error")
        self._request_s = histogram("request_seconds", "Arrival to end of the answer", _SECONDS, "route")
        self._queue_s = histogram("queue_seconds", "Time spent waiting for a free slot", _SECONDS)
        self._queue_s.of()  # without labels it is there from the start
        self._ttft_s = histogram("ttft_seconds", "Arrival to the first token", _SECONDS, "model")
        self._tpot_s = histogram("tpot_seconds", "Mean time per output token after the first", _TOKEN_SECONDS, "model")
        self._prompt = counter("prompt_tokens", "Prompt tokens, cached ones included", "model", "engine")
        self._output = counter("output_tokens", "Generated tokens", "model", "engine")
        self._attempts = counter("attempts_failed", "Attempts that did not become the answer", "engine", "error")
        self._waiting = gauge("queue_waiting", "Requests waiting for a free slot")
        self._running = gauge("requests_running", "Requests admitted and not yet finished")
        self._loads = counter("model_loads", "Model loads, by error code (empty: succeeded)", "model", "error")
        self._load_s = histogram("model_load_seconds", "Duration of successful loads", _SECONDS, "model")
        self._exits = counter("engine_exits", "Engine processes that ended without being asked", "model")
        self._unloads = counter("model_unloads", "Models that left memory, by reason", "model", "reason")
        self._memory = gauge("model_memory_bytes", "Memory that a loaded model needs", "model")
        gauge("build_info", "Constant 1, labelled by version", "version").labels(version).set(1)
        # Labelled by the cluster's name, so that a node that stays alone shows none of them.
        self._nodes = gauge("cluster_nodes", "Nodes of the cluster, by state", "cluster", "state")
        self._holder = gauge("state_holder_reachable", "1 if the holder of the state can be reached, else 0", "cluster")
        self._holder_lost_s = gauge("state_holder_lost_seconds", "How long it has been out of reach", "cluster")
        self._revision = gauge("state_revision", "Revision of the state that this node has seen", "cluster")
        self._certificate = gauge("certificate_expiry_timestamp_seconds", "When the node's papers expire", "cluster")

    def outcome(self, outcome: Outcome) -> None:
        """One finished request."""
        route, model, engine_id = outcome.route, outcome.model, outcome.engine_id
        self._requests.by[route, outcome.kind.value, outcome.error_code].value += 1
        self._request_s.by[route,].observe(outcome.total_ms / 1000)
        self._queue_s.by[()].observe(outcome.queued_ms / 1000)
        if not engine_id:
            return
        if outcome.ttft_ms is not None:
            self._ttft_s.by[model,].observe(outcome.ttft_ms / 1000)
        if outcome.tpot_ms is not None:
            self._tpot_s.by[model,].observe(outcome.tpot_ms / 1000)
        self._prompt.by[model, engine_id].value += outcome.prompt_tokens
        self._output.by[model, engine_id].value += outcome.output_tokens

    def attempt_failed(self, engine_id: str, error_code: str) -> None:
        """One attempt that did not become the answer."""
        self._attempts.of(engine_id, error_code).add()

    def load(self, model: str, duration_ms: float, error_code: str) -> None:
        """One model load; error_code "" if it succeeded."""
        self._loads.of(model, error_code).add()
        if not error_code:
            self._load_s.of(model).observe(duration_ms / 1000)

    def engine_exit(self, model: str) -> None:
        """An engine process ended without being asked."""
        self._exits.of(model).add()

    def unload(self, model: str, reason: str) -> None:
        """A model left memory."""
        self._unloads.of(model, reason).add()

    def queue(self, waiting: int, running: int) -> None:
        """Requests waiting for admission, and admitted."""
        self._waiting.set(waiting)
        self._running.set(running)

    def loaded(self, models: Mapping[str, int]) -> None:
        """Bytes of memory by loaded model; models no longer named disappear."""
        self._memory.clear()
        for model, size_bytes in models.items():
            self._memory.labels(model).set(size_bytes)

    def cluster(self, status: ClusterStatus) -> None:
        """What this node sees of its cluster; a cluster that it has left disappears."""
        name = status.name
        for gauge in (self._nodes, self._holder, self._holder_lost_s, self._revision, self._certificate):
            gauge.clear()
        for state in NodeState:
            self._nodes.labels(name, state.value).set(status.nodes.get(state.value, 0))
        self._holder.labels(name).set(status.holder_reachable)
        self._holder_lost_s.labels(name).set(status.holder_lost_ms / 1000)
        self._revision.labels(name).set(status.revision)
        self._certificate.labels(name).set(status.certificate_expires_ns / 1e9)

    def render(self) -> tuple[bytes, str]:
        """The exposition in Prometheus' text format and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
