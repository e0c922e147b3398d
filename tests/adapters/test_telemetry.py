"""Metrics are documented and emitted; spans reach a collector; logs have one form."""

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ollamamax.adapters.system.clock import SystemClock, SystemDice
from ollamamax.adapters.telemetry.logs import LogAudit, configure, set_level
from ollamamax.adapters.telemetry.metrics import PrometheusMeter
from ollamamax.adapters.telemetry.tracing import TracingMeter
from ollamamax.core.types import ClusterStatus, Outcome, OutcomeKind, Principal
from threaded_server import QuietHandler, serving

ROOT = Path(__file__).resolve().parents[2]
GOOD = Outcome(
    request_id="r1",
    route="/api/chat",
    model="tiny:latest",
    kind=OutcomeKind.OK,
    engine_id="local",
    attempts=1,
    queued_ms=1.0,
    ttft_ms=12.0,
    tpot_ms=3.0,
    total_ms=40.0,
    prompt_tokens=7,
    output_tokens=5,
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)
CLUSTER = ClusterStatus(
    cluster_id="c" * 16,
    name="home",
    created_ns=1,
    this="a",
    holder="b",
    holder_reachable=False,
    holder_lost_ms=2_500.0,
    revision=42,
    role="client",
    certificate_expires_ns=1_800_000_000_000_000_000,
    nodes={"ready": 2, "gone": 1},
)


def emit_everything(meter: PrometheusMeter) -> None:
    meter.outcome(GOOD)
    meter.attempt_failed("box", "engine_timeout")
    meter.load("tiny:latest", 120.0, "")
    meter.load("tiny:latest", 120.0, "load_failed")
    meter.engine_exit("tiny:latest")
    meter.unload("tiny:latest", "expired")
    meter.queue(2, 3)
    meter.loaded({"tiny:latest": 42})
    meter.cluster(CLUSTER)


def test_every_metric_is_emitted_and_documented() -> None:
    meter = PrometheusMeter("1.2.3")
    emit_everything(meter)
    body, content_type = meter.render()
    assert content_type.startswith("text/plain")
    emitted = set(re.findall(r"^# TYPE (ollamamax_\w+)", body.decode(), re.M))
    emitted = {name for name in emitted if not name.endswith("_created")}
    documented = set(re.findall(r"^\| `(ollamamax_\w+)", (ROOT / "docs/metrics.md").read_text(), re.M))
    assert emitted == documented
    samples = set(re.findall(r"^(ollamamax_\w+)", body.decode(), re.M))
    for name in documented:
        assert any(sample.startswith(name) for sample in samples), f"{name} has no sample"


def test_the_cluster_shows_and_one_that_was_left_does_not() -> None:
    meter = PrometheusMeter("1")
    assert 'cluster="' not in meter.render()[0].decode()
    meter.cluster(CLUSTER)
    meter.cluster(msgspec.structs.replace(CLUSTER, name="work"))
    shown = meter.render()[0].decode()
    assert 'cluster="home"' not in shown
    assert 'ollamamax_cluster_nodes{cluster="work",state="ready"} 2.0' in shown
    assert 'ollamamax_cluster_nodes{cluster="work",state="suspect"} 0.0' in shown
    assert 'ollamamax_state_holder_reachable{cluster="work"} 0.0' in shown
    assert 'ollamamax_state_holder_lost_seconds{cluster="work"} 2.5' in shown
    assert 'ollamamax_state_revision{cluster="work"} 42.0' in shown
    assert 'ollamamax_certificate_expiry_timestamp_seconds{cluster="work"} 1.8e+09' in shown


def test_an_unknown_model_makes_no_label() -> None:
    meter = PrometheusMeter("1")
    meter.outcome(
        Outcome(
            request_id="r",
            route="/api/chat",
            model="x" * 50,
            kind=OutcomeKind.CLIENT_ERROR,
            error_code="model_not_found",
        )
    )
    body = meter.render()[0].decode()
    assert "xxxx" not in body
    assert 'ollamamax_requests_total{error="model_not_found",outcome="client_error",route="/api/chat"} 1.0' in body


def test_models_that_left_memory_disappear() -> None:
    meter = PrometheusMeter("1")
    meter.loaded({"a:latest": 1, "b:latest": 2})
    meter.loaded({"b:latest": 3})
    body = meter.render()[0].decode()
    assert 'ollamamax_model_memory_bytes{model="b:latest"} 3.0' in body
    assert "a:latest" not in body


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    received: list[ExportTraceServiceRequest] = []

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

    with serving(Handler) as url:
        yield url, received


def test_an_outcome_becomes_a_span_in_the_callers_trace(collector: tuple[str, list[ExportTraceServiceRequest]]) -> None:
    endpoint, received = collector
    inner = PrometheusMeter("1")
    meter = TracingMeter(inner, SystemClock(), endpoint, "1", "node-a")
    meter.outcome(GOOD)
    meter.queue(1, 2)
    assert b"ollamamax_queue_waiting 1.0" in meter.render()[0]
    meter.close()
    spans = [s for r in received for rs in r.resource_spans for ss in rs.scope_spans for s in ss.spans]
    assert len(spans) == 1
    assert spans[0].name == "/api/chat"
    assert spans[0].trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert spans[0].parent_span_id.hex() == "b7ad6b7169203331"
    assert spans[0].end_time_unix_nano - spans[0].start_time_unix_nano == 40_000_000
    assert inner.render()[0].count(b'outcome="ok"') >= 1


@pytest.fixture
def quiet_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], root.level = before
    structlog.reset_defaults()


@pytest.mark.usefixtures("quiet_logging")
def test_logs_are_json_lines_below_the_level_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure("info", json=True)
    LogAudit().record(Principal("anonymous"), "manage_models", "tiny", True, "role admin")
    structlog.get_logger().debug("hidden")
    logging.getLogger("somebody.else").warning("from a library")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["allowed", "from a library"]
    assert lines[0]["action"] == "manage_models"
    assert lines[0]["level"] == "info"


def test_the_system_clock_and_dice() -> None:
    clock, dice = SystemClock(), SystemDice()
    assert clock.now_ms() <= clock.now_ms()
    assert clock.wall_ns() > 1_700_000_000_000_000_000
    assert 0 <= dice.random() < 1
    assert len(dice.token_hex(8)) == 16
    assert dice.token_hex(8) != dice.token_hex(8)


@pytest.fixture
def own_logging() -> Iterator[None]:
    """What a test says of logging ends with it."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    set_level("debug")
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("own_logging")
def test_a_logger_in_use_follows_another_level(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", json=True)
    ours, theirs = structlog.get_logger("ours").bind(), logging.getLogger("theirs")
    said = []
    for level in ("info", "debug", "error"):
        set_level(level)
        ours.debug("ours debug")
        theirs.debug("theirs debug")
        ours.info("ours info")
        said.append([json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()])
        assert ours.is_enabled_for(logging.DEBUG) == (level == "debug")
    assert said == [["ours info"], ["ours debug", "theirs debug", "ours info"], []]
