"""Settings of the cluster: what it may set, what wins, and what is left out."""

from pathlib import Path

import pytest

from ollamamax.core.errors import SettingsError
from ollamamax.core.types import ClusterSettings, SettingView
from ollamamax.settings import Loaded, load, shared

ME, OTHER = "a" * 16, "b" * 16


def own(tmp_path: Path, **flags: str) -> Loaded:
    return load({"home": str(tmp_path), **flags}, {"HOME": str(tmp_path)}, terminal=False)


def said(values: dict[str, str] | None = None, node_values: dict[str, dict[str, str]] | None = None) -> ClusterSettings:
    return ClusterSettings(version=3, values=values or {}, node_values=node_values or {})


def test_the_cluster_comes_after_defaults_and_before_what_a_machine_says(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[engine]\nkeep_alive = "7m"\n')
    mine = own(tmp_path)
    told = said({"queue.max_queue": "7", "engine.keep_alive": "1h"})
    now, problems = shared.overlaid(mine, told, ME)
    assert problems == ()
    assert now.settings.queue.max_queue == 7
    assert now.sources["queue.max_queue"].origin == "cluster, version 3"
    assert now.settings.engine.keep_alive == "7m"
    assert mine.settings.queue.max_queue == 512
    assert shared.differences(mine, now) == {"queue.max_queue": "live"}


def test_what_is_for_one_node_wins_there_and_is_nothing_elsewhere(tmp_path: Path) -> None:
    told = said({"queue.max_queue": "7"}, {ME: {"queue.max_queue": "9", "log.format": "console"}})
    mine, _ = shared.overlaid(own(tmp_path), told, ME)
    others, _ = shared.overlaid(own(tmp_path), told, OTHER)
    assert (mine.settings.queue.max_queue, others.settings.queue.max_queue) == (9, 7)
    assert mine.sources["queue.max_queue"].origin == "cluster for this node, version 3"
    assert shared.differences(others, mine) == {"queue.max_queue": "live", "log.format": "restart"}


def test_what_this_program_does_not_understand_is_left_out_and_told(tmp_path: Path) -> None:
    told = said({"queue.max_queue": "plenty", "queue.min_queue": "1", "listen.port": "1", "routing.poll_s": "2"})
    now, problems = shared.overlaid(own(tmp_path), told, ME)
    assert now.settings.queue.max_queue == 512
    assert now.settings.listen.port == 11434
    assert now.settings.routing.poll_s == 2.0
    assert [problem.split()[0] for problem in problems] == ["queue.max_queue", "unknown", "listen.port"]


@pytest.mark.parametrize(
    ("key", "text", "wrong"),
    [
        ("queue.max_queu", "1", "did you mean queue.max_queue"),
        ("queue.max_queue", "0", "greater than or equal to 1"),
        ("queue.max_queue", "many", "queue.max_queue = 'many'"),
        ("engine.keep_alive", "soon", "engine.keep_alive"),
        ("home", "/tmp", "each node's own.*--home"),
        ("peer.seeds", "a:1", "each node's own"),
        ("peer.ca_passphrase", "secret", "each node's own"),
    ],
)
def test_a_setting_that_can_not_be_shared_is_refused_by_name(key: str, text: str, wrong: str) -> None:
    with pytest.raises(SettingsError, match=wrong):
        shared.check(key, text)


def test_what_can_be_set_can_be_unset() -> None:
    shared.check("queue.max_queue", None)
    with pytest.raises(SettingsError, match="unknown key"):
        shared.check("queue.none", None)


def test_a_setting_is_shown_in_a_form_that_json_has(tmp_path: Path) -> None:
    mine = own(tmp_path, **{"peer.ca_passphrase": "hush", "listen.origins": "http://a,http://b"})
    rows = shared.shown(mine.sources)
    assert rows["home"] == SettingView(value=str(tmp_path), source="flag --home", applies="local")
    assert (rows["listen.origins"].value, rows["listen.origins"].applies) == (["http://a", "http://b"], "live")
    secret = rows["peer.ca_passphrase"]
    assert (secret.value, secret.source) == ("***", "flag --set peer.ca_passphrase")


def test_the_cluster_can_not_set_what_a_node_needs_to_find_it() -> None:
    keys = set(shared.shareable())
    assert not any(key.startswith("peer.") or key in ("home", "models", "listen.host", "listen.port") for key in keys)
    assert {"engine.keep_alive", "queue.max_queue", "routing.poll_s", "log.level"} <= keys
