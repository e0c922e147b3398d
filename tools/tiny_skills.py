"""Questions that `tiny` answers from facts or by rule: sums, capitals, colours, counting, days, copying."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tiny_words as known
from tiny_pattern import Rng, capitalised, expand, made_word, sections

PHRASES = sections("tiny_phrases.txt")


@dataclass
class Ask:
    """One question and its answer. json: the answer as the object that JSON mode gives."""

    user: str
    answer: str
    json: dict[str, Any] | None = None
    topic: str = ""


def _number(rng: Rng, value: int) -> str:
    """Write a number in digits or, sometimes, in words."""
    return known.NUMBER_WORDS[value] if 0 <= value <= 20 and rng.random() < 0.2 else str(value)


def _ask(rng: Rng, kind: str, **values: object) -> str:
    """Return one phrasing of a kind with the values filled in."""
    return expand(rng, rng.choice(PHRASES[kind].phrasings), **values)


def add(rng: Rng) -> Ask:
    """Ask for a sum of two numbers from 0 to 20."""
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    words = rng.random() < 0.15
    left, right = (known.NUMBER_WORDS[a], known.NUMBER_WORDS[b]) if words else (_number(rng, a), _number(rng, b))
    plus = rng.choice([" plus ", " plus ", " and "]) if words else rng.choice([" + "] * 4 + ["+", "+", " plus ", " +"])
    text = _ask(
        rng, "add", a2=right, b2=left, a=left, b=right, plus2=rng.choice([plus, " and "]), plus=plus,
        thing=rng.choice(known.THINGS), name=rng.choice(known.NAMES),
    )  # fmt: skip
    if text.startswith("Add") and " to " in text:
        a, b = b, a
    return Ask(text, f"{a} + {b} = {a + b}.", {"result": a + b}, "sum")


def subtract(rng: Rng) -> Ask:
    """Ask for a difference of two numbers from 0 to 20."""
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    if a < b and rng.random() < 0.7:
        a, b = b, a
    minus = rng.choice([" - "] * 4 + ["-", "-", " minus ", " minus ", " take away "])
    text = _ask(rng, "subtract", a=_number(rng, a), b=_number(rng, b), minus=minus, thing=rng.choice(known.THINGS))
    return Ask(text, f"{a} - {b} = {a - b}.", {"result": a - b}, "difference")


def add_three(rng: Rng) -> Ask:
    """Ask for a sum of three numbers from 1 to 5."""
    a, b, c = rng.randint(1, 5), rng.randint(1, 5), rng.randint(1, 5)
    text = _ask(rng, "add three", a=a, b=b, c=c, p=rng.choice([" + ", "+", " plus "]))
    return Ask(text, f"{a} + {b} + {c} = {a + b + c}.", {"result": a + b + c}, "sum")


def order(rng: Rng) -> Ask:
    """Ask about the order of small numbers, or whether one is even."""
    a, b = rng.sample(range(21), 2)
    kind = rng.choice(["bigger", "number after", "number before", "even"])
    if kind == "even":
        word = "odd" if a % 2 else "even"
        return Ask(_ask(rng, kind, a=a), f"{a} is {word}.", {"result": word}, "order")
    if kind == "bigger":
        text = _ask(rng, kind, a=a, b=b)
        return Ask(text, f"{max(a, b)} is bigger than {min(a, b)}.", {"result": max(a, b)}, "order")
    word, there = ("after", a + 1) if kind == "number after" else ("before", a - 1)
    return Ask(_ask(rng, kind, a=a), f"{there} comes {word} {a}.", {"result": there}, "order")


def capital(rng: Rng, follow: bool = False) -> Ask:
    """Ask for the capital of a country. follow: as a short question after another of its kind."""
    country = rng.choice(list(known.CAPITALS))
    city = known.CAPITALS[country]
    names = [other for other, name in known.OTHER_NAMES.items() if name == country]
    said = rng.choice(names) if names and rng.random() < 0.4 else country
    text = _ask(rng, "capital again" if follow else "capital", c=said)
    answer = f"The capital of {country} is {city.rstrip('.')}."
    return Ask(capitalised(text), answer, {"capital": city}, "capital")


def capital_of(rng: Rng) -> Ask:
    """Ask which country a capital belongs to."""
    country = rng.choice([name for name in known.CAPITALS if name != "England"])
    city = known.CAPITALS[country]
    text = _ask(rng, "capital of", k=city)
    return Ask(text, f"{city} is the capital of {country}.", {"country": country}, "country")


def capital_check(rng: Rng) -> Ask:
    """Ask whether a city is the capital of a country."""
    country = rng.choice(list(known.CAPITALS))
    right = known.CAPITALS[country]
    guess = right if rng.random() < 0.5 else rng.choice([*known.CAPITALS.values(), *known.CITIES])
    yes = f"Yes, {right} is the capital of {country}."
    no = f"No, the capital of {country} is {right.rstrip('.')}."
    answer = yes if guess == right else no
    return Ask(_ask(rng, "is capital", k=guess, c=country), answer, {"answer": guess == right}, "check")


def colour(rng: Rng, follow: bool = False) -> Ask:
    """Ask for the colour of a thing. follow: as a short question after another of its kind."""
    plural = rng.random() < 0.3
    thing, tone = rng.choice(list((known.PLURALS if plural else known.COLOURS).items()))
    be, does = ("are", "do") if plural else ("is", "does")
    said = thing
    if not plural and rng.random() < 0.15:
        said = thing.removeprefix("a ").removeprefix("an ").removeprefix("the ")
    kind = "colour again" if follow else "colour"
    text = _ask(rng, kind, x=said, be2=be.title(), be=be, does=does)
    return Ask(capitalised(text), f"{capitalised(thing)} {be} {tone}.", {"color": tone}, "colour")


def mix(rng: Rng) -> Ask:
    """Ask what two colours make."""
    a, b, made = rng.choice(known.MIXES)
    said = (a, b) if rng.random() < 0.5 else (b, a)
    text = _ask(rng, "mix", a=said[0], b=said[1])
    return Ask(capitalised(text), f"{capitalised(a)} and {b} make {made}.", {"color": made}, "mix")


def count(rng: Rng) -> Ask:
    """Ask to count up or down."""
    top = rng.choice([10] * 6 + [3, 5, 5, 20, 20, 4, 6, 7, 8, 9, 12, 15])
    said = str(top) if rng.random() < 0.6 else known.NUMBER_WORDS[top]
    if rng.random() < 0.2 and top in {3, 5, 10}:
        return Ask(_ask(rng, "count down", n=said), ", ".join(str(i) for i in range(top, 0, -1)) + ".", None, "count")
    numbers = list(range(1, top + 1))
    return Ask(_ask(rng, "count", n=said), ", ".join(map(str, numbers)) + ".", {"numbers": numbers}, "count")


def calendar(rng: Rng) -> Ask:
    """Ask about the order of days or months, or for all of them."""
    names, unit = rng.choice([(known.DAYS, "day"), (known.DAYS, "day"), (known.MONTHS, "month")])
    whole, many = ("week", "seven") if unit == "day" else ("year", "twelve")
    dice = rng.random()
    if dice < 0.35:
        text = _ask(rng, "all days", u=unit, w=whole, m=many)
        return Ask(text, f"The {unit}s are {', '.join(names[:-1])} and {names[-1]}.", None, "calendar")
    if dice < 0.45:
        text = _ask(rng, "how many days", u=unit, w=whole)
        return Ask(text, f"A {whole} has {len(names)} {unit}s.", {"result": len(names)}, "calendar")
    at, step = rng.randrange(len(names)), rng.choice([1, 1, -1])
    here, there = names[at], names[(at + step) % len(names)]
    word = "after" if step > 0 else "before"
    kind = "tomorrow" if unit == "day" and step > 0 and rng.random() < 0.2 else "next day"
    return Ask(_ask(rng, kind, u=unit, d=word, x=here), f"{there} comes {word} {here}.", {"answer": there}, "calendar")


def little_fact(rng: Rng) -> Ask:
    """Ask for an opposite, an animal's sound or legs, or a greeting in another language."""
    kind = rng.randrange(4)
    if kind == 0:
        a, b = rng.choice(list(known.OPPOSITES.items()))
        text = _ask(rng, "opposite", a=rng.choice([a, a, f'"{a}"']))
        return Ask(capitalised(text), f"The opposite of {a} is {b}.", {"answer": b}, "fact")
    if kind == 1:
        a, b = rng.choice(list(known.SOUNDS.items()))
        return Ask(_ask(rng, "sound", a=a), f"A {a} says {b}.", {"answer": b}, "fact")
    if kind == 2:
        animal, legs = rng.choice(list(known.LEGS.items()))
        article = "An" if animal[0] in "aeo" else "A"
        return Ask(_ask(rng, "legs", a=animal), f"{article} {animal} has {legs} legs.", {"result": legs}, "fact")
    word, table = rng.choice([("hello", known.HELLOS), ("thank you", known.THANKS)])
    language = rng.choice(list(table))
    text = _ask(rng, "in language", w=word, x=language)
    return Ask(text, f"{capitalised(word)} in {language} is {table[language]}.", {"answer": table[language]}, "fact")


def copying(rng: Rng) -> Ask:
    """Ask to repeat some words, known or made up."""
    pool: list[Callable[[], str]] = [
        lambda: made_word(rng), lambda: rng.choice(known.NAMES), lambda: rng.choice(list(known.OPPOSITES)),
        lambda: rng.choice(known.THINGS), lambda: rng.choice(known.CITIES), lambda: str(rng.randint(0, 999)),
    ]  # fmt: skip
    said = " ".join(rng.choice(pool)() for _ in range(rng.choice((1, 1, 2, 3, 4, 5))))
    said = rng.choice([said, said, capitalised(said), "this is a test", "this is a " + said])
    quote = rng.choice(["", "", '"', "'"])
    return Ask(f"{_ask(rng, 'copy')} {quote}{said}{quote}{rng.choice(['', '', '.'])}", said, None, "copy")


def own_name(rng: Rng, name: str) -> Ask:
    """Let the user tell a name."""
    return Ask(_ask(rng, "my name", n=name), f"Nice to meet you, {name}!", None, "name")


SKILLS: list[tuple[float, Callable[[Rng], Ask]]] = [
    (3.0, add), (1.4, subtract), (0.2, add_three), (0.3, order), (1.8, capital), (0.7, capital_of),
    (0.25, capital_check), (1.0, colour), (0.4, mix), (0.35, count), (0.5, calendar), (0.5, little_fact),
    (0.5, copying),
]  # fmt: skip
