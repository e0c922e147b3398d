"""The grammar of records: what is taken, what is refused and why, and that any text at all gets a typed answer."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.catalog import grammar
from ollamamax.core.errors import BadRequest

CHECKS = [
    grammar.node_id,
    grammar.cluster_id,
    grammar.token_id,
    grammar.sha256_hex,
    grammar.node_name,
    grammar.cluster_name,
    grammar.version,
    grammar.instance,
    grammar.model_key,
    grammar.label_key,
    grammar.label_value,
    grammar.peer_address,
    grammar.split_address,
    grammar.setting,
    grammar.setting_value,
    grammar.author,
]
LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
MADE_OF = st.text(st.sampled_from("abcfxyzABZ0129.:-_/[]% \n"), max_size=80)
ANY_TEXT = st.text() | MADE_OF


@pytest.mark.parametrize(
    ("check", "good"),
    [
        (grammar.node_id, "0123456789abcdef"),
        (grammar.cluster_id, "f" * 16),
        (grammar.token_id, "0" * 16),
        (grammar.sha256_hex, "a" * 64),
        (grammar.node_name, "a"),
        (grammar.node_name, "node-7"),
        (grammar.node_name, "a" * 63),
        (grammar.node_name, "f" * 15),
        (grammar.cluster_name, "Ada's house, büro"),
        (grammar.version, "0.2.0.dev3+g1a2b"),
        (grammar.instance, "b7-_.X"),
        (grammar.model_key, "tiny:latest"),
        (grammar.model_key, "hf.co:443/someone/tiny.gguf:q4_k_m"),
        (grammar.label_key, "example.com/zone_1"),
        (grammar.label_key, "a" * 63),
        (grammar.label_value, ""),
        (grammar.label_value, "A.b_c-1"),
        (grammar.label_value, "a" * 63),
        (grammar.setting, "routing.max_queue2"),
        (grammar.setting, "a" * 64 + "." + "b" * 63),
        (grammar.setting_value, ""),
        (grammar.setting_value, "ü" * 1_024),
        (grammar.author, "Ada L."),
    ],
)
def test_good_words_are_taken_as_they_are(check: object, good: str) -> None:
    assert check(good) == good  # type: ignore[operator]


@pytest.mark.parametrize(
    ("check", "bad", "text"),
    [
        (grammar.node_id, "0123456789ABCDEF", "is no node id: 16 hex digits"),
        (grammar.node_id, "0123456789abcde", "is no node id"),
        (grammar.node_id, "0123456789abcdef\n", "is no node id"),
        (grammar.cluster_id, "", "is no cluster id"),
        (grammar.token_id, "x" * 16, "is no join token's id"),
        (grammar.sha256_hex, "a" * 63, "is no sha256"),
        (grammar.node_name, "", "is no node name: 1 to 63"),
        (grammar.node_name, "-a", "is no node name"),
        (grammar.node_name, "a-", "is no node name"),
        (grammar.node_name, "Ada", "is no node name"),
        (grammar.node_name, "a.b", "is no node name"),
        (grammar.node_name, "a" * 64, "is no node name"),
        (grammar.node_name, "0123456789abcdef", "16 hex digits are a node's id"),
        (grammar.cluster_name, "", "is no cluster name"),
        (grammar.cluster_name, "a\x1b[2J", "is no cluster name"),
        (grammar.cluster_name, "a" * 64, "is no cluster name"),
        (grammar.version, "", "is no version"),
        (grammar.instance, "a b", "is no instance"),
        (grammar.model_key, "tiny", "is no name of a model"),
        (grammar.model_key, "a/b:c/d", "is no name of a model"),
        (grammar.model_key, "tiny:la test", "is no name of a model"),
        (grammar.label_key, "", "is no label key"),
        (grammar.label_key, "Zone", "is no label key"),
        (grammar.label_value, "-a", "is no label value"),
        (grammar.label_value, "a" * 64, "is no label value"),
        (grammar.setting, "", "is no setting: words of"),
        (grammar.setting, "Routing.policy", "is no setting"),
        (grammar.setting, "routing..policy", "is no setting"),
        (grammar.setting, "9", "is no setting"),
        (grammar.setting, "a\n", "is no setting"),
        (grammar.setting, "a" * 129, "is no setting"),
        (grammar.setting_value, "a\nb", "is no value of a setting: up to 1024 printable"),
        (grammar.setting_value, "a" * 1_025, "is no value of a setting"),
        (grammar.author, "a" * 129, "is no name of who changes settings: up to 128"),
    ],
)
def test_bad_words_are_refused_with_the_reason(check: object, bad: str, text: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(text)):
        check(bad)  # type: ignore[operator]


def test_a_models_key_has_no_case() -> None:
    assert grammar.model_key("Tiny:Latest") == "tiny:latest"


def test_a_strangers_text_is_quoted_and_cut() -> None:
    assert grammar.shown("a\x1b\u202e'") == '"a\\x1b\\u202e\'"'
    assert grammar.shown("x" * 80) == f"'{'x' * 80}'"
    assert grammar.shown("x" * 81) == f"'{'x' * 80}...'"


@pytest.mark.parametrize(
    ("hostname", "name"),
    [
        ("ada", "ada"),
        ("Ada.local", "ada"),
        ("Jürgens MacBook Pro", "jurgens-macbook-pro"),
        ("büro_pc-", "buro-pc"),
        ("ip-10-0-0-1.ec2.internal", "ip-10-0-0-1"),
        ("", "node"),
        (".local", "node"),
        ("机器", "node"),
        ("x" * 300, "x" * 63),
        ("x" * 62 + "-y", "x" * 62),
        ("0123456789ABCDEF", "node-0123456789abcdef"),
    ],
)
def test_a_default_name_comes_of_the_hosts_name(hostname: str, name: str) -> None:
    assert grammar.default_name(hostname) == name


@given(ANY_TEXT)
def test_any_hostname_gives_a_name(hostname: str) -> None:
    name = grammar.default_name(hostname)
    assert grammar.node_name(name) == name
    assert re.fullmatch(LABEL, name)


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("ada", "ada:1"),
        ("Ada.Local:80", "ada.local:80"),
        ("10.0.0.1", "10.0.0.1:1"),
        ("10.0.0.1:00080", "10.0.0.1:80"),
        ("0.0.0.0:0", "0.0.0.0:0"),
        ("a_b:65535", "a_b:65535"),
        ("1a:2", "1a:2"),
        ("::1", "[::1]:1"),
        ("FE80:0:0:0::1", "[fe80::1]:1"),
        ("[::]:7", "[::]:7"),
        ("[2001:DB8::0:1]", "[2001:db8::1]:1"),
        ("[::ffff:1.2.3.4]:5", "1.2.3.4:5"),
    ],
)
def test_an_address_has_one_spelling(text: str, spelling: str) -> None:
    assert grammar.address(text, 1) == spelling


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "a host is an IP address or a name"),
        (":80", "a host is an IP address or a name"),
        ("a b:80", "a host is an IP address or a name"),
        ("-a:80", "a host is an IP address or a name"),
        ("a..b", "a host is an IP address or a name"),
        (("a" * 63 + ".") * 4 + "b", "a host is an IP address or a name"),
        ("ada:", "write host:port or [v6]:port"),
        ("ada:x", "write host:port or [v6]:port"),
        ("ada:\u0661", "write host:port or [v6]:port"),
        ("[::1]x", "write host:port or [v6]:port"),
        ("http://ada:80", "that is no IPv6 address"),
        ("ada:65536", "a port is at most 65535"),
        ("[ada]:80", "that is no IPv6 address"),
        ("[]:80", "that is no IPv6 address"),
        ("1:2:3", "that is no IPv6 address"),
        ("[fe80::1%eth0]:80", "a zone (%) means something on one machine only"),
        ("300.1.1.1:80", "that is no IPv4 address"),
        ("1.2.3:80", "that is no IPv4 address"),
        ("010.0.0.1:80", "that is no IPv4 address"),
    ],
)
def test_what_is_no_address_is_told_why(text: str, cause: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(f"is no address: {cause}")):
        grammar.address(text, 1)


def test_an_address_splits_only_with_its_port() -> None:
    assert grammar.split_address("[::1]:80") == ("::1", 80)
    assert grammar.split_address("Ada:80") == ("ada", 80)
    with pytest.raises(BadRequest, match="the port is missing"):
        grammar.split_address("ada")
    with pytest.raises(BadRequest, match="in brackets"):
        grammar.split_address("::1")


@pytest.mark.parametrize("text", ["ada:0", "0.0.0.0:1", "[::]:1", "[::ffff:0.0.0.0]:1"])
def test_an_address_for_others_can_be_called(text: str) -> None:
    with pytest.raises(BadRequest, match="can't be called by other nodes"):
        grammar.peer_address(text)


@given(ANY_TEXT | st.ip_addresses().map(str), st.integers(0, 65_535))
def test_any_text_is_an_address_of_one_spelling_or_refused(text: str, port: int) -> None:
    try:
        spelling = grammar.address(text, port)
    except BadRequest:
        return
    assert grammar.address(spelling, port) == spelling
    host, own_port = grammar.split_address(spelling)
    assert spelling == (f"[{host}]:{own_port}" if ":" in host else f"{host}:{own_port}")


@given(st.ip_addresses(), st.integers(0, 65_535))
def test_every_ip_address_is_one(ip: object, port: int) -> None:
    text = f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}"
    if "%" not in text:
        assert grammar.split_address(text)[1] == port


@given(st.sampled_from(CHECKS), ANY_TEXT)
def test_any_text_is_taken_or_refused(check: object, text: str) -> None:
    refusal = None
    try:
        check(text)  # type: ignore[operator]
    except BadRequest as error:
        refusal = str(error)
    assert refusal is None or (len(refusal) < 1_200 and refusal.isprintable())
