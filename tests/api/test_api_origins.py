import pytest

from ollamamax.api.origins import OriginGuard

GO_ON, NO_CONTENT, FORBIDDEN = 0, 204, 403


def guard(*origins: str, loopback: bool = False, hosts: tuple[str, ...] = ()) -> OriginGuard:
    return OriginGuard(origins, loopback, frozenset(hosts))


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("", GO_ON),
        ("http://localhost", GO_ON),
        ("https://localhost:8443", GO_ON),
        ("http://127.0.0.1:3000", GO_ON),
        ("http://0.0.0.0", GO_ON),
        ("HTTP://LOCALHOST:1", GO_ON),
        ("app://obsidian.md", GO_ON),
        ("file://", GO_ON),
        ("tauri://localhost", GO_ON),
        ("vscode-webview://abc", GO_ON),
        ("http://node.example:11434", GO_ON),
        ("https://a.ours.example", GO_ON),
        ("https://.ours.example", GO_ON),
        ("https://ours.example", FORBIDDEN),
        ("http://localhost.evil.example", FORBIDDEN),
        ("null", FORBIDDEN),
        ("http://evil.example", FORBIDDEN),
    ],
)
def test_origins(origin: str, status: int) -> None:
    verdict = guard("https://*.ours.example").judge("POST", "node.example:11434", origin)
    assert verdict.status == status


def test_any_origin() -> None:
    verdict = guard("*").judge("GET", "x", "https://any.example")
    assert verdict.status == GO_ON
    assert verdict.headers == [(b"access-control-allow-origin", b"*")]


def test_preflight() -> None:
    verdict = guard().judge("OPTIONS", "x", "http://localhost")
    headers = dict(verdict.headers)
    assert verdict.status == NO_CONTENT
    assert headers[b"access-control-allow-methods"] == b"GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
    assert b"X-Stainless-Runtime-Version" in headers[b"access-control-allow-headers"]
    assert headers[b"vary"] == b"Origin"
    assert guard().judge("OPTIONS", "x", "http://evil.example").status == FORBIDDEN


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("", GO_ON),
        ("localhost", GO_ON),
        ("LOCALHOST:11434", GO_ON),
        ("127.0.0.1:11434", GO_ON),
        ("127.8.8.8", GO_ON),
        ("[::1]:11434", GO_ON),
        ("[::1]", GO_ON),
        ("::1", GO_ON),
        ("0.0.0.0", GO_ON),
        ("10.1.2.3:80", GO_ON),
        ("192.168.0.9", GO_ON),
        ("box", GO_ON),
        ("Box:11434", GO_ON),
        ("a.localhost", GO_ON),
        ("nas.local:1", GO_ON),
        ("host.docker.internal", GO_ON),
        ("8.8.8.8", FORBIDDEN),
        ("evil.example", FORBIDDEN),
        ("localhost.evil.example:11434", FORBIDDEN),
        ("evil.examplelocal", FORBIDDEN),
    ],
)
def test_hosts(host: str, status: int) -> None:
    bound_here = guard(loopback=True, hosts=("Box",))
    for _ in range(2):
        assert bound_here.judge("GET", host, "").status == status
    assert guard().judge("GET", host, "").status == GO_ON
    assert bound_here.judge("OPTIONS", host, "").status == (status or NO_CONTENT)


def test_remembered_hosts_are_bounded() -> None:
    bound_here = guard(loopback=True)
    for number in range(1000):
        assert bound_here.judge("GET", f"h{number}.example", "").status == FORBIDDEN
    assert len(bound_here._hosts) <= 256


def test_a_foreign_origin_with_a_good_host_is_still_foreign() -> None:
    assert guard(loopback=True).judge("GET", "localhost", "http://evil.example").status == FORBIDDEN
    assert guard(loopback=True).judge("GET", "evil.example", "http://evil.example").status == FORBIDDEN
