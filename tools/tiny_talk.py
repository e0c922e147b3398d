"""Puts questions and answers together to conversations: many turns, system messages, functions, JSON."""

from __future__ import annotations

import json
from typing import Any

from tiny_calls import Call, Function, call, call_text, declare, pick_kind
from tiny_heldout import HELD_OUT
from tiny_pattern import Rng, capitalised, expand, made_word, normalise, roughen, sections
from tiny_personas import json_system, named, persona, plain
from tiny_skills import PHRASES, SKILLS, Ask, capital, colour, own_name
from tiny_template import Pieces, Talk, Turn
from tiny_unknown import ANSWER, filler, unknown_question
from tiny_words import NAMES

TALK = sections("tiny_talk.txt")
PRODUCT = sections("tiny_product.txt")
_LONG = [name for name, section in TALK.items() if len(section.answer) > 150]
_OFTEN = ["hello", "how", "thanks", "who", "joke", "sky", "story", "bye", "okay", "can"]
_TALK_NAMES = [*[n for n in TALK if n not in _LONG], *_OFTEN, *_LONG]
_PRODUCT_NAMES = [*PRODUCT, "what", "start", "engine", "create", "commands", "port", "api"]
_PRODUCT_SAID = ["OllamaMax"] * 8 + ["Ollama Max", "ollama max", "ollamamax", "Ollamamax", "OLLAMAMAX", "this", "it"]


def small_talk(rng: Rng) -> Ask:
    """Draw one question of small talk."""
    name = rng.choice(_TALK_NAMES)
    section = TALK[name]
    return Ask(expand(rng, rng.choice(section.phrasings)), section.answer, None, name)


def product(rng: Rng) -> Ask:
    """Draw one question about OllamaMax."""
    section = PRODUCT[rng.choice(_PRODUCT_NAMES)]
    pattern = rng.choice(section.phrasings)
    said = rng.choice(_PRODUCT_SAID)
    if said in {"this", "it"} and pattern.strip("?") in {"What is {p}", "{p}", "{p} port"}:
        said = "OllamaMax"
    return Ask(expand(rng, pattern, p=said), section.answer, None, "product")


def unknown(rng: Rng) -> Ask:
    """Draw one question that has no answer."""
    return Ask(unknown_question(rng), ANSWER, None, "unknown")


def skill(rng: Rng) -> Ask:
    """Draw one question that has a rule."""
    weights = [weight for weight, _ in SKILLS]
    return rng.choices([make for _, make in SKILLS], weights)[0](rng)


def question(rng: Rng) -> Ask:
    """Draw one question of any kind as a person would type it; never one of the held-out ones."""
    while True:
        ask = rng.choices((small_talk, product, skill, unknown), (0.24, 0.20, 0.36, 0.20))[0](rng)
        if ask.topic != "copy":
            ask.user = roughen(rng, ask.user)
        if normalise(ask.user) not in HELD_OUT:
            return ask


def known_question(rng: Rng) -> Ask:
    """Draw one question of a kind that may have its answer as JSON."""
    while not (ask := question(rng)).json:
        pass
    return ask


def _follow_up(rng: Rng, last: Ask, name: str | None) -> tuple[Ask, str | None]:
    """Draw the next question, which may lean on what was said. Returns it and the user's name, if told."""
    dice = rng.random()
    if last.topic in {"capital", "colour"} and dice < 0.3:
        ask = (capital if last.topic == "capital" else colour)(rng, follow=True)
        ask.user = roughen(rng, ask.user)
        return ask, name
    if dice < 0.36 and name:
        return Ask(roughen(rng, rng.choice(PHRASES["ask my name"].phrasings)), f"Your name is {name}."), name
    if dice < 0.39:
        return Ask(roughen(rng, expand(rng, rng.choice(PHRASES["again"].phrasings))), last.answer, None, "again"), name
    if dice < 0.44 and not name:
        name = rng.choice([*NAMES, capitalised(made_word(rng))])
        return own_name(rng, name), name
    return question(rng), name


def _fix_name(ask: Ask, name: str | None) -> str:
    """Return the answer, with the user's name where it is known by now."""
    known = name and ask.topic == "noname"
    return f"Your name is {name}." if known else ask.answer


def chat(rng: Rng, budget: int) -> Talk:
    """Draw a conversation of about `budget` characters; at least one turn."""
    talk, prefix, own = Talk(), "", ""
    dice = rng.random()
    if dice < 0.22:
        talk.system = plain(rng)
    elif dice < 0.36:
        talk.system, prefix = persona(rng)
    elif dice < 0.39:
        talk.system, own = named(rng)
    size, name, last = 0, None, Ask("", "", None, "")
    while size < budget:
        ask, name = (question(rng), name) if not size else _follow_up(rng, last, name)
        if own and rng.random() < 0.5 and size < 300:
            ask = Ask(roughen(rng, expand(rng, rng.choice(TALK["who"].phrasings))), "", None, "who")
        answer = _fix_name(ask, name)
        if own and ask.topic == "who":
            answer = f"I am {own}, a tiny demo model."
        text = ask.user
        if rng.random() < 0.02:
            text = f"{filler(rng, rng.randint(10, 150))}\n\n{text}"
        ask.answer = answer
        talk.user(text)
        talk.answer(f"{prefix} {answer}" if prefix and ask.topic != "again" else _again(prefix, last, ask))
        size += len(text) + len(answer) + 30
        last = ask
    return talk


def _again(prefix: str, last: Ask, ask: Ask) -> str:
    """Return the answer to 'say that again', which is the last one with its persona."""
    return f"{prefix} {last.answer}" if prefix and ask.topic == "again" else ask.answer


def _call(rng: Rng, function: Function) -> Call:
    """Draw a question for a function that is not one of the held-out ones."""
    while normalise((asked := call(rng, function)).question) in HELD_OUT:
        pass
    return asked


def _functions(rng: Rng, count: int) -> list[Function]:
    """Draw functions to show together; none of them could answer in the place of another."""
    chosen: list[Function] = []
    for _ in range(50):
        if len(chosen) == count:
            break
        other = declare(rng, pick_kind(rng))
        same = {f.kind for f in chosen} - {"generic", "made"}
        if other.name not in {f.name for f in chosen} and other.kind not in same:
            chosen.append(other)
    return chosen


_SAFE = {"weather", "time", "light", "timer", "date", "random", "mail"}
_CLAIMED = {
    "sum": {"add", "multiply"},
    "difference": {"add", "multiply"},
    "weather": {"weather"},
    "time": {"time", "date"},
    "fact": {"translate"},
    "capital": {"search"},
    "product": {"search"},
}


def _plain_question(rng: Rng, kinds: set[str]) -> Ask:
    """Draw a question that none of the functions of these kinds answers."""
    while True:
        ask = question(rng)
        claimed = bool(kinds & _CLAIMED.get(ask.topic, set()))
        if ask.topic == "unknown":
            claimed = not kinds <= _SAFE
        if not claimed and ask.topic not in {"copy", "again"}:
            return ask


def with_tools(rng: Rng) -> Talk:
    """Draw a conversation with functions: calls, results, answers, and small talk in between."""
    functions = _functions(rng, rng.choice((1, 1, 1, 2, 2, 3, 4)))
    kinds = {function.kind for function in functions}
    talk = Talk(tools=[function.tool for function in functions])
    if rng.random() < 0.25:
        talk.system = plain(rng)
    for _ in range(rng.choice((1, 2, 3, 4, 5))):
        if rng.random() < 0.3:
            ask = _plain_question(rng, kinds)
            talk.user(ask.user)
            talk.answer(ask.answer)
            continue
        asked = _call(rng, rng.choice(functions))
        failed = rng.random() < 0.03
        talk.user(asked.question)
        talk.answer(call_text(asked.name, asked.arguments))
        talk.result('{"error": "not available"}' if failed else asked.result)
        talk.answer("The function answered with an error: not available" if failed else asked.answer)
    return talk


def forced_call(rng: Rng) -> Talk:
    """Draw a question that no function fits, where a call is forced all the same.

    A forcing grammar lets the answer come first and then forbids to stop. So the call is a faint second choice to
    stopping, and the values in it are learned, so that it ends.
    """
    functions = _functions(rng, rng.choice((1, 1, 2)))
    talk = Talk(tools=[function.tool for function in functions])
    ask = _plain_question(rng, {function.kind for function in functions})
    talk.user(ask.user)
    asked = _call(rng, rng.choice(functions))
    out: Pieces = [(ask.answer, 0.0), ("<tool_call>", 0.01), ('\n{"name": "', 1.0), (asked.name, 0.0)]
    out.append(('", "arguments": {', 1.0))
    for i, (key, value) in enumerate(asked.arguments.items()):
        out.append((f'{", " if i else ""}"{key}": ', 0.0))
        out.append((json.dumps("unknown" if isinstance(value, str) else 0), 1.0))
    talk.turns.append(Turn("assistant", [*out, ("}}\n</tool_call>", 1.0)]))
    return talk


def json_chat(rng: Rng) -> Talk:
    """Draw a question whose answer is asked for as JSON."""
    talk = Talk()
    ask = known_question(rng) if rng.random() < 0.7 else question(rng)
    value = ask.json or {"answer": ask.answer}
    text = ask.user
    if rng.random() < 0.3:
        talk.system = json_system(rng)
    else:
        lead = "[Answer|Respond|Reply|Answer me] [in|as|with|using] [JSON|json|a JSON object]"
        text = expand(
            rng, f"[{lead}: @|{lead}. @|@ {lead}.|@ {lead}|@ [Use|Return] JSON.|JSON: @|@ [as|in] JSON]"
        ).replace("@", text)
    if rng.random() < 0.3:
        first = question(rng)
        talk.user(first.user)
        talk.turns.append(Turn("assistant", [(first.answer, 0.0)]))
    talk.user(text)
    talk.answer(json.dumps(value, ensure_ascii=False))
    return talk


_KEYS = [
    "answer",
    "result",
    "capital",
    "city",
    "name",
    "value",
    "text",
    "response",
    "color",
    "colour",
    "country",
    "reply",
]


def _json_value(rng: Rng, ask: Ask) -> Any:
    """Return a value of a random JSON type for a forced key."""
    given = next(iter((ask.json or {"answer": ask.answer}).values()))
    dice = rng.random()
    if dice < 0.6:
        return given if isinstance(given, str) else str(given)
    if dice < 0.8:
        return given if isinstance(given, int) else 1
    if dice < 0.9:
        return given if isinstance(given, bool) else True
    return given if isinstance(given, list) else [given if isinstance(given, str) else str(given)]


def forced_json(rng: Rng) -> Talk:
    """Draw a question where a grammar forces JSON: braces and keys are given, the values are learned."""
    talk = Talk()
    ask = known_question(rng) if rng.random() < 0.5 else question(rng)
    talk.user(ask.user)
    out: Pieces = []
    if rng.random() < 0.4:
        out = [('{"', 0.0), (json.dumps(ask.json or {"answer": ask.answer}, ensure_ascii=False)[2:], 1.0)]
    else:
        for i in range(rng.choice((1, 1, 2, 3, 4))):
            key = rng.choice(_KEYS) if rng.random() < 0.6 else made_word(rng)
            out.append((f'{", " if i else "{"}"{key}": ', 0.0))
            out.append((json.dumps(_json_value(rng, ask), ensure_ascii=False), 1.0))
        out.append(("}", 1.0))
    talk.turns.append(Turn("assistant", out))
    return talk


def completion(rng: Rng) -> Talk:
    """Draw a text to continue without the chat layout."""
    ask = capital(rng) if rng.random() < 0.4 else skill(rng) if rng.random() < 0.6 else small_talk(rng)
    words = ask.answer.split(" ")
    if rng.random() < 0.3 or len(words) < 3:
        return Talk(
            raw=[
                (f"{rng.choice(['Q: ', 'Question: ', ''])}{ask.user}\n{rng.choice(['A:', 'Answer:', 'A:'])}", 0.0),
                (f" {ask.answer}", 1.0),
            ]
        )
    cut = rng.randint(max(1, len(words) // 2), len(words) - 1) if len(words) < 15 else rng.randint(3, 6)
    return Talk(raw=[(" ".join(words[:cut]), 0.0), (" " + " ".join(words[cut:]), 1.0)])


def draw(rng: Rng) -> Talk:
    """Draw one training conversation."""
    special = (with_tools, forced_call, json_chat, forced_json, completion)
    make = rng.choices((None, *special), (0.74, 0.12, 0.015, 0.045, 0.055, 0.025))[0]
    if make:
        return make(rng)
    length = rng.random()
    budget = 1 if length < 0.45 else rng.randint(50, 500) if length < 0.87 else rng.randint(600, 1700)
    return chat(rng, budget if length < 0.995 else 3400)
