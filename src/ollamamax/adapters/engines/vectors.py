"""What an embedding must look like before it leaves a node."""

import math
from array import array
from collections.abc import Sequence

from ollamamax.core.errors import BadRequest


def finished(raw: Sequence[float | None], dimensions: int = 0) -> tuple[float, ...]:
    """L2-normalised and rounded to float32; cut to `dimensions` first where that is given and smaller.

    A vector of zeros stays one. Raises: BadRequest in Ollama's words for a value that is no number (engines write
    NaN as null).
    """
    wanted = raw[:dimensions] if 0 < dimensions < len(raw) else raw
    values = [value for value in wanted if value is not None and math.isfinite(value)]
    if len(values) != len(wanted):
        raise BadRequest("embedding contains NaN or Inf values")
    length = math.sqrt(math.fsum(value * value for value in values))
    return tuple(array("f", [value / length for value in values] if length else values))
