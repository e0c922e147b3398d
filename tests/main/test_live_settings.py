"""A node's settings while it runs: what the cluster sets, what the machine says, and who is told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from ollamamax.core.errors import SettingsError
from ollamamax.core.types import ClusterSettings, LoadedModel, SettingView
from ollamamax.main.config import retry_config
from ollamamax.main.live_settings import LiveSettings
from ollamamax.main.node import _gateway
from ollamamax.services.fleet import Fleet, FleetConfig
from ollamamax.settings import load
from ollamamax.testing.clock import FakeClock, SeededDice
from ollamamax.testing.engine import MemoryEngineBook, TwinConnector, TwinEngine
from ollamamax.testing.meter import MemoryMeter

ME, OTHER = "a" * 16, "b" * 16


class LocalTwin(TwinEngine):
    slots = 1
    last_load_ms = 0.0

    def loaded(self) -> Sequence[LoadedModel]:
        return ()


def live(home: Path, **flags: str) -> LiveSettings:
    return LiveSettings(load({"home": str(home), **flags}, {"HOME": str(home)}, terminal=False))


def said(version: int, values: dict[str, str], node_values: dict[str, dict[str, str]] | None = None) -> ClusterSettings:
    return ClusterSettings(version=version, values=values, node_values=node_values or {})


def test_who_is_told_what_changed_and_nothing_else(tmp_path: Path) -> None:
    settings = live(tmp_path)
    settings.begin(said(0, {}), ME)
    told: list[Any] = []
    taken: list[int] = []
    settings.connect(lambda now: now.queue.max_queue, told.append)
    settings.connect(retry_config, lambda config: told.append(config.ratio))
    settings.watch(lambda: taken.append(settings.version))
    settings.take(said(1, {"queue.max_queue": "7"}))
    settings.take(said(1, {"queue.max_queue": "7"}))
    settings.take(said(2, {"queue.max_queue": "7", "routing.retry_ratio": "0.5"}))
    settings.take(said(3, {"routing.retry_ratio": "0.5"}, {OTHER: {"queue.max_queue": "9"}}))
    settings.take(said(4, {"routing.retry_ratio": "0.5"}, {ME: {"queue.max_queue": "9"}}))
    assert told == [7, 0.5, 512, 9]
    assert taken == [1, 2, 3, 4]
    assert settings.settings.queue.max_queue == 9


def test_what_the_machine_says_wins_and_what_the_cluster_says_is_shown(tmp_path: Path) -> None:
    settings = live(tmp_path, **{"queue.max_queue": "3"})
    settings.begin(said(0, {}), ME)
    settings.name = lambda: "attic"
    settings.take(said(4, {"queue.max_queue": "7", "log.level": "debug"}))
    shown = settings.shown()
    assert (shown.node, shown.version, shown.problems) == ("attic", 4, ())
    assert shown.settings["queue.max_queue"] == SettingView(
        value=3, source="flag --max-queue", applies="live", cluster_value="7"
    )
    assert shown.settings["log.level"] == SettingView(value="debug", source="cluster, version 4", applies="live")


def test_what_acts_at_a_start_alone_waits_for_it(tmp_path: Path) -> None:
    settings = live(tmp_path)
    assert settings.begin(said(1, {"log.format": "console"}), ME).log.format == "console"
    settings.take(said(2, {"telemetry.otlp_endpoint": "http://box:4318"}))
    assert settings.settings.log.format == "console"
    assert settings.settings.telemetry.otlp_endpoint == ""
    shown = settings.shown().settings
    assert shown["log.format"] == SettingView(
        value="console", source="cluster, version 1", applies="restart", next_value="json", next_source="default"
    )
    assert shown["telemetry.otlp_endpoint"].next_source == "cluster, version 2"
    again = live(tmp_path)
    assert again.begin(said(2, {"telemetry.otlp_endpoint": "http://box:4318"}), ME).log.format == "json"
    assert again.shown().settings["telemetry.otlp_endpoint"].value == "http://box:4318"


def test_what_a_newer_program_wrote_is_left_out_logged_once_and_shown(tmp_path: Path) -> None:
    settings = live(tmp_path)
    with structlog.testing.capture_logs() as logs:
        settings.begin(said(1, {"queue.max_wait": "7", "queue.max_queue": "5"}), ME)
        settings.take(said(2, {"queue.max_wait": "7", "queue.max_queue": "6"}))
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == [
        "a setting of the cluster is left out"
    ]
    assert settings.settings.queue.max_queue == 6
    (problem,) = settings.shown().problems
    assert "queue.max_wait" in problem


def test_it_knows_what_can_be_set(tmp_path: Path) -> None:
    settings = live(tmp_path)
    settings.check("log.level", "debug")
    settings.check("log.level", None)
    with pytest.raises(SettingsError, match=r"queue\.max_queue = '0'"):
        settings.check("queue.max_queue", "0")
    assert (settings.applies("log.level"), settings.applies("log.format")) == ("live", "restart")
    assert (settings.applies("home"), settings.applies("queue.max_wait")) == ("", "")


def test_a_secret_is_shown_to_nobody(tmp_path: Path) -> None:
    settings = live(tmp_path, **{"peer.ca_passphrase": "open sesame"})
    assert settings.shown().settings["peer.ca_passphrase"].value == "***"
    assert "sesame" not in repr(settings.shown())


def test_what_stands_between_engines_and_clients_heeds_changes(tmp_path: Path) -> None:
    clock = FakeClock()
    settings = live(tmp_path)
    fleet = Fleet(LocalTwin(), TwinConnector({}), MemoryEngineBook(()), clock, SeededDice(1), FleetConfig())
    gateway = _gateway(settings, fleet, None, MemoryMeter(), clock)
    settings.begin(said(0, {}), ME)
    changes = {"queue.max_queue": "3", "routing.retry_ratio": "0.7", "routing.stall_timeout_s": "4"}
    settings.take(said(1, changes))
    assert gateway._room._admission._max_queue == 3
    assert gateway._dispatcher._budget._config.ratio == 0.7
    assert gateway._dispatcher._config.stall_timeout_ms == 4_000
