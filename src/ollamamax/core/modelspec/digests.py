"""Digests of blobs: `sha256:<64 hex>`, also written with a dash as in file names. Hex in any case is accepted."""

import re
from typing import Final

from ollamamax.core.errors import BadRequest

_GRAMMAR: Final = re.compile(r"sha256[:-]([0-9a-fA-F]{64})", re.ASCII)


def normalise(text: str) -> str:
    """`sha256:` and 64 lower-case hex digits. Raises: BadRequest (`invalid digest format`)."""
    match = _GRAMMAR.fullmatch(text)
    if match is None:
        raise BadRequest("invalid digest format")
    return f"sha256:{match[1].lower()}"


def file_name(digest: str) -> str:
    """The blob's file in the store: `sha256-<hex>`. Raises: BadRequest."""
    return normalise(digest).replace(":", "-")
