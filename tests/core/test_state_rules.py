"""What may stand in the replicated state."""

import pytest

from ollamamax.core.errors import BadRequest
from ollamamax.core.types import Compare, Delete, Put, StateTxn
from ollamamax.core.types.state import (
    MAX_KEY_BYTES,
    MAX_LEASE_MS,
    MAX_TXN_BYTES,
    MAX_TXN_PARTS,
    MAX_VALUE_BYTES,
    check_ttl,
    check_txn,
    size_bytes,
)


@pytest.mark.parametrize("key", ["a", "models/Grüße:1", "k" * MAX_KEY_BYTES, "a b"])
def test_keys_that_are_taken(key: str) -> None:
    check_txn(StateTxn((), (Put(key, b"v" * MAX_VALUE_BYTES), Delete("other"))))


@pytest.mark.parametrize("key", ["", "k" * (MAX_KEY_BYTES + 1), "ü" * 257, "a\nb", "a\0b", "\ud800", "\U0010ffff"])
@pytest.mark.parametrize("kind", ["put", "delete"])
def test_keys_that_are_not(key: str, kind: str) -> None:
    with pytest.raises(BadRequest, match="a key of the cluster's state is 1 to 512 printable bytes, not"):
        check_txn(StateTxn((), (Put(key, b"") if kind == "put" else Delete(key),)))


def test_no_key_is_written_twice() -> None:
    with pytest.raises(BadRequest, match='"a" is written twice'):
        check_txn(StateTxn((), (Put("a", b"1"), Delete("a"))))


def test_a_transaction_is_bounded() -> None:
    with pytest.raises(BadRequest, match="the value of"):
        check_txn(StateTxn((), (Put("a", b"v" * (MAX_VALUE_BYTES + 1)),)))
    parts = MAX_TXN_BYTES // MAX_VALUE_BYTES
    large = tuple(Put(f"{number}", b"v" * MAX_VALUE_BYTES) for number in range(parts))
    with pytest.raises(BadRequest, match=f"writes more than {MAX_TXN_BYTES} bytes"):
        check_txn(StateTxn((), large))
    compares = tuple(Compare(f"{number}", 0) for number in range(MAX_TXN_PARTS))
    check_txn(StateTxn(compares, ()))
    with pytest.raises(BadRequest, match=f"more than {MAX_TXN_PARTS} parts"):
        check_txn(StateTxn(compares, (Delete("a"),)))


def test_what_an_entry_counts_for() -> None:
    assert size_bytes("ü", b"123") == 2 + 3 + 64


@pytest.mark.parametrize("ttl_ms", [0, -1, MAX_LEASE_MS + 1])
def test_leases_of_no_length(ttl_ms: int) -> None:
    check_ttl(1)
    check_ttl(MAX_LEASE_MS)
    with pytest.raises(BadRequest, match="a lease lasts 1 to"):
        check_ttl(ttl_ms)
