"""The chat template of `tiny`, and the same layout as pieces of text for training.

ChatML turns; functions in a system turn inside <tools></tools>, calls in <tool_call></tool_call>, results in
<tool_response></tool_response>: the layout that llama.cpp recognises and turns into `tool_calls`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

TOOLS_HEAD = "Functions that you can call:\n<tools>"
TOOLS_TAIL = (
    "\n</tools>\nTo call a function, answer with its name and arguments:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)

TEMPLATE = (
    """
{%- if messages and messages[0].role in ['system', 'developer'] %}
    {%- set system = messages[0].content | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set system = '' %}
    {%- set rest = messages %}
{%- endif %}
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if system %}
        {{- system + '\\n\\n' }}
    {%- endif %}
    {{- @HEAD@ }}
    {%- for tool in tools %}
        {%- set f = tool.function if tool.function else tool %}
        {{- '\\n{"name": ' + (f.name | tojson) }}
        {%- if f.description %}
            {{- ', "description": ' + (f.description | tojson) }}
        {%- endif %}
        {%- if f.parameters %}
            {{- ', "parameters": ' + (f.parameters | tojson) }}
        {%- endif %}
        {{- '}' }}
    {%- endfor %}
    {{- @TAIL@ + '<|im_end|>\\n' }}
{%- elif system %}
    {{- '<|im_start|>system\\n' + system + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in rest %}
    {%- if message.role == 'tool' %}
        {%- if loop.first or rest[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or rest[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if message.content %}
            {{- message.content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for call in message.tool_calls %}
                {%- set c = call.function if call.function else call %}
                {%- if not loop.first or message.content %}
                    {{- '\\n' }}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' + c.name + '", "arguments": ' }}
                {%- if c.arguments is string %}
                    {{- c.arguments }}
                {%- else %}
                    {{- c.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + (message.content | trim) + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""".strip()
    .replace("@HEAD@", repr(TOOLS_HEAD))
    .replace("@TAIL@", repr(TOOLS_TAIL))
)

Pieces = list[tuple[str, float]]


@dataclass
class Turn:
    """One turn of a training conversation. pieces: text with its weight in the loss."""

    role: str
    pieces: Pieces


@dataclass
class Talk:
    """One training conversation; raw: pieces without the template, for plain completion."""

    turns: list[Turn] = field(default_factory=list)
    system: str = ""
    tools: list[dict[str, Any]] = field(default_factory=list)
    raw: Pieces = field(default_factory=list)

    def user(self, text: str) -> None:
        """Add a turn of the user."""
        self.turns.append(Turn("user", [(text.strip(), 0.0)]))

    def answer(self, text: str) -> None:
        """Add an answer that the model shall learn."""
        self.turns.append(Turn("assistant", [(text, 1.0)]))

    def result(self, text: str) -> None:
        """Add the result of a function."""
        self.turns.append(Turn("user", [(f"<tool_response>\n{text}\n</tool_response>", 0.0)]))


def tool_line(tool: dict[str, Any]) -> str:
    """Write one function as the template does."""
    f = tool["function"]
    chosen = {key: f[key] for key in ("name", "description", "parameters") if f.get(key)}
    return "\n" + json.dumps(chosen, ensure_ascii=False)


def pieces(talk: Talk) -> Pieces:
    """Lay out a conversation as the template does, as (text, weight) in order."""
    if talk.raw:
        return [*talk.raw, ("<|im_end|>", 1.0)]
    head = talk.system
    if talk.tools:
        listed = TOOLS_HEAD + "".join(map(tool_line, talk.tools)) + TOOLS_TAIL
        head = f"{head}\n\n{listed}" if head else listed
    out: Pieces = [(f"<|im_start|>system\n{head}<|im_end|>\n", 0.0)] if head else []
    for turn in talk.turns:
        learn = 1.0 if turn.role == "assistant" else 0.0
        out.append((f"<|im_start|>{turn.role}\n", 0.0))
        out += turn.pieces
        out += [("<|im_end|>", learn), ("\n", 0.0)]
    return out
