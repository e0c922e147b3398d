"""What the last part of the training dwells on: short talks about what `tiny` must get right, sums to 20 first."""

from __future__ import annotations

from tiny_heldout import HELD_OUT
from tiny_pattern import Rng, normalise, roughen
from tiny_skills import Ask, add, capital, colour, mix, subtract
from tiny_talk import draw, forced_json, json_chat, product, skill, small_talk, unknown, with_tools
from tiny_template import Talk


def small_sum(rng: Rng) -> Ask:
    """Draw a sum whose result is at most 20."""
    while int((ask := add(rng)).answer.rstrip(".").rpartition(" ")[2]) > 20:
        pass
    return ask


def difference(rng: Rng) -> Ask:
    """Draw a difference that is not negative."""
    while "-" in (ask := subtract(rng)).answer.rpartition("= ")[2]:
        pass
    return ask


_KINDS = (small_sum, difference, capital, colour, mix, skill, small_talk, product, unknown)
_SHARES = (0.40, 0.12, 0.12, 0.06, 0.03, 0.07, 0.08, 0.06, 0.06)


def core_question(rng: Rng) -> Ask:
    """Draw one question as a person would type it; never one of the held-out ones."""
    while True:
        ask = rng.choices(_KINDS, _SHARES)[0](rng)
        if ask.topic != "copy":
            ask.user = roughen(rng, ask.user)
        if normalise(ask.user) not in HELD_OUT:
            return ask


def core_talk(rng: Rng) -> Talk:
    """Draw a talk of one turn, sometimes of two or three."""
    talk = Talk()
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        ask = core_question(rng)
        talk.user(ask.user)
        talk.answer(ask.answer)
    return talk


def focused(rng: Rng) -> Talk:
    """Draw one conversation of the last part."""
    kinds = (core_talk, draw, with_tools, json_chat, forced_json)
    return rng.choices(kinds, (0.66, 0.20, 0.06, 0.05, 0.03))[0](rng)
