"""Phrasings written as small patterns, and the noise that people add to what they type."""

from __future__ import annotations

import random
import re
import string
from dataclasses import dataclass
from pathlib import Path

_CHOICE = re.compile(r"\[([^\[\]]*)\]")

Rng = random.Random


@dataclass
class Section:
    """One meaning of a text file: its answer (empty where a rule makes it) and its phrasings."""

    name: str
    answer: str
    phrasings: list[str]


def sections(file: str) -> dict[str, Section]:
    """Read a file of '= name', '> answer' and phrasing lines that lies beside this one."""
    found: dict[str, Section] = {}
    for line in Path(__file__).with_name(file).read_text(encoding="utf-8").splitlines():
        if line.startswith("= "):
            here = found[line[2:]] = Section(line[2:], "", [])
        elif line.startswith("> "):
            here.answer += ("\n" if here.answer else "") + line[2:]
        elif line and not line.startswith("# "):
            here.phrasings.append(line)
    return found


def expand(rng: Rng, pattern: str, **values: object) -> str:
    """Choose one alternative of each [a|b|] (innermost first), fill {names} and tidy the blanks."""
    while (found := _CHOICE.search(pattern)) is not None:
        pattern = pattern[: found.start()] + rng.choice(found[1].split("|")) + pattern[found.end() :]
    for name, value in values.items():
        pattern = pattern.replace("{" + name + "}", str(value))
    return re.sub(r" +", " ", pattern).strip()


def normalise(text: str) -> str:
    """Reduce a text to its lower-case words and operators, to compare questions across spellings."""
    return " ".join(re.findall(r"[a-z]+|\d+|[+\-*/=]", text.lower().replace("'", "")))


def capitalised(text: str) -> str:
    """Return the text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


_CONTRACTIONS = [
    ("What is", "What's"), ("what is", "what's"), ("What is", "Whats"), ("what is", "whats"), ("I am", "I'm"),
    ("do not", "don't"), ("Who is", "Who's"), ("can you", "could you"), ("Can you", "Could you"), ("colour", "color"),
    ("You are", "You're"), ("you are", "you're"), ("are you", "r u"), ("you", "u"), ("please", "pls"), ("I am", "im"),
]  # fmt: skip
_OPENINGS = (
    "Hi, ", "Hello, ", "Hey, ", "Hey! ", "OK, ", "Ok. ", "So, ", "Please, ", "Well, ", "Hi! ", "Hello! ", "And ",
    "Hey tiny, ", "Tiny, ", "Hi tiny! ", "Quick question: ", "Question: ", "Now ", "Next: ", "One more: ", "Great. ",
    "Thanks. ", "Good. ", "Also, ", "Um, ", "I wonder, ", "Just curious: ", "Excuse me, ", "Nice. ", "Cool, ",
)  # fmt: skip
_CLOSINGS = (
    " Please.", " Thanks!", " Thank you.", " Tell me.", " I forgot.", " I need to know.", " Answer briefly.",
    " Do you know?", " I am curious.", " Be brief.", " Thanks in advance.", " Tell me please.", " Just the answer.",
)  # fmt: skip


_VOCATIVES = (
    " my friend",
    ", my friend",
    " buddy",
    ", buddy",
    " mate",
    ", please",
    ", tiny",
    " then",
    ", right now",
    " dear",
)


def _typo(rng: Rng, text: str) -> str:
    """Damage one letter inside one longer word."""
    spots = [m.start() for m in re.finditer(r"(?<=[a-z])[a-z](?=[a-z])", text)]
    if not spots:
        return text
    at = rng.choice(spots)
    kind = rng.randrange(4)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at] + text[at:]
    if kind == 2:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + rng.choice(string.ascii_lowercase) + text[at + 1 :]


def _case(rng: Rng, text: str) -> str:
    """Sometimes change the case of the whole text."""
    dice = rng.random()
    if dice < 0.22:
        return text.lower()
    if dice < 0.27:
        return text.upper()
    if dice < 0.29:
        return text.title()
    if dice < 0.34:
        return capitalised(text) if text[:1].islower() else text[:1].lower() + text[1:]
    return text


def _ending(rng: Rng, text: str) -> str:
    """Sometimes drop or change the punctuation at the end."""
    dice = rng.random()
    bare = text.rstrip("?.! ")
    if dice < 0.28 and bare:
        return bare
    if dice < 0.36 and bare:
        return bare + rng.choice(["?", "??", "?!", " ?", ".", "!", "...", "!!", "???", " :)"])
    return text


def roughen(rng: Rng, text: str) -> str:
    """Type a clean question as people do: contractions, openings, typos, case, missing punctuation."""
    if rng.random() < 0.15:
        for long, short in rng.sample(_CONTRACTIONS, 4):
            text = text.replace(long, short)
    if rng.random() < 0.08:
        first = text.split(" ")[0]
        keep = first in {"I", "I'm"} or not first.istitle()
        text = rng.choice(_OPENINGS) + (text if keep or rng.random() < 0.5 else text[:1].lower() + text[1:])
    if rng.random() < 0.05:
        text = (text if text[-1:] in "?.!" else text + ".") + rng.choice(_CLOSINGS)
    if rng.random() < 0.03:
        bare = text.rstrip("?.! ")
        text = bare + rng.choice(_VOCATIVES) + text[len(bare) :]
    if rng.random() < 0.06:
        text = _typo(rng, text)
    return _case(rng, _ending(rng, text))


_ONSETS = (*"bcdfghjklmnprstvwz", "br", "ch", "cl", "fl", "tr")
_VOWELS = (*"aeiou", "ai", "ea", "ee", "oo", "ou", "ia")
_CODAS = ["", "", "", "n", "r", "s", "l", "t", "m", "k", "x", "nd", "rt", "ng", "ck", "sh"]


def made_word(rng: Rng) -> str:
    """Return a made-up word of 2 or 3 syllables, so that copying has to be learned and not remembered."""
    count = rng.choice((1, 2, 2, 3))
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(count))
