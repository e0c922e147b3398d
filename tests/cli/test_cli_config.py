"""`ollamamax config` against a fake node, or none."""

import json
import time
from typing import Any

import pytest
from cli_support import Cli, cli
from fake_node import Reply, error

__all__ = ["cli"]  # the fixture

CONFIG = "/admin/v1/config"
NOWHERE = "http://127.0.0.1:1"
SHOWN: dict[str, Any] = {
    "node": "alpha",
    "version": 3,
    "problems": ["queue.max_wait: unknown"],
    "settings": {
        "listen.origins": {
            "value": ["http://a", "http://b"],
            "source": "flag --origins",
            "applies": "live",
            "cluster_value": "http://c",
        },
        "engine.noprune": {"value": True, "source": "cluster, version 3", "applies": "live"},
        "log.format": {
            "value": "console",
            "source": "default",
            "applies": "restart",
            "next_value": "json",
            "next_source": "cluster, version 3",
        },
    },
}
CHANGE: dict[str, Any] = {
    "version": 4,
    "changed": True,
    "change": "engine.noprune: unset -> true",
    "applied": ["alpha", "beta"],
    "away": ["gamma", "delta"],
    "late": ["eps"],
    "kept": [{"node": "zeta", "key": "engine.noprune", "value": False, "source": "environment OLLAMA_NOPRUNE"}],
    "next_start": ["log.format"],
}


def rows(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in text.splitlines()}


def test_what_holds_on_the_running_node(cli: Cli) -> None:
    cli.node.answers[f"GET {CONFIG}"] = Reply(body=SHOWN)
    done = cli("config", "show")
    assert done.code == 0
    assert done.out.splitlines()[1:] == [
        "listen.origins    http://a,http://b    flag --origins (the cluster says http://c)",
        "engine.noprune    true                 cluster, version 3",
        "log.format        console              default (from the next start on: json, by cluster, version 3)",
    ]
    assert done.err.splitlines() == [
        "Of node alpha, which runs; the cluster's are version 3.",
        "Left out there: queue.max_wait: unknown",
    ]
    said = json.loads(cli("config", "show", "--json").out)
    assert said["settings"]["listen.origins"]["value"] == ["http://a", "http://b"]
    assert (said["node"], said["version"], said["problems"]) == ("alpha", 3, ["queue.max_wait: unknown"])


def test_what_holds_on_another_node(cli: Cli) -> None:
    cli.node.answers[f"GET {CONFIG}?node=gpu+box"] = Reply(body={**SHOWN, "node": "gpu box"})
    assert "node gpu box" in cli("config", "show", "--node", "gpu box").err
    cli.node.answers[f"GET {CONFIG}?node=nix"] = error(404, "no node 'nix' is in the cluster")
    done = cli("config", "get", "log.format", "--node", "nix")
    assert (done.code, done.err) == (1, "Error: no node 'nix' is in the cluster\n")


def test_without_a_node_what_serve_would_use(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", NOWHERE)
    done = cli("config", "show")
    assert rows(done.out)["listen.port"] == ["1", "environment", "OLLAMA_HOST"]
    assert "started now" in done.err
    assert cli("config", "show", "--node", "beta").code == 1, "nobody knows"


def test_as_serve_would_use_it_though_a_node_runs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "0.0.0.0:99")
    (cli.home / "c.toml").write_text("[listen]\norigins = ['*']\n")
    done = cli("config", "show", "--config", str(cli.home / "c.toml"), "--home", "/h")
    found = rows(done.out)
    assert found["listen.port"] == ["99", "environment", "OLLAMA_HOST"]
    assert found["listen.origins"] == ["*", str(cli.home / "c.toml")]
    assert found["home"] == ["/h", "flag", "--home"]
    assert found["queue.max_queue"] == ["512", "default"]
    said = json.loads(cli("config", "show", "--offline", "--json").out)
    assert (said["node"], said["version"]) == ("", 0)
    settings = said["settings"]
    assert (settings["listen.port"]["value"], settings["listen.port"]["source"]) == (99, "environment OLLAMA_HOST")
    assert settings["listen.origins"]["value"] == []
    assert settings["home"]["value"] == str(cli.home / ".ollamamax")
    assert settings["peer.ca_passphrase"]["value"] == ""
    assert not cli.node.asked


def test_secrets_are_kept(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMAMAX_PEER__CA_PASSPHRASE", "open sesame")
    done = cli("config", "show", "--offline")
    assert rows(done.out)["peer.ca_passphrase"] == ["***", "environment", "OLLAMAMAX_PEER__CA_PASSPHRASE"]
    as_json = cli("config", "get", "peer.ca_passphrase", "--offline", "--json")
    assert json.loads(as_json.out)["value"] == "***"
    assert "sesame" not in done.out + as_json.out


def test_one_value_stands_alone(cli: Cli) -> None:
    cli.node.answers[f"GET {CONFIG}"] = Reply(body=SHOWN)
    assert cli("config", "get", "engine.noprune").out == "true\n"
    assert cli("config", "get", "listen.origins").out == "http://a,http://b\n"
    assert json.loads(cli("config", "get", "log.format", "--json").out)["next_value"] == "json"
    done = cli("config", "get", "log.fromat")
    assert (done.code, done.out) == (2, "")
    assert done.err == "Error: unknown key log.fromat (config get); did you mean log.format?\n"


def test_a_change_tells_what_came_of_it(cli: Cli) -> None:
    cli.node.answers[f"PUT {CONFIG}/engine.noprune"] = Reply(body=CHANGE)
    done = cli("config", "set", "engine.noprune", "true")
    assert cli.node.asked[-1].json == {"value": "true", "node": ""}
    assert done.out.splitlines() == [
        "version 4: engine.noprune: unset -> true",
        "applied on 2 of 6 nodes",
        "zeta keeps engine.noprune = false (environment OLLAMA_NOPRUNE), which wins there",
        "away: gamma, delta, taken over there on return",
        "not heard from yet: eps; see `ollamamax config show --node NAME`",
        "log.format takes effect when a node is started the next time",
    ]
    assert json.loads(cli("config", "set", "engine.noprune", "true", "--json").out) == CHANGE


def test_a_change_for_one_node(cli: Cli) -> None:
    one = {"version": 5, "changed": True, "change": "beta: engine.keep_alive: unset -> -1", "applied": ["beta"]}
    cli.node.answers[f"PUT {CONFIG}/engine.keep_alive"] = Reply(body=one)
    done = cli("config", "set", "engine.keep_alive", "-1", "--node", "beta")
    assert cli.node.asked[-1].json == {"value": "-1", "node": "beta"}
    assert done.out == "version 5: beta: engine.keep_alive: unset -> -1\napplied on beta\n"
    cli.node.answers[f"DELETE {CONFIG}/engine.keep_alive?node=beta"] = Reply(body={**one, "changed": False})
    assert cli("config", "unset", "engine.keep_alive", "--node", "beta").out == "it is so already\napplied on beta\n"


def test_a_refusal(cli: Cli) -> None:
    cli.node.answers[f"PUT {CONFIG}/queue.max_queue"] = error(400, "queue.max_queue = '0': should be more")
    done = cli("config", "set", "queue.max_queue", "0")
    assert (done.code, done.out, done.err) == (1, "", "Error: queue.max_queue = '0': should be more\n")
    assert cli("config", "set", "queue.max_queue", "1", "--nod", "x").code == 2


def test_versions(cli: Cli) -> None:
    now_ns = time.time_ns()
    versions = [
        {"version": 1, "changed_ns": now_ns - 7200 * 10**9, "by": "anna", "change": "a: unset -> 1", "values": {}},
        {"version": 2, "changed_ns": now_ns - 90 * 10**9, "by": "bert", "change": "a: 1 -> unset", "values": {}},
    ]
    cli.node.answers[f"GET {CONFIG}/history"] = Reply(body={"versions": versions})
    assert cli("config", "history").out.splitlines() == [
        "VERSION    WHEN            BY      CHANGE",
        "1          2 hours ago     anna    a: unset -> 1",
        "2          1 minute ago    bert    a: 1 -> unset",
    ]
    assert json.loads(cli("config", "history", "--json").out) == versions


def test_differences(cli: Cli) -> None:
    changes = [
        {"key": "log.level", "node": "", "before": None, "after": "debug"},
        {"key": "listen.origins", "node": "beta", "before": "x", "after": ""},
    ]
    answer = {"before": 3, "after": 5, "changes": changes}
    cli.node.answers[f"GET {CONFIG}/diff?before=3&after=5"] = Reply(body=answer)
    assert cli("config", "diff", "3", "5").out.splitlines() == [
        "SETTING           NODES    VERSION 3    VERSION 5",
        "log.level         all      unset        debug",
        "listen.origins    beta     x            (empty)",
    ]
    assert json.loads(cli("config", "diff", "3", "5", "--json").out) == answer
    cli.node.answers[f"GET {CONFIG}/diff?"] = Reply(body={**answer, "changes": []})
    cli.node.answers[f"GET {CONFIG}/diff"] = Reply(body={**answer, "changes": []})
    assert cli("config", "diff").out == "versions 3 and 5 are the same\n"


def test_going_back(cli: Cli) -> None:
    cli.node.answers[f"POST {CONFIG}/rollback"] = Reply(
        body={"version": 6, "changed": True, "change": "as they were in version 2", "applied": ["alpha"]}
    )
    done = cli("config", "rollback", "2")
    assert cli.node.asked[-1].json == {"version": 2}
    assert done.out == "version 6: as they were in version 2\napplied on 1 of 1 node\n"
    assert cli("config", "rollback", "x").code == 2


def test_help_teaches(cli: Cli) -> None:
    said = cli("config", "--help").out
    assert "Who wins" in said
    for command in ("show", "get", "set", "unset", "history", "diff", "rollback"):
        assert f"\n  {command} " in said
        assert len(cli("config", command, "--help").out.splitlines()) > 5
