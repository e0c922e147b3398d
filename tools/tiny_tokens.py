"""The tokeniser of `tiny`: byte-level BPE as llama.cpp's pre-tokeniser "llama-bpe" applies it.

Merges are learned on words without their leading blank, and a merge of the blank with a finished token comes last.
So "Paris" and " Paris" fall into the same pieces but for the blank, which makes copying easy for a small network.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = ("<tool_call>", "</tool_call>", "<tools>", "</tools>", "<tool_response>", "</tool_response>")

_LETTER = r"[^\W\d_]"
_PRE = re.compile(
    r"'(?:[sS]|[tT]|[rR][eE]|[vV][eE]|[mM]|[lL][lL]|[dD])"
    rf"|(?:[^\r\n\w]|_)?{_LETTER}+"
    r"|\d{1,3}"
    r"| ?(?:[^\s\w]|_)+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL = re.compile("(" + "|".join(map(re.escape, (*CONTROL, *MARKERS))) + ")")


def _byte_letters() -> list[str]:
    """Return the printable letter that stands for each byte in GPT-2's vocabulary."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, extra = {byte: chr(byte) for byte in shown}, 256
    for byte in range(256):
        if byte not in letters:
            letters[byte], extra = chr(extra), extra + 1
    return [letters[byte] for byte in range(256)]


BYTES = _byte_letters()
BLANK = BYTES[32]


def _letters(text: str) -> str:
    """Write a text's UTF-8 bytes in GPT-2's letters."""
    return "".join(BYTES[byte] for byte in text.encode())


def _merge(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Join each occurrence of a pair, from left to right."""
    out: list[str] = []
    i = 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
            out.append(parts[i] + parts[i + 1])
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return tuple(out)


@dataclass
class Tokeniser:
    """Tokens in the order of their ids, and merges in the order of their rank."""

    tokens: list[str]
    merges: list[tuple[str, str]]
    ids: dict[str, int] = field(init=False)
    _ranks: dict[tuple[str, str], int] = field(init=False)
    _cache: dict[str, tuple[int, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self._ranks = {pair: i for i, pair in enumerate(self.merges)}

    def _word(self, word: str) -> tuple[int, ...]:
        """Return the ids of one pre-token."""
        found = self._cache.get(word)
        if found is None:
            letters = _letters(word)
            if letters in self.ids:
                found = (self.ids[letters],)
            else:
                found = tuple(self.ids[part] for part in apply_merges(tuple(letters), self._ranks))
            if len(self._cache) < 400_000:
                self._cache[word] = found
        return found

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; the markers in it become their own tokens."""
        out: list[int] = []
        for part in _SPECIAL.split(text):
            if part in self.ids and _SPECIAL.fullmatch(part):
                out.append(self.ids[part])
            else:
                for found in _PRE.finditer(part):
                    out.extend(self._word(found[0]))
        return out

    def encode_weighted(self, pieces: Iterable[tuple[str, float]]) -> tuple[list[int], list[float]]:
        """Return ids and loss weights; a token that reaches over several pieces has the smallest of their weights."""
        pieces = list(pieces)
        ids = self.encode("".join(text for text, _ in pieces))
        spread = [weight for text, weight in pieces for _ in range(len(text.encode()))]
        weights, at = [], 0
        for i in ids:
            size = len(self.tokens[i])
            weights.append(min(spread[at : at + size]))
            at += size
        assert at == len(spread)
        return ids, weights


def apply_merges(parts: tuple[str, ...], ranks: dict[tuple[str, str], int]) -> tuple[str, ...]:
    """Apply merges in the order of their rank until none fits."""
    while len(parts) > 1:
        best = min(pairwise(parts), key=lambda pair: ranks.get(pair, 1 << 30))
        if best not in ranks:
            break
        parts = _merge(parts, best)
    return parts


def _learn(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """Learn up to `count` merges from words in letters; ties go to the smaller pair, so runs repeat."""
    digits = "0123456789"
    merges = [(a, b) for a in digits for b in digits]
    ranks = {pair: i for i, pair in enumerate(merges)}
    split = {word: apply_merges(tuple(word), ranks) for word in words}
    pairs: Counter[tuple[str, str]] = Counter()
    where: dict[tuple[str, str], set[str]] = {}
    for word, parts in split.items():
        for pair in pairwise(parts):
            pairs[pair] += words[word]
            where.setdefault(pair, set()).add(word)
    while len(merges) < count and pairs:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < 2:
            break
        merges.append(best)
        for word in list(where.pop(best)):
            old, new = split[word], _merge(split[word], best)
            split[word] = new
            for pair in pairwise(old):
                pairs[pair] -= words[word]
            for pair in pairwise(new):
                pairs[pair] += words[word]
                where.setdefault(pair, set()).add(word)
        del pairs[best]
    return merges


def train(texts: Iterable[str], vocabulary: int, blanks: int) -> Tokeniser:
    """Learn a tokeniser. vocabulary: tokens in all; blanks: how many of them are a blank and another token."""
    words: Counter[str] = Counter()
    after_blank: Counter[str] = Counter()
    for text in texts:
        for part in _SPECIAL.split(text):
            if not _SPECIAL.fullmatch(part):
                for found in _PRE.finditer(part):
                    word = found[0]
                    bare = word[1:] if len(word) > 1 and word[0] == " " else word
                    words[_letters(bare)] += 1
                    if bare is not word:
                        after_blank[_letters(bare)] += 1
    fixed = len(CONTROL) + len(MARKERS) + len(BYTES)
    merges = _learn(words, vocabulary - blanks - fixed)
    ranks = {pair: i for i, pair in enumerate(merges)}
    first: Counter[str] = Counter()
    for word, count in after_blank.items():
        first[apply_merges(tuple(word), ranks)[0]] += count
    chosen = sorted(first, key=lambda token: (-first[token], token))[:blanks]
    merges += [(BLANK, token) for token in chosen]
    tokens = [*CONTROL, *MARKERS, *sorted(BYTES), *dict.fromkeys(a + b for a, b in merges)]
    return Tokeniser(tokens, merges)
