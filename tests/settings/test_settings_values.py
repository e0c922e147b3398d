"""Durations, endpoints, origins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.types import FOREVER_MS
from ollamamax.settings.values import (
    Endpoint,
    check_address,
    check_cluster_name,
    check_host,
    check_node_name,
    check_origin,
    check_peer_host,
    is_address,
    is_loopback,
    ollama_flag,
    parse_endpoint,
    parse_peer_listen,
    seconds_or_duration_ms,
)

UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}


@given(st.integers(0, 10**9))
def test_a_bare_integer_is_seconds(seconds: int) -> None:
    assert seconds_or_duration_ms(str(seconds)) == seconds * 1000


@given(st.integers(-(10**6), -1), st.sampled_from(["", *UNITS_MS]))
def test_below_zero_is_for_ever(count: int, unit: str) -> None:
    assert seconds_or_duration_ms(f"{count}{unit}") == FOREVER_MS


@given(st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(sorted(UNITS_MS))), min_size=1, max_size=4))
def test_terms_add_up(terms: list[tuple[int, str]]) -> None:
    text = "".join(f"{count}{unit}" for count, unit in terms)
    assert seconds_or_duration_ms(text) == sum(count * UNITS_MS[unit] for count, unit in terms)


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        milliseconds = seconds_or_duration_ms(text)
    except ValueError:
        return
    assert milliseconds >= FOREVER_MS


@pytest.mark.parametrize("text", ["", "5 minutes", "m", "1.5", "1d", "--1s", "1e3", "5m!"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="should be a duration"):
        seconds_or_duration_ms(text)


@pytest.mark.parametrize(
    ("text", "endpoint", "url"),
    [
        ("", Endpoint("http", "127.0.0.1", 11434), "http://127.0.0.1:11434"),
        ("box", Endpoint("http", "box", 11434), "http://box:11434"),
        ("box:8080", Endpoint("http", "box", 8080), "http://box:8080"),
        (":8080", Endpoint("http", "0.0.0.0", 8080), "http://127.0.0.1:8080"),
        ("0.0.0.0", Endpoint("http", "0.0.0.0", 11434), "http://127.0.0.1:11434"),
        ("http://box", Endpoint("http", "box", 80), "http://box:80"),
        ("https://box", Endpoint("https", "box", 443), "https://box:443"),
        ("https://box:99/some/path/", Endpoint("https", "box", 99, "/some/path"), "https://box:99/some/path"),
        ("http://box/", Endpoint("http", "box", 80), "http://box:80"),
        ("::1", Endpoint("http", "::1", 11434), "http://[::1]:11434"),
        ("[::1]", Endpoint("http", "::1", 11434), "http://[::1]:11434"),
        ("[::1]:99", Endpoint("http", "::1", 99), "http://[::1]:99"),
        ("[::]:99", Endpoint("http", "::", 99), "http://[::1]:99"),
        ("2001:db8::1", Endpoint("http", "2001:db8::1", 11434), "http://[2001:db8::1]:11434"),
        ("1.2.3.4:0", Endpoint("http", "1.2.3.4", 0), "http://1.2.3.4:0"),
        (' "box:1" ', Endpoint("http", "box", 1), "http://box:1"),
        ("ollama.com", Endpoint("https", "ollama.com", 443), "https://ollama.com:443"),
    ],
)
def test_forms_of_ollama_host(text: str, endpoint: Endpoint, url: str) -> None:
    assert parse_endpoint(text) == endpoint
    assert parse_endpoint(text).url == url


@pytest.mark.parametrize(
    "text", ["box:99999", "box:-1", "box:abc", "box:", "ftp://box", "a b", "a..b", "[::1]:x", "a,b"]
)
def test_bad_hosts(text: str) -> None:
    with pytest.raises(ValueError):
        parse_endpoint(text)


hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z][a-z0-9]{0,5}){0,2}", fullmatch=True),
).filter(lambda host: host != "ollama.com")


@given(hosts, st.integers(0, 65535), st.sampled_from(["", "http://", "https://"]))
def test_host_and_port_come_back(host: str, port: int, scheme: str) -> None:
    authority = f"[{host}]" if ":" in host else host
    endpoint = parse_endpoint(f"{scheme}{authority}:{port}")
    assert (endpoint.host, endpoint.port) == (host, port)
    assert check_host(endpoint.host) == host
    assert parse_endpoint(endpoint.url).port == port


@given(st.text(max_size=20))
def test_any_text_is_an_endpoint_or_a_value_error(text: str) -> None:
    try:
        endpoint = parse_endpoint(text)
    except ValueError:
        return
    assert 0 <= endpoint.port <= 65535
    assert check_host(endpoint.host) == endpoint.host


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("off", ("off", 11435)),
        (":99", ("", 99)),
        (":0", ("", 0)),
        (" 10.0.0.2:99 ", ("10.0.0.2", 99)),
        ("10.0.0.2", ("10.0.0.2", 11435)),
        ("::", ("::", 11435)),
        ("::1", ("::1", 11435)),
        ("[::]:99", ("::", 99)),
        ("box.example:0", ("box.example", 0)),
    ],
)
def test_forms_of_peer_listen(text: str, found: tuple[str, int]) -> None:
    assert parse_peer_listen(text) == found
    assert check_peer_host(found[0]) == found[0]


@pytest.mark.parametrize("text", ["", " ", "[]:99", "box:", "a b:1", ":x", ":65536", "http://box", "box:1:2"])
def test_what_is_no_address_to_listen_on(text: str) -> None:
    with pytest.raises(ValueError):
        parse_peer_listen(text)
    with pytest.raises(ValueError):
        check_address(text)


found_hosts = hosts.filter(
    lambda host: (
        host not in ("0.0.0.0", "::", "::ffff:0.0.0.0", "::ffff:0:0")
        and (is_address(host) or not host.rpartition(".")[2].isdigit())
    )
)


@given(found_hosts, st.integers(1, 65535))
def test_an_address_comes_back_in_one_form(host: str, port: int) -> None:
    address = check_address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    assert check_address(address) == address
    assert address.endswith(f":{port}")
    assert check_address(host).endswith(":11435")


@pytest.mark.parametrize("text", ["0.0.0.0:1", "[::]:1", "::", "box:0", "fe80::1%eth0"])
def test_where_nobody_can_be_found(text: str) -> None:
    with pytest.raises(ValueError):
        check_address(text)


@given(st.text(max_size=20))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = check_address(text)
    except ValueError:
        return
    assert check_address(address) == address


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *[(host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", "LocalHost")],
        *[(host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "box", "127.evil.example", "localhost.evil", "")],
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) == expected


@pytest.mark.parametrize("text", ["", "a", "0", "a-b", "x" * 63])
def test_names(text: str) -> None:
    assert check_node_name(text) == text
    assert check_cluster_name("Our house") == "Our house"


@pytest.mark.parametrize("text", ["A", "-a", "a-", "a.b", "a b", "x" * 64, "ä", "a\n", "0123456789abcdef"])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no node name"):
        check_node_name(text)
    with pytest.raises(ValueError, match="is no cluster name"):
        check_cluster_name("x" * 64)


@pytest.mark.parametrize("text", ["*", "https://a.example", "http://localhost:*", "chrome-extension://*", "*.example"])
def test_origins(text: str) -> None:
    assert check_origin(text) == text


@pytest.mark.parametrize("text", ["a.example", "http://*.a.*", "http://a b", ""])
def test_bad_origins(text: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        check_origin(text)


def test_ollamas_truth() -> None:
    assert [ollama_flag(text) for text in ("1", "true", "yes", "2", "anything")] == [True] * 5
    assert [ollama_flag(text) for text in ("0", "false", "F", "FALSE")] == [False] * 4
