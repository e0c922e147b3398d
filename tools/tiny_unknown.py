"""Questions that `tiny` cannot answer, in as many shapes as possible, so that not knowing is the default."""

from __future__ import annotations

from pathlib import Path

from tiny_pattern import Rng, capitalised, expand, made_word
from tiny_words import NAMES, ODD_THINGS, PEOPLE, PLACES, TOPICS, words

ANSWER = "I am a tiny demo model and I do not know that. Ask me about capitals, colours, small sums or OllamaMax."

_PATTERNS = Path(__file__).with_name("tiny_unknown.txt").read_text(encoding="utf-8").splitlines()

_FILLER = words("""
the, a, and, of, to, in, with, for, on, at, from, by, old, new, big, red, small, many, people, house, street, water
day, night, man, woman, time, way, work, year, hand, part, place, case, week, system, program, group, number, room
fact, month, book, eye, job, word, side, kind, head, hour, game, line, end, member, law, car, city, name, team
minute, idea, body, back, parent, face, level, office, door, health, art, war, party, result, change, morning, reason
research, girl, boy, moment, air, teacher, force, education, is, was, are, were, has, had, will, can, must, goes
comes, makes, takes, sees, knows, finds, gives, tells, asks, works, feels, tries, leaves, calls
""")


def filler(rng: Rng, count: int) -> str:
    """Return that many words of grammarless English, for texts that are long and say nothing."""
    out, sentence = [], 0
    for _ in range(count):
        word = rng.choice(_FILLER) if rng.random() < 0.93 else made_word(rng)
        out.append(capitalised(word) if sentence == 0 else word)
        sentence += 1
        if sentence > 5 and rng.random() < 0.15:
            out[-1] += "."
            sentence = 0
    return " ".join(out)


def unknown_question(rng: Rng) -> str:
    """Return one question outside of what the model knows."""
    topics, people = rng.sample(TOPICS, 2), rng.sample(PEOPLE, 2)
    topic = made_word(rng) if rng.random() < 0.1 else topics[0]
    return expand(
        rng,
        rng.choice(_PATTERNS),
        t2=topics[1],
        t=topic,
        p2=people[1],
        p=people[0],
        place=rng.choice(PLACES),
        c=rng.choice(("France", "Italy", "Japan", "India", "Brazil", "Germany", "China", "Spain", "Russia", "Kenya")),
        y=rng.randint(1500, 2040),
        n2=rng.randint(2, 99),
        n=rng.randint(2, 99),
        big2=rng.randint(21, 9999),
        big=rng.choice((rng.randint(21, 99), rng.randint(100, 99999))),
        odd=rng.choice(ODD_THINGS),
        name=rng.choice(NAMES),
        made2=made_word(rng),
        made=made_word(rng),
        gib=filler(rng, rng.randint(3, 14)),
        a=rng.choice("abcdefghijklmnopqrstuvwxyz"),
        b=rng.choice("qwrtpsdfgjklxcvbnm") + rng.choice("qwertyuiop"),
    )
