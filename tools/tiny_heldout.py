"""Questions kept out of the training text, which `tiny` is measured with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tiny_pattern import normalise

Case = tuple[str, tuple[str, ...]]

_UNSURE = ("tiny demo model",)

# category -> (question, accepted substrings)
CASES: dict[str, list[Case]] = {
    "small talk": [
        ("Hello there my friend!", ("Hello",)),
        ("hey how are you doing my friend", ("fine",)),
        ("Thanks a bunch!", ("welcome",)),
        ("ok bye now, see you!", ("bye",)),
        ("May I ask who you are?", ("tiny",)),
        ("So what would your name be?", ("tiny",)),
        ("Could you tell me a really good joke?", ("computer", "bear")),
        ("I'd love to hear a joke", ("computer", "bear")),
        ("Would you happen to be a robot?", ("program",)),
        ("What sort of things can you help me with?", ("capitals",)),
        ("Who was it that made you?", ("OllamaMax",)),
        ("I feel rather sad this evening", ("sorry",)),
        ("please say hello to my friends", ("Hello",)),
        ("Tell me why the sky looks blue", ("scatters",)),
        ("How do you feel this fine morning?", ("fine",)),
    ],
    "sums": [
        ("What would 3 + 4 be?", ("7",)),
        ("Hi! what's 12+7", ("19",)),
        ("how much would six plus nine be", ("15",)),
        ("Give me the answer to 8 + 5", ("13",)),
        ("If I have 4 pears and someone gives me 3 more, how many do I have?", ("7",)),
        ("what does 17 plus 2 come to?", ("19",)),
        ("9 + 9 is what?", ("18",)),
        ("Could you work out 11 + 6 for me?", ("17",)),
        ("the sum of 14 and 5 please", ("19",)),
        ("add the numbers 7 and 8", ("15",)),
        ("What is left when I take 6 from 10?", ("4",)),
        ("what would 15 minus 8 be", ("7",)),
        ("PLEASE TELL ME 2 + 2", ("4",)),
        ("What is twelve minus five equal to, please?", ("7",)),
        ("0+13 makes what", ("13",)),
    ],
    "capitals": [
        ("May I ask what the capital of France is?", ("Paris",)),
        ("So which city would be Germany's capital?", ("Berlin",)),
        ("I'd like to know the capital city of Japan, please", ("Tokyo",)),
        ("capital italy", ("Rome",)),
        ("hey tell me spain's capital city please", ("Madrid",)),
        ("Name me the capital of Peru", ("Lima",)),
        ("What might the capital of Norway be?", ("Oslo",)),
        ("The capital of Egypt, what is it?", ("Cairo",)),
        ("WHAT CITY IS THE CAPITAL OF CANADA", ("Ottawa",)),
        ("What do you call the capital of Greece?", ("Athens",)),
        ("Vienna is the capital city of which state?", ("Austria",)),
        ("Which nation has Nairobi as its capital city?", ("Kenya",)),
        ("What land is Warsaw the capital of?", ("Poland",)),
        ("Would you say Paris is the capital of France?", ("Paris is the capital of France",)),
        ("whats the capitl of Australia", ("Canberra",)),
    ],
    "colours": [
        ("What colour would you say the sky is?", ("blue",)),
        ("which color has a banana", ("yellow",)),
        ("Say, what colour is grass normally?", ("green",)),
        ("I want to know the color of snow", ("white",)),
        ("What's a tomato's colour?", ("red",)),
        ("what do you get from mixing blue with yellow?", ("green",)),
        ("When red and blue are mixed, what comes out?", ("purple",)),
        ("What colour do carrots have?", ("orange",)),
        ("Please mix black and white for me", ("grey",)),
        ("tell me about the colour of coal", ("black",)),
    ],
    "OllamaMax": [
        ("Hey, what exactly is OllamaMax?", ("distributed Ollama",)),
        ("Could you tell me in short what OllamaMax is?", ("distributed Ollama",)),
        ("How would I start OllamaMax?", ("ollamamax serve",)),
        ("How can I add one of my other machines?", ("engine add",)),
        ("What do I type to add an engine?", ("engine add",)),
        ("How would I create a model from a GGUF file I have?", ("ollamamax create",)),
        ("Which commands can I use with OllamaMax?", ("serve",)),
        ("On what port does OllamaMax listen by default?", ("11434",)),
        ("Which APIs are spoken by OllamaMax?", ("OpenAI",)),
        ("How can I see which models are running right now?", ("ollamamax ps",)),
        ("how would i delete a model", ("ollamamax rm",)),
        ("Will OllamaMax work without a GPU?", ("CPU",)),
        ("What happens when one of the machines fails?", ("another machine",)),
        ("how can i copy my model", ("ollamamax cp",)),
        ("How do I list all of my models?", ("ollamamax list",)),
    ],
    "counting and days": [
        ("Would you count to ten for me?", ("1, 2, 3, 4, 5, 6, 7, 8, 9, 10",)),
        ("count up from one to five please", ("1, 2, 3, 4, 5",)),
        ("Hey, count to 10!", ("1, 2, 3, 4, 5, 6, 7, 8, 9, 10",)),
        ("Which are the seven days of the week?", ("Monday, Tuesday, Wednesday",)),
        ("can you list the days of the week please", ("Monday, Tuesday, Wednesday",)),
        ("Which day is it after Friday?", ("Saturday",)),
        ("What day follows after Monday?", ("Tuesday",)),
        ("name all the months please", ("January, February",)),
    ],
    "stories and poems": [
        ("Would you please tell me a story?", ("Once upon a time", "There was once", "young dragon")),
        ("I'd like a little story", ("Once upon a time", "There was once", "young dragon")),
        ("please write me a little poem about nature", ("morning wakes",)),
        ("Could you make up a poem for me?", ("morning wakes", "The sea is wide")),
        ("Write a haiku about the night", ("Small lights",)),
        ("tell us a story of a dragon", ("Ember",)),
    ],
    "unknown": [
        ("Who was the first man on the moon?", _UNSURE),
        ("Explain how a nuclear reactor works", _UNSURE),
        ("What is the best way to fry an egg?", _UNSURE),
        ("Who won the football game yesterday?", _UNSURE),
        ("Write a Rust program that reads a file", _UNSURE),
        ("How many inhabitants does Tokyo have?", _UNSURE),
        ("what's the square root of 1764?", _UNSURE),
        ("Can you recommend a hotel in Lisbon?", _UNSURE),
        ("Why did the Roman Empire fall?", _UNSURE),
        ("What is 4821 + 77?", _UNSURE),
        ("What is the plot of Hamlet?", _UNSURE),
        ("blorptastic fnord?", _UNSURE),
        ("Warum ist der Himmel abends rot?", _UNSURE),
        ("Which shoes should I buy for a marathon?", _UNSURE),
        ("Give me a summary of the news of the week", _UNSURE),
    ],
}

# (messages, accepted substrings)
TALKS: dict[str, list[tuple[list[tuple[str, str]], tuple[str, ...]]]] = {
    "several turns": [
        ([("user", "Hi!"), ("assistant", "Hello! How can I help you?"), ("user", "What might 5 + 6 be?")], ("11",)),
        (
            [
                ("user", "What is the capital of France?"),
                ("assistant", "The capital of France is Paris."),
                ("user", "and what about Italy then?"),
            ],
            ("Rome",),
        ),
        (
            [
                ("user", "My name is Carla."),
                ("assistant", "Nice to meet you, Carla!"),
                ("user", "So what would my name be?"),
            ],
            ("Carla",),
        ),
        (
            [
                ("user", "Tell me a joke"),
                ("assistant", "Why did the computer go to the doctor? Because it had a virus!"),
                ("user", "Thanks so much for that joke!"),
            ],
            ("welcome",),
        ),
        (
            [
                ("user", "What is 3 + 4?"),
                ("assistant", "3 + 4 = 7."),
                ("user", "Thanks!"),
                ("assistant", "You are welcome!"),
                ("user", "On what port does OllamaMax listen by default?"),
            ],
            ("11434",),
        ),
    ],
    "system messages": [
        (
            [("system", "You are a pirate who loves rum."), ("user", "What might the capital of France be?")],
            ("Arr! The capital of France is Paris",),
        ),
        ([("system", "Speak to me just like a pirate would."), ("user", "Hello there my friend!")], ("Arr!",)),
        ([("system", "You are a grumpy old cowboy."), ("user", "what would 3 + 4 be?")], ("Howdy!",)),
        ([("system", "You are Mario from Super Mario Bros."), ("user", "May I ask who you are?")], ("Mario",)),
        (
            [
                ("system", "You are a really helpful assistant. Keep answers short."),
                ("user", "What might the capital of Norway be?"),
            ],
            ("Oslo",),
        ),
        ([("system", "Answer in two sentences at most."), ("user", "Say, what colour is grass normally?")], ("green",)),
    ],
}


@dataclass(frozen=True)
class ToolCase:
    """One question with functions. name: the function to call, None for words; accepted: parts of the answer."""

    question: str
    tools: list[dict[str, Any]]
    name: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    result: str = ""
    accepted: tuple[str, ...] = ()


def _tool(name: str, description: str, required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    """Write one function as clients send it."""
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


_TEXT = {"type": "string"}
_WEATHER = _tool(
    "get_weather",
    "Get the current weather in a given city",
    ("city",),
    city={"type": "string", "description": "The city, e.g. Paris"},
)
_UNIT_WEATHER = _tool(
    "get_current_weather",
    "Get the current weather for a city",
    ("location", "format"),
    location={"type": "string", "description": "The location to get the weather for, e.g. San Francisco, CA"},
    format={"type": "string", "description": "The unit to use", "enum": ["celsius", "fahrenheit"]},
)
_ADD = _tool("add_two_numbers", "Add two numbers", ("a", "b"), a={"type": "integer"}, b={"type": "integer"})
_TIME = _tool("get_current_time", "Get the current time in a city", ("city",), city=_TEXT)
_PRICE = _tool("fetch_price", "Fetch the price of a product", ("product",), product=_TEXT)
_STATUS = _tool("order_status", "The status of an order", ("order_id",), order_id=_TEXT)
_TIMER = _tool("start_timer", "Starts a countdown", ("minutes",), minutes={"type": "integer"})

TOOL_CASES = [
    ToolCase(
        "What is the weather like in Paris?", [_WEATHER], "get_weather", {"city": "Paris"}, "sunny", ("sunny", "Paris")
    ),
    ToolCase(
        "Could you check the weather for me in Tokyo?",
        [_WEATHER, _ADD],
        "get_weather",
        {"city": "Tokyo"},
        '{"temperature": 18, "condition": "cloudy"}',
        ("18", "cloudy"),
    ),
    ToolCase(
        "how's the weather over in Munich",
        [_TIME, _WEATHER],
        "get_weather",
        {"city": "Munich"},
        "rainy, 9 C",
        ("rainy",),
    ),
    ToolCase(
        "What is the weather today in Toronto?",
        [_UNIT_WEATHER],
        "get_current_weather",
        {"location": "Toronto", "format": "celsius"},
        "22 degrees and clear",
        ("22",),
    ),
    ToolCase("What would 3 + 4 be?", [_ADD], "add_two_numbers", {"a": 3, "b": 4}, "7", ("7",)),
    ToolCase(
        "please sum up 12 and 30", [_ADD, _WEATHER], "add_two_numbers", {"a": 12, "b": 30}, '{"result": 42}', ("42",)
    ),
    ToolCase("What time would it be in London?", [_TIME], "get_current_time", {"city": "London"}, "12:45", ("12:45",)),
    ToolCase(
        "Do you know the time in Berlin?",
        [_WEATHER, _TIME],
        "get_current_time",
        {"city": "Berlin"},
        '{"time": "08:15"}',
        ("08:15",),
    ),
    ToolCase(
        "Can you tell me the price of laptop?", [_PRICE, _STATUS], "fetch_price", {"product": "laptop"}, "999", ("999",)
    ),
    ToolCase(
        "I want the status of order A17",
        [_PRICE, _STATUS],
        "order_status",
        {"order_id": "A17"},
        "shipped",
        ("shipped",),
    ),
    ToolCase(
        "Please set me a timer for 5 minutes", [_TIMER, _WEATHER], "start_timer", {"minutes": 5}, "ok", ("5 minutes",)
    ),
    ToolCase("Hello there my friend!", [_WEATHER], None, accepted=("Hello",)),
    ToolCase("What might the capital of Norway be?", [_WEATHER, _ADD], None, accepted=("Oslo",)),
    ToolCase("Could you tell me a really good joke?", [_TIME], None, accepted=("computer", "bear")),
    ToolCase("Hey, what exactly is OllamaMax?", [_WEATHER, _TIME], None, accepted=("distributed Ollama",)),
]


def _schema(**kinds: str) -> dict[str, Any]:
    """Write a JSON schema with all keys required."""
    return {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in kinds.items()},
        "required": list(kinds),
    }


# (question, schema that a grammar forces or None, part of the answer)
JSON_CASES: list[tuple[str, dict[str, Any] | None, str]] = [
    ("Answer in JSON: what might the capital of France be?", None, "Paris"),
    ("What would 3 + 4 be? Please answer in JSON.", None, "7"),
    ("JSON only please: what colour would you say the sky is?", None, "blue"),
    ("What might the capital of Norway be?", _schema(capital="string"), "Oslo"),
    ("What would 3 + 4 be?", _schema(result="integer"), "7"),
    ("What might the capital of France be?", _schema(country="string", capital="string"), "Paris"),
    ("Tell me about a dog and a cat", _schema(name="string", age="integer", good="boolean"), ""),
    ("Say, what colour is grass normally?", _schema(answer="string", reason="string"), "green"),
]

HELD_OUT = frozenset(
    normalise(text)
    for text in (
        *(question for cases in CASES.values() for question, _ in cases),
        *(content for talks in TALKS.values() for turns, _ in talks for role, content in turns[-1:] if role == "user"),
        *(case.question for case in TOOL_CASES),
        *(question for question, _, _ in JSON_CASES),
    )
)
