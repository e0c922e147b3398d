"""Every setting from every source; what overrides what; errors that name the key, the source and what is allowed."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from setting_samples import OLLAMA, SAMPLES

from ollamamax.core.errors import SettingsError
from ollamamax.core.types import FOREVER_MS
from ollamamax.settings import Loaded, load, peer_listen
from ollamamax.settings.knobs import as_text
from ollamamax.settings.tree import Settings, knobs


# key -> (as text, as TOML, the value), none of them the default
def value_of(loaded: Loaded, key: str) -> Any:
    node: Any = loaded.settings
    for part in key.split("."):
        node = getattr(node, part)
    return node


def holds(loaded: Loaded, key: str, value: Any, origin: str) -> None:
    assert value_of(loaded, key) == value
    assert type(value_of(loaded, key)) is type(value)
    assert loaded.sources[key].value == value
    assert loaded.sources[key].origin == origin


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def as_toml(key: str, literal: str) -> str:
    section, _, leaf = key.rpartition(".")
    return (f"[{section}]\n" if section else "") + f"{leaf} = {literal}\n"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


def test_there_is_a_sample_of_each() -> None:
    assert list(SAMPLES) == list(knobs())


@pytest.mark.parametrize("key", SAMPLES)
def test_from_the_file(key: str, tmp_path: Path, environ: dict[str, str]) -> None:
    _, literal, value = SAMPLES[key]
    path = write(tmp_path, as_toml(key, literal))
    holds(load({}, environ, config=path, terminal=True), key, value, str(path))


@pytest.mark.parametrize("key", SAMPLES)
def test_from_our_variable(key: str, environ: dict[str, str]) -> None:
    text, _, value = SAMPLES[key]
    variable = knobs()[key].variable
    holds(load({}, environ | {variable: text}, terminal=True), key, value, f"environment {variable}")


@pytest.mark.parametrize("key", SAMPLES)
def test_from_a_flag(key: str, environ: dict[str, str]) -> None:
    text, _, value = SAMPLES[key]
    flag = knobs()[key].flag or f"--set {key}"
    holds(load({key: text}, environ, terminal=True), key, value, f"flag {flag}")


@pytest.mark.parametrize("key", SAMPLES)
def test_its_default(key: str, environ: dict[str, str]) -> None:
    loaded = load({}, environ, terminal=True)
    assert value_of(loaded, key) != SAMPLES[key][2], "a sample must differ from the default"
    assert loaded.sources[key].origin == "default"
    assert loaded.sources[key].value == value_of(loaded, key)


@pytest.mark.parametrize(("variable", "text", "key", "value"), OLLAMA)
def test_from_ollamas_variable(variable: str, text: str, key: str, value: Any, environ: dict[str, str]) -> None:
    holds(load({}, environ | {variable: text}), key, value, f"environment {variable}")


def test_each_variable_of_ollama_that_is_documented_is_read() -> None:
    assert {knob.ollama for knob in knobs().values()} - {""} == {variable for variable, *_ in OLLAMA}


def test_debug_switched_off_leaves_the_default(environ: dict[str, str]) -> None:
    assert load({}, environ | {"OLLAMA_DEBUG": "0"}).sources["log.level"].origin == "default"


def test_order_of_sources(tmp_path: Path, environ: dict[str, str]) -> None:
    path = write(tmp_path, "[listen]\nport = 1\nhost = 'file'\n")
    assert load({}, environ, config=path).settings.listen.port == 1
    environ["OLLAMA_HOST"] = "ollama:2"
    assert load({}, environ, config=path).settings.listen.port == 2
    environ["OLLAMAMAX_LISTEN__PORT"] = "3"
    loaded = load({}, environ, config=path)
    assert (loaded.settings.listen.host, loaded.settings.listen.port) == ("ollama", 3)
    assert load({"listen.port": "4"}, environ, config=path).settings.listen.port == 4
    assert load({"listen.port": None}, environ, config=path).settings.listen.port == 3


def test_empty_variables_are_not_given(environ: dict[str, str]) -> None:
    loaded = load({}, environ | {"OLLAMAMAX_LISTEN__PORT": "", "OLLAMA_HOST": ' "" ', "OLLAMAMAX_HOME": " "})
    assert {source.origin for source in loaded.sources.values()} == {"default"}


def test_other_variables_of_ollama_are_left_alone(environ: dict[str, str]) -> None:
    assert load({}, environ | {"OLLAMA_SCHED_SPREAD": "1", "OLLAMA_WHATEVER": "x"})


def test_default_places(tmp_path: Path, environ: dict[str, str]) -> None:
    settings = load({}, environ).settings
    assert settings.home == tmp_path / ".ollamamax"
    assert settings.models == tmp_path / ".ollamamax" / "models"
    assert load({"home": "/y"}, environ).settings.models == Path("/y/models")
    (tmp_path / ".ollama" / "models").mkdir(parents=True)
    assert load({}, environ).settings.models == tmp_path / ".ollama" / "models"


def test_paths_are_absolute(tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    assert load({"models": "here"}, environ).settings.models == tmp_path / "here"
    assert load({"models": "~/there"}, environ).settings.models == tmp_path / "there"
    assert load({}, environ, config=write(folder, "models = 'm'\n")).settings.models == folder / "m"


def test_the_file_of_the_home_is_found(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "h").mkdir()
    (tmp_path / "h" / "config.toml").write_text("[listen]\nport = 5\n")
    assert load({}, environ | {"OLLAMAMAX_HOME": str(tmp_path / "h")}).settings.listen.port == 5
    assert load({"home": str(tmp_path / "h")}, environ).settings.listen.port == 5
    assert load({}, environ).settings.listen.port == 11434


def test_form_of_logs_by_terminal(environ: dict[str, str]) -> None:
    assert load({}, environ, terminal=True).settings.log.format == "console"
    assert load({}, environ, terminal=False).settings.log.format == "json"


def test_keep_alive_in_milliseconds(environ: dict[str, str], tmp_path: Path) -> None:
    def of(text: str) -> int:
        return load({"engine.keep_alive": text}, environ).settings.engine.keep_alive_ms

    assert (of("5m"), of("10"), of("0"), of("-1"), of("-1s")) == (300_000, 10_000, 0, FOREVER_MS, FOREVER_MS)
    path = write(tmp_path, "[engine]\nkeep_alive = 90\n")
    assert load({}, environ, config=path).settings.engine.keep_alive_ms == 90_000


def test_the_tree_is_frozen(environ: dict[str, str]) -> None:
    loaded = load({}, environ)
    with pytest.raises(ValidationError, match="frozen"):
        loaded.settings.listen.port = 1
    with pytest.raises(TypeError):
        loaded.sources["home"] = loaded.sources["models"]  # type: ignore[index]
    assert Settings.of({key: source.value for key, source in loaded.sources.items()}) == loaded.settings


BAD: list[tuple[str, str, str]] = [
    ("listen.host", "not a host", "127.0.0.1"),
    ("listen.port", "65536", "65535"),
    ("listen.port", "abc", "integer"),
    ("listen.origins", "a.example", "https://"),
    ("listen.max_body_bytes", "1", "1024"),
    ("listen.body_timeout_s", "0", "greater than 0"),
    ("listen.shutdown_grace_s", "-1", "0"),
    ("engine.keep_alive", "5 minutes", "5m"),
    ("engine.max_loaded_models", "-1", "0"),
    ("engine.num_parallel", "257", "256"),
    ("engine.context_length", "3", "at least 4"),
    ("engine.load_timeout_s", "inf", "finite"),
    ("engine.kv_cache_type", "f17", "q8_0"),
    ("listen.insecure_public", "maybe", "boolean"),
    ("peer.host", "a b", "host name"),
    ("peer.port", "65535", "65534"),
    ("peer.advertise", "box:0", "can't be called by other nodes"),
    ("peer.advertise", ":11435", "is no address"),
    ("peer.seeds", "box:x", "is no address"),
    ("peer.multicast", "maybe", "boolean"),
    ("peer.node_name", "Box", "a-z"),
    ("peer.node_name", "-box", "a-z"),
    ("peer.cluster_name", "x" * 64, "1 to 63"),
    ("peer.lease_s", "0.5", "1"),
    ("engine.flash_attention", "maybe", "auto"),
    ("engine.gpu_overhead_bytes", "1.5", "integer"),
    ("engine.noprune", "maybe", "boolean"),
    ("queue.max_queue", "0", "1"),
    ("routing.poll_s", "nan", "greater than 0"),
    ("routing.retry_ratio", "2", "1"),
    ("routing.breaker_failures", "0", "1"),
    ("log.level", "loud", "warning"),
    ("log.format", "xml", "console"),
    ("telemetry.otlp_endpoint", "collector:4318", "http://"),
]


@pytest.mark.parametrize(("key", "text", "allowed"), BAD)
def test_a_bad_value_names_key_value_source_and_what_is_allowed(
    key: str, text: str, allowed: str, environ: dict[str, str]
) -> None:
    variable = knobs()[key].variable
    with pytest.raises(SettingsError) as caught:
        load({}, environ | {variable: text})
    for part in (key, text, variable, allowed):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("literal", "key"),
    [
        ("[listen]\nport = true", "listen.port"),
        ("[listen]\nport = 'x'", "listen.port"),
        ("[routing]\npoll_s = false", "routing.poll_s"),
        ("[listen]\norigins = [1]", "listen.origins"),
        ("[engine]\nkeep_alive = true", "engine.keep_alive"),
        ("[listen]\nport = {a = 1}", "listen.port"),
        ("models = 3", "models"),
        ("models = ''", "models"),
        ("[log]\nlevel = 1", "log.level"),
    ],
)
def test_a_bad_value_in_the_file(literal: str, key: str, tmp_path: Path, environ: dict[str, str]) -> None:
    path = write(tmp_path, literal + "\n")
    with pytest.raises(SettingsError) as caught:
        load({}, environ, config=path)
    assert str(caught.value).startswith(f"{key} = ")
    assert str(path) in str(caught.value)


def test_a_bad_value_is_an_error_also_where_it_is_overridden(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="OLLAMAMAX_LISTEN__PORT"):
        load({"listen.port": "1"}, environ | {"OLLAMAMAX_LISTEN__PORT": "x"})


@pytest.mark.parametrize(
    ("variable", "text", "key"),
    [
        ("OLLAMA_HOST", "box:99999", "listen.host and listen.port"),
        ("OLLAMA_KEEP_ALIVE", "soon", "engine.keep_alive"),
        ("OLLAMA_LOAD_TIMEOUT", "soon", "engine.load_timeout_s"),
        ("OLLAMA_NUM_PARALLEL", "-3", "engine.num_parallel"),
        ("OLLAMA_KV_CACHE_TYPE", "q9", "engine.kv_cache_type"),
    ],
)
def test_a_bad_value_in_ollamas_variable(variable: str, text: str, key: str, environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load({}, environ | {variable: text})
    assert str(caught.value).startswith(f"{key} = ")
    assert variable in str(caught.value)


@pytest.mark.parametrize(
    ("literal", "named", "suggested"),
    [
        ("[listen]\nprot = 1", "listen.prot", "listen.port"),
        ("[listen.port]\nx = 1\n[listen.x]\ny = 1", "listen.x.y", "did you mean listen."),
        ("modles = 'x'", "modles", "models"),
        ("[zebra]", "zebra", "known are home"),
    ],
)
def test_an_unknown_key_in_the_file(
    literal: str, named: str, suggested: str, tmp_path: Path, environ: dict[str, str]
) -> None:
    path = write(tmp_path, literal + "\n")
    with pytest.raises(SettingsError) as caught:
        load({}, environ, config=path)
    assert f"unknown key {named} ({path})" in str(caught.value)
    assert suggested in str(caught.value)


@pytest.mark.parametrize("literal", ["listen = 3", "[[engine]]\nurl = 'x'"])
def test_a_section_that_is_none(literal: str, tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"is a section; write its keys below \[(listen|engine)\]"):
        load({}, environ, config=write(tmp_path, literal + "\n"))


def test_an_empty_section_is_none_of_our_business(tmp_path: Path, environ: dict[str, str]) -> None:
    assert load({}, environ, config=write(tmp_path, "[listen]\n")).settings.listen.port == 11434


def test_an_unknown_variable_of_ours(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"unknown variable OLLAMAMAX_LISTEN_PORT .*OLLAMAMAX_LISTEN__PORT"):
        load({}, environ | {"OLLAMAMAX_LISTEN_PORT": "1"})


def test_an_unknown_flag(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"unknown key queue.max \(flag --set\); did you mean queue.max_queue"):
        load({"queue.max": "1"}, environ)


def test_all_problems_at_once(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load({"queue.max": "1"}, environ | {"OLLAMAMAX_X": "1", "OLLAMAMAX_LISTEN__PORT": "x", "OLLAMA_HOST": ":x"})
    assert len(str(caught.value).splitlines()) == 4


def test_files_that_cannot_be_used(tmp_path: Path, environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"nowhere.toml .* does not exist"):
        load({}, environ, config=tmp_path / "nowhere.toml")
    with pytest.raises(SettingsError, match=r"is not TOML: .*line 1"):
        load({}, environ, config=write(tmp_path, "port 1\n"))
    with pytest.raises(SettingsError, match="can't read"):
        load({}, environ, config=tmp_path)
    (tmp_path / "settings.toml").write_bytes(b"a = '\xff'\n")
    with pytest.raises(SettingsError, match="can't read"):
        load({}, environ, config=tmp_path / "settings.toml")


def test_the_home_is_not_set_in_the_file_that_lies_in_it(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / ".ollamamax").mkdir()
    (tmp_path / ".ollamamax" / "config.toml").write_text("home = '/y'\n")
    with pytest.raises(SettingsError, match=r"home can't be set in .*--config"):
        load({}, environ)


def test_a_secret_is_never_shown(environ: dict[str, str], tmp_path: Path) -> None:
    loaded = load({}, environ | {"OLLAMAMAX_PEER__CA_PASSPHRASE": "open sesame"})
    assert loaded.settings.peer.ca_passphrase.get_secret_value() == "open sesame"
    assert as_text(loaded.sources["peer.ca_passphrase"].value) == "***"
    assert as_text(load({}, environ).sources["peer.ca_passphrase"].value) == ""
    for shown in (repr(loaded), str(loaded.settings), loaded.settings.model_dump_json()):
        assert "sesame" not in shown
    with pytest.raises(SettingsError) as caught:
        load({}, environ, config=write(tmp_path, "[peer]\nca_passphrase = ['open sesame']\n"))
    assert str(caught.value).startswith("peer.ca_passphrase = *** (")
    assert "sesame" not in str(caught.value)


def test_a_node_that_stays_alone(environ: dict[str, str]) -> None:
    assert load({}, environ).settings.peer.is_on
    assert not load(peer_listen("off"), environ).settings.peer.is_on
