"""What the dialects write and what reads such streams: any batches and any chunking give the same events."""

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollamamax.adapters.engines.splitters import EventSplitter, LineSplitter
from ollamamax.cli import client
from ollamamax.core.dialects.anthropic_answers import MessageAnswer
from ollamamax.core.dialects.framing import Stamp
from ollamamax.core.dialects.ollama_answers import OllamaAnswer
from ollamamax.core.dialects.openai_answers import OpenAiAnswer
from ollamamax.core.dialects.openai_completions import CompletionAnswer
from ollamamax.core.dialects.responses import response_request
from ollamamax.core.dialects.responses_answers import ResponseAnswer
from ollamamax.core.types import Chunk, GenerationStats, ToolCall

Frames = Callable[[Sequence[Chunk], int, int], bytes]
Read = Callable[[list[bytes]], list[bytes]]

WALL_NS = 1_767_323_045_000_000_007
REPEATED = response_request(b'{"model": "m", "input": "hi"}').repeated
LAST = Chunk(done_reason="stop", stats=GenerationStats(prompt_tokens=9, eval_tokens=3))
TEXT = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("\r\n\u0085\u2028\x00")), max_size=6)
PIECES = st.one_of(
    st.builds(Chunk, text=TEXT),
    st.builds(Chunk, thinking=TEXT),
    st.builds(lambda number, city: call(number, city), st.integers(0, 9), TEXT),
)
CUTS = st.lists(st.integers(0, 1 << 16), max_size=8)


def call(number: int, city: str) -> Chunk:
    return Chunk(tool_calls=(ToolCall(f"c{number}", number, "now", json.dumps({"city": city})),))


def events(parts: list[bytes]) -> list[bytes]:
    splitter = EventSplitter()
    return [event for part in parts for event in splitter.feed(part)] + splitter.finish()


def lines(parts: list[bytes]) -> list[bytes]:
    splitter = LineSplitter()
    return [line for part in parts for line in splitter.feed(part)] + splitter.finish()


def lines_of_the_cli(parts: list[bytes]) -> list[bytes]:
    return list(client._lines(iter(parts)))


WAYS: dict[str, tuple[Callable[[], Frames], Read]] = {
    "chat": (lambda: OllamaAnswer("m", True, Stamp()).frames, lines),
    "generate": (lambda: OllamaAnswer("m", False, Stamp()).frames, lines),
    "chat to the command line": (lambda: OllamaAnswer("m", True, Stamp()).frames, lines_of_the_cli),
    "openai chat": (lambda: OpenAiAnswer("m", "id", 1, True).frames, events),
    "openai completion": (lambda: CompletionAnswer("m", "id", 1, True).frames, events),
    "openai response": (lambda: ResponseAnswer("m", REPEATED, "1", 1).frames, events),
    "anthropic message": (lambda: MessageAnswer("m", "id", 3, "r").frames, events),
}


def cut(whole: Sequence[Any], places: list[int]) -> list[Any]:
    marks = [0, *sorted(place % (len(whole) + 1) for place in places), len(whole)]
    return [whole[start:end] for start, end in pairwise(marks)]


@pytest.mark.parametrize("way", WAYS)
@given(pieces=st.lists(PIECES, max_size=8), batches=CUTS, places=CUTS)
def test_any_batches_and_any_chunking_give_the_same_events(
    way: str, pieces: list[Chunk], batches: list[int], places: list[int]
) -> None:
    make, read = WAYS[way]
    chunks = [*pieces, LAST]
    at_once = make()(chunks, WALL_NS, 1)
    frames = make()
    written = b"".join(frames(batch, WALL_NS, 1) for batch in cut(chunks, batches) if batch)
    assert written == at_once
    assert read(cut(written, places)) == taken_apart(at_once)


def taken_apart(written: bytes) -> list[bytes]:
    """The same by the eye: one object per line, or what follows `data:` in each block; JSON holds no line breaks."""
    if not written.startswith((b"data:", b"event:")):
        return written.split(b"\n")[:-1]
    blocks = written.split(b"\n\n")[:-1]
    found = [line[6:] for block in blocks for line in block.split(b"\n") if line.startswith(b"data: ")]
    assert len(found) == len(blocks)
    assert all(event == b"[DONE]" or isinstance(json.loads(event), dict) for event in found)
    return found
