"""GGUFs in several files: `<name>-00001-of-00003.gguf` and so on. Source: llama.cpp `tools/gguf-split`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ollamamax.core.errors import BadRequest
from ollamamax.core.modelspec.gguf import SPLIT_NUMBER
from ollamamax.core.types import GgufFacts

_NAME: Final = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})(?P<ending>\.gguf)?", re.ASCII)
_MAX_PARTS: Final = 1 << 12


def count_of(facts: GgufFacts) -> int:
    """Of how many parts the file is one; 1 = it is whole."""
    count = facts.metadata.get("split.count", 1)
    return count if isinstance(count, int) and count > 1 else 1


def siblings(name: str) -> tuple[str, ...]:
    """The names of all parts where this is the name of one, in order; only this name where it is not."""
    match = _NAME.fullmatch(name)
    if match is None or not 0 < int(match["number"]) <= int(match["count"]) <= _MAX_PARTS:
        return (name,)
    stem, count, ending = match["stem"], match["count"], match["ending"] or ""
    return tuple(f"{stem}-{number:05}-of-{count}{ending}" for number in range(1, int(count) + 1))


def missing(names: Iterable[str]) -> list[str]:
    """Parts that these files' names promise and that are not among them, in order."""
    present = set(names)
    return [each for name in sorted(present) for each in _first_only(name, present) if each not in present]


def in_order(files: Mapping[str, GgufFacts]) -> Sequence[str]:
    """The names of a whole GGUF's parts, the first one first.

    Raises: BadRequest if parts are missing, come twice, or are not of one file.
    """
    counts = {count_of(facts) for facts in files.values()}
    if len(counts) > 1:
        raise BadRequest(f"these are not the parts of one GGUF: {_listed(files)}")
    count = counts.pop()
    numbers = {name: facts.metadata.get(SPLIT_NUMBER, 0) for name, facts in files.items()}
    ordered = sorted(numbers, key=lambda name: int(numbers[name]))
    found = [numbers[name] for name in ordered]
    if found == list(range(count)):
        return ordered
    if len(set(found)) < len(found) or not all(0 <= number < count for number in found):
        raise BadRequest(f"a part of the GGUF comes twice, or is not of the same file: {_listed(files)}")
    absent = missing(files) or [f"number {number + 1} of {count}" for number in range(count) if number not in found]
    raise BadRequest(f"{ordered[0]} is one of {count} parts, and these are missing: {', '.join(absent)}")


def _first_only(name: str, present: set[str]) -> tuple[str, ...]:
    """All siblings, for the first of them that is present: each set of parts is told once."""
    family = siblings(name)
    return family if next(each for each in family if each in present) == name else ()


def _listed(files: Iterable[str]) -> str:
    return ", ".join(sorted(files))
