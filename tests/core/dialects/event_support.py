"""Answers made by Hypothesis, and streams of named events taken apart."""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from ollamamax.core.types import Chunk, GenerationStats, ToolCall

STATS = GenerationStats(prompt_tokens=9, cached_tokens=4, eval_tokens=3)
LAST = Chunk(done_reason="stop", stats=STATS)
CALL = ToolCall("call_1", 0, "weather", '{"b":1,"a":"x"}')

_PIECES = st.one_of(
    st.builds(Chunk, text=st.text(max_size=6)),
    st.builds(Chunk, thinking=st.text(max_size=6)),
    st.builds(Chunk, text=st.text(max_size=3), thinking=st.text(max_size=3)),
    st.builds(lambda number: Chunk(tool_calls=(ToolCall(f"c{number}", number, "now", "{}"),)), st.integers(0, 9)),
)
ANSWERS = st.lists(_PIECES, max_size=8).map(lambda pieces: [*pieces, LAST])
CUTS = st.lists(st.integers(0, 9), max_size=4)


def named_events(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    """(name, data) of each event; they must be framed exactly as `event:`, `data:` and an empty line."""
    parts = data.decode().split("\n\n")
    assert parts.pop() == ""
    events = []
    for part in parts:
        name, body = part.split("\n")
        assert name.startswith("event: ")
        assert body.startswith("data: ")
        events.append((name[7:], json.loads(body[6:])))
    return events


def told_in_batches(
    frames: Callable[[Sequence[Chunk], int, int], bytes], chunks: list[Chunk], cuts: list[int]
) -> bytes:
    """The events of an answer whose chunks come in batches that end at `cuts`."""
    bounds = [0, *sorted(min(cut, len(chunks) - 1) for cut in cuts), len(chunks)]
    return b"".join(frames(chunks[start:end], 0, 0) for start, end in pairwise(bounds))
