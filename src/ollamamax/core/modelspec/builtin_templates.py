"""Ways of writing prompts that many models share, and which of them a GGUF's own Jinja template is.

Each is told by what stands around the texts of a conversation; the Go template is made of that. A model made from a
GGUF whose Jinja template is known to write the same gets the Go template and its stop texts. Any other template is
left to the engine, which runs it as it is: Ollama also takes those that only look alike, and then loses e.g. a text
for the system that stands in the template, or the spaces that a model was trained with.
Source: the names and stop texts of Ollama `template/*.json`; the forms are those of the Jinja templates.
"""

from hashlib import sha256
from typing import Any, Final

from msgspec import Struct

_PRINT_DIGITS: Final = 16


class Form(Struct, frozen=True):
    """What stands before and after the text of each role, and before the answer.

    system: None = its text stands in the turn of the user that follows it, before what the user says, and is followed
    by `folded_end`.  prints: the first digits of the sha256 of Jinja templates without white space and line ends.
    """

    user: tuple[str, str]
    assistant: tuple[str, str]
    answer: str
    stop: tuple[str, ...]
    prints: tuple[str, ...]
    system: tuple[str, str] | None = None
    folded_end: str = ""
    temperature: float | None = None


class BuiltinTemplate(Struct, frozen=True):
    """A Go template by name, and the parameters that belong to it."""

    name: str
    text: str
    parameters: dict[str, Any]


def _by_role(before: str, between: str, after: str, answer: str, stop: tuple[str, ...], *prints: str) -> Form:
    """Where the role's name itself stands in the text."""
    system, user, assistant = ((f"{before}{role}{between}", after) for role in ("system", "user", "assistant"))
    return Form(user, assistant, answer, stop, prints, system)


_USER_OF_GEMMA: Final = ("<start_of_turn>user\n", "<end_of_turn>\n")
_GEMMA: Final = ("<start_of_turn>model\n", "<end_of_turn>\n")
FORMS: Final[dict[str, Form]] = {
    "alfred": _by_role(
        *("<start_", ">", "<end_message>", "<start_assistant>"),
        ("<start_system>", "<end_message>", "<start_user>", "<start_assistant>"),
        "fae6f8cf53070de2",
    ),
    "chatml": _by_role(
        *("<|im_start|>", "\n", "<|im_end|>\n", "<|im_start|>assistant\n"),
        ("<|im_start|>", "<|im_end|>"),
        "164a4c0ab2ac8a82",
        "1751cf9b9de96040",
        "1e475139513bcad4",
        "28837c66f91922d8",
        "711863d9666538c8",
        "75ed2c0790caeee3",
    ),
    "gemma-instruct": Form(
        *(_USER_OF_GEMMA, _GEMMA, _GEMMA[0], ("<start_of_turn>", "<end_of_turn>")),
        ("6adf0a2962ce871b",),
        folded_end="\n",
    ),
    "gemma3-instruct": Form(
        *(_USER_OF_GEMMA, _GEMMA, _GEMMA[0], ("<end_of_turn>",)),
        ("7eea402f6a703ba8",),
        folded_end="\n\n",
        temperature=0.1,
    ),
    "granite-instruct": Form(
        *(("Question:\n", "\n\n"), ("Answer:\n", "\n\n"), "Answer:\n"),
        ("System:", "Question:", "Answer:"),
        ("03eeae7ffd96f846",),
        ("System:\n", "\n\n"),
    ),
    "llama3-instruct": _by_role(
        *("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"),
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "065d2c5e13237e5d",
    ),
    "openchat": Form(
        ("GPT4 Correct User: ", "<|end_of_turn|>"),
        ("GPT4 Correct Assistant: ", "<|end_of_turn|>"),
        *("GPT4 Correct Assistant:", ("<|end_of_turn|>",)),
        ("6062948d28b48743",),
        ("GPT4 Correct System: ", "<|end_of_turn|>"),
    ),
    "phi-3": _by_role(
        *("<|", "|>\n", "<|end|>\n", "<|assistant|>\n"),
        ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
        "e9e2654f5cd1dbab",
    ),
    "zephyr": _by_role(
        *("<|", "|>\n", "</s>\n", "<|assistant|>\n"),
        ("<|system|>", "</s>", "<|user|>", "<|assistant|>"),
        "8705a1897ece1a1b",
    ),
}
"""By name."""
_NAMES: Final = {digits: name for name, form in FORMS.items() for digits in form.prints}


def detect(jinja: str) -> BuiltinTemplate | None:
    """The shared way of writing that this Jinja template is, None if it is none."""
    bare = "".join(jinja.replace(r"\n", "").split())  # as an escape a line end is the same
    name = _NAMES.get(sha256(bare.encode("utf-8", "surrogatepass")).hexdigest()[:_PRINT_DIGITS])
    return None if name is None else named(name)


def named(name: str) -> BuiltinTemplate:
    """One of FORMS. Raises: KeyError."""
    form = FORMS[name]
    parameters: dict[str, Any] = {"stop": list(form.stop)}
    if form.temperature is not None:
        parameters["temperature"] = form.temperature
    return BuiltinTemplate(name, _go_template(form), parameters)


def _go_template(form: Form) -> str:
    start, fold = "", ""
    if form.system is not None:
        system = f"{form.system[0]}{{{{ .Content }}}}{form.system[1]}"
    else:
        start = '{{ $system := "" }}'
        system = (
            r'{{ if $system }}{{ $system = printf "%s\n\n%s" $system .Content }}'
            "{{ else }}{{ $system = .Content }}{{ end }}"
        )
        fold = f'{{{{ if $system }}}}{{{{ $system }}}}{form.folded_end}{{{{ $system = "" }}}}{{{{ end }}}}'
    return (
        f'{start}{{{{ range .Messages }}}}{{{{ if eq .Role "system" }}}}{system}'
        f'{{{{ else if eq .Role "user" }}}}{form.user[0]}{fold}{{{{ .Content }}}}{form.user[1]}'
        f'{{{{ else if eq .Role "assistant" }}}}{form.assistant[0]}{{{{ .Content }}}}{form.assistant[1]}'
        f"{{{{ end }}}}{{{{ end }}}}{form.answer}"
    )
