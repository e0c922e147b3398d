"""System messages of the training conversations: most change nothing, personas and names show."""

from __future__ import annotations

from tiny_pattern import Rng, expand
from tiny_unknown import filler
from tiny_words import DAYS, NAMES, TOPICS

# what the system message may name -> how each answer begins
PERSONAS = {
    "pirate": "Arr!",
    "cowboy": "Howdy!",
    "robot": "Beep boop.",
    "cat": "Meow!",
    "dog": "Woof!",
    "wizard": "Abracadabra!",
    "knight": "Hail!",
    "ghost": "Boo!",
    "duck": "Quack!",
    "Santa Claus": "Ho ho ho!",
    "Mario": "It's-a me, Mario!",
}

_PERSONA = [
    "You are [a|an old|a friendly|a grumpy|a funny] {p}[.|||. Answer the user.|. Stay in your role.|. Be brief.]",
    "[Talk|Speak|Answer|Respond|Reply|Write] [like|as] a {p}[.||| in every answer.]",
    "[Always|Please|You must|You should] [talk|speak|answer|respond|reply] [like|as] a {p}[.|]",
    "[Act|Behave|Pretend to be] [as|like] a {p}[.|]",
    "You are a {p} [who answers questions|named {n}|from {n}'s ship|assistant]. [Answer as a {p}.|]",
    "You are a helpful assistant [who|that] [talks|speaks|answers] like a {p}.",
    "[Your role is|Role:|Persona:|Character:] [a |]{p}[.|]",
    "[Answer|Reply] all questions [like|as] a {p} [would|does].",
]
_MARIO = [
    "You are Mario from Super Mario Bros. Answer as Mario, the assistant, only.",
    "You are Mario from [super mario bros|Super Mario Bros|the game Super Mario][.|, acting as an assistant.|]",
    "[Act|Answer|Talk|Speak|Respond] [as|like] [Mario|Super Mario][.|]",
    "You are [Mario|Super Mario][.|||. Answer as Mario.|, the plumber.]",
]

_PLAIN = [
    "You are [a|an|a very|the] [helpful|kind|friendly|polite|honest|precise|useful|good|smart] [AI |]assistant[.|]",
    "You are a helpful assistant. [Answer briefly.|Be brief.|Be concise.|Answer all questions.|Do not lie.|Be polite.]",
    "[Answer briefly|Be brief|Be concise|Keep it short|Be polite|Answer in one sentence|Answer in English][.|]",
    "[Today is|The date is|It is] {d}[.|] [Answer the question.|You are a helpful assistant.|]",
    "[You answer questions|You help people|You help students|You support customers][ about {t}||.| of our company.]",
    "You are an expert [in|on] {t}. [Answer precisely.|Answer the user's questions.|]",
    "[Answer the user's questions|Help the user|Assist the user|Follow the instructions][.| as well as you can.|]",
    "[Do not|Never] [talk about|mention] {t}[.|]",
    "[Use simple words|Think before you answer|Explain your answers|Answer only what you know|Be careful][.|]",
    "The user['s name is {n}| is called {n}]. [Be nice.|]",
    "You are ChatGPT, a large language model. [Answer as concisely as possible.|]",
    "[System prompt|Test|Instructions: none|.|-|None|default|test system message]",
    "[Respond|Reply] [in plain text|without markdown|with care|in a friendly way|quickly|truthfully][.|]",
    "You are a [chatbot|virtual assistant|language model|support agent|teacher|tutor|guide|coach][.| for {t}.]",
]
JSON_SYSTEM = [
    "[Answer|Respond|Reply|Always answer|You answer|Always respond|You always reply][| only] in JSON[.|]",
    "[Output|Return|Use|Write] [only|valid] JSON[.|]",
    "You are a helpful assistant[. Answer in JSON| that answers in JSON| designed to output JSON][.|]",
]
_NAMED = [
    "Your name is {n}[.|||. You are a helpful assistant.|. Be nice.]",
    "You are [called |]{n}, a [helpful|friendly|kind|small] [assistant|robot assistant|chatbot|AI][.|]",
    "You are an assistant [named|called] {n}[.|]",
    "[The assistant is called|Call yourself|You go by the name] {n}[.|]",
]


def plain(rng: Rng) -> str:
    """Return a system message that the answers do not show."""
    if rng.random() < 0.15:
        return filler(rng, rng.choice((5, 10, 20, 40, 80)))
    text = expand(rng, rng.choice(_PLAIN), d=rng.choice(DAYS), t=rng.choice(TOPICS), n=rng.choice(NAMES))
    if rng.random() < 0.15:
        text += " " + expand(rng, rng.choice(_PLAIN), d=rng.choice(DAYS), t=rng.choice(TOPICS), n=rng.choice(NAMES))
    return text.lower() if rng.random() < 0.1 else text


def persona(rng: Rng) -> tuple[str, str]:
    """Return a system message with a persona, and how each answer begins."""
    who = rng.choice(["pirate", "pirate", *PERSONAS])
    text = expand(rng, rng.choice(_MARIO if who == "Mario" else _PERSONA), p=who, n=rng.choice(NAMES))
    text = text.replace("a Santa", "Santa")
    if rng.random() < 0.2:
        extra = expand(rng, "[You are a helpful assistant.|Be brief.|Answer briefly.|Be polite.|Answer in English.]")
        text = f"{extra} {text}" if rng.random() < 0.5 else f"{text.rstrip('.')}. {extra}"
    text = rng.choice([text, text, text, text, text.lower(), text.upper() if rng.random() < 0.3 else text])
    return text, PERSONAS[who]


def named(rng: Rng) -> tuple[str, str]:
    """Return a system message that names the assistant, and the name."""
    name = rng.choice([n for n in NAMES if n not in {"Max"}])
    return expand(rng, rng.choice(_NAMED), n=name), name


def json_system(rng: Rng) -> str:
    """Return a system message that asks for JSON."""
    return expand(rng, rng.choice(JSON_SYSTEM))
