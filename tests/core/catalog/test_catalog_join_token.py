"""The text of join tokens: round trips, and a clear word for all that is none."""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.core.catalog import join_token
from ollamamax.core.catalog.join_token import JoinToken
from ollamamax.core.errors import BadRequest, TokenRefused

TOKEN = JoinToken(
    cluster_id="0123456789abcdef",
    token_id="fedcba9876543210",
    secret="5ec2e7" + "0" * 26,
    ca_hash="ca" * 32,
    addresses=("10.0.0.1:11435", "[fe80::1]:11435", "ada.local:11435"),
)
TEXT = join_token.encode(TOKEN)


def hex_digits(count: int) -> st.SearchStrategy[str]:
    return st.binary(min_size=count // 2, max_size=count // 2).map(bytes.hex)


TOKENS = st.builds(
    JoinToken,
    cluster_id=hex_digits(16),
    token_id=hex_digits(16),
    secret=hex_digits(32),
    ca_hash=hex_digits(64),
    addresses=st.lists(
        st.sampled_from(["10.0.0.1:1", "[::1]:11435", "ada:65535", "a" * 63 + "." + "b" * 63 + ":7"]),
        min_size=1,
        max_size=8,
    ).map(tuple),
)


def packed(payload: object) -> str:
    """A text with a good checksum around any payload."""
    data = msgspec.msgpack.encode(payload)
    whole = data + binascii.crc32(data).to_bytes(4, "big")
    return "omx1." + urlsafe_b64encode(whole).rstrip(b"=").decode()


def parts(**changed: object) -> list[object]:
    fields: dict[str, object] = {
        "cluster_id": bytes(8),
        "token_id": bytes(8),
        "secret": bytes(16),
        "ca_hash": bytes(32),
        "addresses": ["ada:1"],
    }
    return list({**fields, **changed}.values())


@given(TOKENS)
def test_a_token_comes_back(token: JoinToken) -> None:
    text = join_token.encode(token)
    assert join_token.parse(text) == token
    assert len(text) < 4_096
    assert text.isascii()


def test_a_token_survives_being_copied_badly() -> None:
    broken = "\n ".join(TEXT[at : at + 40] for at in range(0, len(TEXT), 40))
    assert join_token.parse(f"  {broken}\r\n") == TOKEN


def test_a_token_is_short_enough_to_be_pasted() -> None:
    assert TEXT.startswith("omx1.")
    assert len(TEXT) < 180


def test_addresses_get_their_one_spelling() -> None:
    text = join_token.encode(msgspec.structs.replace(TOKEN, addresses=("ADA:080", "[FE80:0::1]:2")))
    assert join_token.parse(text).addresses == ("ada:80", "[fe80::1]:2")


@pytest.mark.parametrize(
    "text", ["", "hello", "omx1", "omx0.abc", "omx01.abc", "omx1.a+b=", "OMX" + TEXT[3:], "omx1." + "a" * 4_096]
)
def test_what_is_no_token_is_told_so(text: str) -> None:
    with pytest.raises(TokenRefused, match="that is no join token"):
        join_token.parse(text)


def test_a_token_of_a_newer_program_is_told_so() -> None:
    with pytest.raises(TokenRefused, match="upgrade it on this machine"):
        join_token.parse("omx2." + TEXT[5:])


@pytest.mark.parametrize("length", range(len("omx1."), len(TEXT)))
def test_a_token_that_was_cut_off_is_told_so(length: int) -> None:
    with pytest.raises(TokenRefused, match="cut off or mistyped"):
        join_token.parse(TEXT[:length])


@given(
    st.integers(5, len(TEXT) - 1), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
)
def test_a_token_with_one_wrong_letter_is_told_so(at: int, letter: str) -> None:
    text = TEXT[:at] + letter + TEXT[at + 1 :]
    if text == TEXT:
        assert join_token.parse(text) == TOKEN
        return
    with pytest.raises(TokenRefused, match="cut off or mistyped"):
        join_token.parse(text)


@pytest.mark.parametrize(
    "payload",
    [
        None,
        {"cluster_id": 1},
        [],
        parts(secret=b"short"),
        parts(ca_hash=bytes(31)),
        parts(addresses=[]),
        parts(addresses=["ada:1"] * 9),
        parts(addresses=["no address"]),
        parts(addresses=["0.0.0.0:1"]),
        parts(addresses=["ADA:1"]),
        [*parts(), "more"],
    ],
)
def test_a_forged_token_is_refused(payload: object) -> None:
    with pytest.raises(TokenRefused):
        join_token.parse(packed(payload))


def test_what_the_forger_packs_is_a_token_if_all_parts_are_right() -> None:
    assert join_token.parse(packed(parts())).addresses == ("ada:1",)


def test_a_nest_of_arrays_is_refused() -> None:
    data = b"\x91" * 2_000
    whole = data + binascii.crc32(data).to_bytes(4, "big")
    with pytest.raises(TokenRefused, match="cut off or mistyped"):
        join_token.parse("omx1." + urlsafe_b64encode(whole).rstrip(b"=").decode())


@given(st.text() | st.text(st.sampled_from("omx12.-_abAB\n")) | st.binary().map(lambda data: packed(msgspec.Raw(data))))
def test_any_text_is_a_token_or_refused(text: str) -> None:
    try:
        token = join_token.parse(text)
    except TokenRefused:
        return
    assert join_token.encode(token) == "".join(text.split())


@pytest.mark.parametrize(
    "wrong",
    [
        {"cluster_id": "x"},
        {"token_id": "x"},
        {"secret": "x"},
        {"ca_hash": "x"},
        {"addresses": ()},
        {"addresses": ("ada:1",) * 9},
        {"addresses": ("ada",)},
    ],
)
def test_only_whole_tokens_are_written(wrong: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        join_token.encode(msgspec.structs.replace(TOKEN, **wrong))


def test_no_secret_is_shown() -> None:
    assert TOKEN.secret not in f"{TOKEN} {TOKEN!r}"
    payload = urlsafe_b64decode(TEXT[5:] + "=" * (-len(TEXT[5:]) % 4))
    assert bytes.fromhex(TOKEN.secret) in payload
    with pytest.raises(BadRequest) as caught:
        join_token.secret_hash(TOKEN.secret[:-1] + "x")
    assert TOKEN.secret[:8] not in str(caught.value)


def test_a_secret_is_kept_as_its_hash() -> None:
    # printf %s 00000000000000000000000000000000 | sha256sum
    assert join_token.secret_hash("0" * 32) == "84e0c0eafaa95a34c293f278ac52e45ce537bab5e752a00e6959a13ae103b65a"
