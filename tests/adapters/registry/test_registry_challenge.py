"""WWW-Authenticate, as it should be and as it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.adapters.registry.challenge import Challenge, bearer, parse

OLLAMAS = 'Bearer realm="https://example.com/v2/token",service="example.com",scope="repository:me/m:pull,push"'


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("", []),
        (
            OLLAMAS,
            [
                (
                    "bearer",
                    {
                        "realm": "https://example.com/v2/token",
                        "service": "example.com",
                        "scope": "repository:me/m:pull,push",
                    },
                )
            ],
        ),
        ('Basic realm="a, b", BEARER Realm = "c"', [("basic", {"realm": "a, b"}), ("bearer", {"realm": "c"})]),
        ("Negotiate", [("negotiate", {})]),
        ("Negotiate dG9rZW4=, Bearer realm=x", [("negotiate", {}), ("bearer", {"realm": "x"})]),
        ("Bearer realm=https://x/y?a=b,service=z", [("bearer", {"realm": "https://x/y?a=b", "service": "z"})]),
        (r'Bearer realm="say \"x\" \\ y"', [("bearer", {"realm": r'say "x" \ y'})]),
        ('Bearer realm="one", realm="two"', [("bearer", {"realm": "one"})]),
        ('Bearer , , realm="x" ,', [("bearer", {"realm": "x"})]),
        ("Authentication required", [("authentication", {})]),
        ('Bearer realm="open', [("bearer", {}), ("realm", {})]),
        ('="x"', []),
    ],
)
def test_headers(header: str, found: list[tuple[str, dict[str, str]]]) -> None:
    assert [(one.scheme, one.parameters) for one in parse(header)] == found


def test_the_first_that_says_where_counts() -> None:
    assert bearer([]) is None
    assert bearer(['Basic realm="x"', "Bearer error=invalid", 'Bearer realm=""']) is None
    found = bearer(['Basic realm="x"', "Bearer error=invalid, Bearer realm=y", OLLAMAS])
    assert found == Challenge("bearer", {"realm": "y"})


@given(st.text(max_size=200))
def test_nothing_is_too_strange(header: str) -> None:
    for challenge in parse(header):
        assert challenge.scheme == challenge.scheme.lower()
        assert all(name == name.lower() and name for name in challenge.parameters)


TOKENS = st.text("abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+.^_`|~-", min_size=1, max_size=8)
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(
    st.lists(st.tuples(TOKENS, st.dictionaries(TOKENS, TEXTS, min_size=1, max_size=4)), max_size=4),
    st.sampled_from([", ", ",", " , "]),
    st.sampled_from(["=", " = "]),
)
def test_what_is_written_is_read(challenges: list[tuple[str, dict[str, str]]], comma: str, equals: str) -> None:
    quoted = [
        f"{scheme} "
        + comma.join(
            f'{name}{equals}"{text.replace(chr(92), chr(92) * 2).replace(chr(34), chr(92) + chr(34))}"'
            for name, text in parameters.items()
        )
        for scheme, parameters in challenges
    ]
    assert [(one.scheme, one.parameters) for one in parse(comma.join(quoted))] == challenges
