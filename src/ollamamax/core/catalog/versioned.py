"""The form of what is stored: a flat JSON object with its format's version in `v`, the same bytes for the same value.

A program understands the versions up to its own. A field that an older program may drop when it writes the value anew
can be added under the same version; any other change needs a new one.
"""

from typing import TypeVar

import msgspec
from msgspec import Struct

from ollamamax.core.errors import StateTooNew

T = TypeVar("T")


class _Head(Struct, frozen=True, gc=False):
    v: int


def encode(value: Struct, version: int) -> bytes:
    """The value's bytes: keys sorted, nothing that depends on the run."""
    return msgspec.json.encode({**msgspec.to_builtins(value), "v": version}, order="deterministic")


def decode(data: bytes, decoder: msgspec.json.Decoder[T], newest: int, what: str) -> T:
    """The value again. what: names it in the error.

    Raises: StateTooNew for a version above `newest`; ValueError for anything that encode() never made.
    """
    try:
        version = msgspec.json.decode(data, type=_Head).v
        if version > newest:
            raise StateTooNew(
                f"{what} was written by a newer OllamaMax (format {version}, known here: up to {newest}): "
                "upgrade this node"
            )
        if version < 1:
            raise ValueError(f"format {version}")
        return decoder.decode(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None
