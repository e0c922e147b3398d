"""Conversations in which `tiny` calls functions: the definitions it is shown, the calls, and answers from results."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_pattern import Rng, capitalised, expand, made_word, roughen
from tiny_words import CAPITALS, CITIES, HELLOS, NAMES, TOPICS, words

_NOUNS = words("""
price, height, age, owner, status, schedule, address, balance, score, distance, weight, size, colour, speed, rating
author, salary, length, phone number, birthday, stock, stock price, departure time, arrival time, menu, version, title
exchange rate, temperature, humidity, order, invoice, deadline, capacity, manager, email address, location, value, cost
""")
_KINDS = words("""
product, user, customer, book, company, train, flight, order, person, item, room, server, project, ticket, building
employee, team, player, film, device, account, shop, student, course, file, city
""")
_VERBS = words("""
open, close, start, stop, lock, unlock, check, clean, move, book, cancel, delete, update, ship, print, scan, test
restart, copy, archive, approve, pay, sort, mark, watch, count, paint, load, sell, refill
""")
_ROOMS = words("kitchen, bathroom, bedroom, living room, office, garage, garden, hall, cellar, attic, nursery")
_SKIES = words("sunny, rainy, cloudy, windy, snowy, foggy, clear, stormy, warm, cold, dry, partly cloudy, hot")
_PHRASES = words("""
I will be late, hello, good morning, see you tomorrow, the meeting is at noon, happy birthday, thank you, I am at home
call me back, dinner is ready, good luck, I love you, the train is late, where are you, the door is open, good night
""")


_KEY_SAYS = [
    "[The|A|Name of the|The name of the|One] {kind}", "[The|A] {key}", "The {kind}, e.g. {e}", "{key}, for example {e}",
    "[The {kind} to|Which {kind} to] [use|look up|get the result for]", "The {kind} [and state, |]e.g. {e}",
]  # fmt: skip


@dataclass
class Kind:
    """One kind of function as the text file describes it."""

    lines: dict[str, list[str]] = field(default_factory=lambda: {"n": [], "d": [], "p": [], "q": [], "r": []})


def _read() -> dict[str, Kind]:
    """Read the kinds of functions from the text file beside this one."""
    found: dict[str, Kind] = {}
    for line in Path(__file__).with_name("tiny_calls.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("= "):
            here = found[line[2:]] = Kind()
        elif line[1:2] == " " and line[0] in here.lines if found else False:
            here.lines[line[0]].append(line[2:])
    return found


KINDS = _read()


@dataclass
class Function:
    """One function as shown to the model. slots: value slot, argument name and kind of value, in order."""

    kind: str
    tool: dict[str, Any]
    name: str
    slots: list[tuple[str, str, str]]
    scene: dict[str, Any]
    fixed: dict[str, Any] = field(default_factory=dict)


@dataclass
class Call:
    """One question that asks for a function, the call, its result and the answer in words."""

    question: str
    name: str
    arguments: dict[str, Any]
    result: str
    answer: str


def _thing(rng: Rng) -> str:
    """Return a name or number that a generic function might be asked about."""
    return rng.choice([
        made_word(rng), capitalised(made_word(rng)), rng.choice(NAMES), str(rng.randint(1, 9999)), rng.choice(CITIES),
        f"{rng.choice('ABCDEFGX')}{rng.randint(1, 999)}", f"{made_word(rng)}-{rng.randint(1, 99)}",
        f"{capitalised(made_word(rng))} {capitalised(made_word(rng))}", f"{made_word(rng)}.txt",
    ])  # fmt: skip


def _value(rng: Rng, kind: str) -> Any:
    """Return an argument value of a kind that the text file names."""
    if kind == "number":
        return rng.choice([rng.randint(0, 20), rng.randint(0, 99), rng.randint(100, 999)])
    makers = {
        "city": lambda: rng.choice([*CAPITALS.values(), *CITIES, *CITIES, capitalised(made_word(rng))]),
        "name": lambda: rng.choice([*NAMES, capitalised(made_word(rng))]),
        "phrase": lambda: rng.choice([*_PHRASES, f"{made_word(rng)} {made_word(rng)}"]),
        "room": lambda: rng.choice(_ROOMS),
        "topic": lambda: rng.choice([*TOPICS, made_word(rng), f"{made_word(rng)} {made_word(rng)}"]),
        "language": lambda: rng.choice(list(HELLOS)),
        "thing": lambda: _thing(rng),
    }
    return makers[kind]()


def _words(rng: Rng) -> dict[str, Any]:
    """Draw the words that belong to one function."""
    noun = rng.choice(_NOUNS)
    second = rng.choice([made_word(rng), rng.choice(_KINDS), rng.choice(_NOUNS).split()[0]])
    return {
        "noun2": noun,
        "noun": noun.replace(" ", "_"),
        "kind": rng.choice(_KINDS),
        "f1": rng.choice(_VERBS),
        "f2": second,
    }


def _scene(rng: Rng) -> dict[str, Any]:
    """Draw what the result and the answer of one call share."""
    word = made_word(rng)
    value = rng.choice([word, capitalised(word), rng.choice(NAMES), f"{rng.randint(1, 999)} {word}"])
    return {
        "sky": rng.choice(_SKIES),
        "clock": f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}",
        "value": value,
        "x": rng.randint(-9, 99),
        "small": rng.randint(1, 20),
        "n": rng.randint(1000, 9999999),
        "made2": made_word(rng),
        "made": made_word(rng),
        "date": f"{rng.randint(2020, 2035)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
    }


def _fill(text: str, values: dict[str, Any]) -> str:
    """Replace {key} by its value; other braces, as in JSON, stay."""
    for key, value in values.items():
        text = text.replace("{" + key + "}", str(value))
    return text


def _schema(rng: Rng, params: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the JSON schema of the parameters, with keys in the orders that clients send."""
    properties: dict[str, Any] = {}
    for key, kind in params:
        number = rng.choice(["number", "integer", "integer"]) if kind == "number" else "string"
        properties[key] = {"type": number}
        if rng.random() < 0.5:
            says = expand(rng, rng.choice(_KEY_SAYS), key=key, kind=kind, e=_value(rng, kind))
            properties[key] = dict(rng.sample([("type", number), ("description", says)], 2))
    if rng.random() < 0.2:
        extra = rng.choice(["unit", "units", "format", "lang", "verbose", "limit"])
        properties[extra] = {"type": "string", "enum": ["a", "b"]} if rng.random() < 0.5 else {"type": "string"}
    parts = [("type", "object"), ("properties", properties), ("required", [key for key, _ in params])]
    if rng.random() < 0.3:
        parts = [parts[0], parts[2], parts[1]]
    if rng.random() < 0.15:
        parts.append(("additionalProperties", False))
    return dict(parts if params or rng.random() < 0.5 else parts[:2])


def _add_unit(rng: Rng, schema: dict[str, Any]) -> dict[str, Any]:
    """Add the required unit that many examples of weather functions have; returns the argument to call it with."""
    key = rng.choice(["unit", "units", "format", "temperature_unit"])
    units = rng.choice([["celsius", "fahrenheit"], ["celsius", "fahrenheit"], ["metric", "imperial"], ["C", "F"]])
    schema["properties"][key] = {"type": "string", "enum": units}
    if rng.random() < 0.5:
        schema["properties"][key]["description"] = f"The {key} to use, e.g. '{units[0]}' or '{units[1]}'"
    schema["required"] = [*schema["required"], key]
    return {key: units[0]}


def declare(rng: Rng, kind: str) -> Function:
    """Draw one function of a kind."""
    lines = KINDS[kind].lines
    scene = _words(rng)
    slots: list[tuple[str, str, str]] = []
    for line in lines["p"]:
        slot, value_kind, names = line.split(" ", 2)
        key = _fill(rng.choice(names.split("|")), scene).replace(" ", "_")
        slots.append((slot, key if key not in {used for _, used, _ in slots} else key + "2", value_kind))
    name = _fill(rng.choice(lines["n"][0].split("|")), scene)
    function: dict[str, Any] = {"name": name}
    if rng.random() < 0.92 or kind == "made":
        says = expand(rng, f"[{lines['d'][0]}]") + rng.choice(["", "."])
        function["description"] = _fill(says, scene)
    function["parameters"] = _schema(rng, [(key, value_kind) for _, key, value_kind in slots])
    fixed = _add_unit(rng, function["parameters"]) if kind == "weather" and rng.random() < 0.15 else {}
    return Function(kind, {"type": "function", "function": function}, name, slots, scene, fixed)


def call(rng: Rng, function: Function) -> Call:
    """Draw a question for a function, with the call, its result and the answer."""
    lines = KINDS[function.kind].lines
    said = {slot: _value(rng, value_kind) for slot, _, value_kind in function.slots}
    scene = function.scene | _scene(rng) | said
    if function.kind in {"add", "multiply"}:
        scene |= {"sum": said["a"] + said["b"], "product": said["a"] * said["b"]}
    arguments = {key: said[slot] for slot, key, _ in function.slots} | function.fixed
    question = _protected(rng, capitalised(_fill(expand(rng, rng.choice(lines["q"])), scene)), said)
    result, answer = rng.choice(lines["r"]).split(" -> ")
    return Call(question, function.name, arguments, _fill(result, scene), _fill(answer, scene))


def _protected(rng: Rng, text: str, said: dict[str, Any]) -> str:
    """Roughen a question; values that have to be copied letter by letter stay as they are."""
    rough = roughen(rng, text)
    return rough if all(str(value) in rough for value in said.values()) else text


def call_text(name: str, arguments: dict[str, Any]) -> str:
    """Write a call as the chat template does."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def pick_kind(rng: Rng) -> str:
    """Draw a kind; the common and the generic ones more often."""
    if rng.random() < 0.45:
        return rng.choice(["weather", "weather", "add", "time"])
    return rng.choice(["generic", "generic", "generic", "made", *KINDS])
