"""Large blobs travel in parts: how a blob is divided. Source: Ollama `server/download.go`, `server/upload.go`."""

from typing import Final

MIN_PART_BYTES: Final = 100 * 1000 * 1000
MAX_PART_BYTES: Final = 1000 * 1000 * 1000
_PARTS: Final = 16


def part_sizes(size_bytes: int, min_bytes: int = MIN_PART_BYTES, max_bytes: int = MAX_PART_BYTES) -> list[int]:
    """Sizes of the parts in order: a 16th of the blob each, but within the bounds; the last one may be smaller.

    An empty blob has no parts. min_bytes: at least 1.
    """
    whole = max(min_bytes, min(size_bytes // _PARTS, max_bytes))
    count, rest = divmod(size_bytes, whole)
    return [whole] * count + [rest] * bool(rest)
