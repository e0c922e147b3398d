"""One OpenTelemetry span per finished request, sent by OTLP over HTTP. Wired only where an endpoint is set.

The span is made from the Outcome, after the fact: the hot path carries no tracer. Its parent is the caller's
`traceparent` (W3C Trace Context), so that the node's work shows inside the caller's trace.
"""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ollamamax.core.types import Outcome, OutcomeKind
from ollamamax.ports import Clock, Meter


class TracingMeter:
    """Passes everything on to `inner` and turns each outcome into a span."""

    def __init__(self, inner: Meter, clock: Clock, endpoint: str, version: str, node: str) -> None:
        resource = Resource.create(
            {"service.name": "ollamamax", "service.version": version, "service.instance.id": node}
        )
        self._provider = TracerProvider(resource=resource)
        url = endpoint.rstrip("/") + "/v1/traces"
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=5)))
        self._tracer = self._provider.get_tracer("ollamamax", version)
        self._propagator = TraceContextTextMapPropagator()
        self._clock = clock
        self._inner = inner
        self.attempt_failed = inner.attempt_failed
        self.load = inner.load
        self.engine_exit = inner.engine_exit
        self.unload = inner.unload
        self.queue = inner.queue
        self.loaded = inner.loaded
        self.cluster = inner.cluster
        self.render = inner.render

    def outcome(self, outcome: Outcome) -> None:
        """Count it, and record its span. Attributes: OpenTelemetry's GenAI conventions where they exist."""
        self._inner.outcome(outcome)
        end_ns = self._clock.wall_ns()
        parent = self._propagator.extract({"traceparent": outcome.traceparent}) if outcome.traceparent else None
        attributes: dict[str, str | int | float] = {
            "gen_ai.request.model": outcome.model,
            "gen_ai.usage.input_tokens": outcome.prompt_tokens,
            "gen_ai.usage.output_tokens": outcome.output_tokens,
            "ollamamax.request_id": outcome.request_id,
            "ollamamax.engine": outcome.engine_id,
            "ollamamax.outcome": outcome.kind.value,
            "ollamamax.attempts": outcome.attempts,
            "ollamamax.queued_ms": outcome.queued_ms,
        }
        if outcome.ttft_ms is not None:
            attributes["ollamamax.ttft_ms"] = outcome.ttft_ms
        span = self._tracer.start_span(
            outcome.route,
            context=parent,
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=end_ns - int(outcome.total_ms * 1_000_000),
        )
        if outcome.kind is not OutcomeKind.OK:
            span.set_status(StatusCode.ERROR, outcome.error_code)
        span.end(end_time=end_ns)

    def close(self) -> None:
        """Send what is waiting (at most 5 s) and stop the exporter's thread."""
        self._provider.shutdown()
