"""The tokenizer of a model directory as key-values of a GGUF: byte-level BPE, or SentencePiece.

Source: llama.cpp `convert_hf_to_gguf.py`, `gguf-py/gguf/vocab.py`, `src/llama-vocab.cpp` (how each `pre` splits text).

Deliberate limits: how text is split before BPE must be known to llama.cpp by name (_SPLITS); anything else is refused,
since a model with another splitting answers worse without a sign of it.
"""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from ollamamax.core.errors import GgufUnsupported
from ollamamax.core.modelspec import sentencepiece
from ollamamax.core.modelspec.gguf_writer import boolean, f32s, i32s, text, texts, u32
from ollamamax.core.modelspec.hf_config import REMEDY

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5
_ADDED_SCORE: Final = -1000.0
_UNUSED_SCORE: Final = -10_000.0
_MAX_TOKENS: Final = 1 << 22
_SPACE: Final = "\u2581"

_WORDS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST: Final = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS: Final = {
    (_WORDS + r"\p{N}{1,3}" + _REST, True): "llama-bpe",
    (_WORDS + r"\p{N}{1,3}" + _REST, False): "smaug-bpe",
    (_WORDS + r"\p{N}" + _REST, False): "qwen2",
    (_TEKKEN, True): "tekken",
    ("words", False): "gpt-2",
    ("digits, words", False): "smollm",
}
"""(how text is split, whether whole words are looked up before merging) -> llama.cpp's name for it."""

_SPECIAL: Final = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}
"""Name in tokenizer_config.json -> in GGUF, whose spelling that is."""


class _Tokens(Struct):
    """A vocabulary by id."""

    texts: list[str]
    kinds: list[int]
    scores: list[float]

    def pad(self, count: int) -> None:
        """Fill up with tokens that never occur. Raises: ValueError for more than any vocabulary has."""
        if count > _MAX_TOKENS:
            raise ValueError(f"a vocabulary of {count} tokens")
        for number in range(len(self.texts), count):
            self.texts.append(f"[PAD{number}]")
            self.kinds.append(_UNUSED)
            self.scores.append(_UNUSED_SCORE)

    def add(self, number: int, content: str, is_special: bool) -> None:
        """One that was added to the vocabulary, or says more of one of its tokens."""
        self.pad(number + 1)
        self.texts[number] = content if is_special else content.replace(_SPACE, " ")
        if self.kinds[number] != _UNKNOWN:
            self.kinds[number] = _CONTROL if is_special else _USER_DEFINED
        self.scores[number] = _ADDED_SCORE

    def pairs(self) -> dict[str, bytes]:
        """What is written of every kind of tokenizer."""
        return {"tokenizer.ggml.tokens": texts(self.texts), "tokenizer.ggml.token_type": i32s(self.kinds)}


def read(
    model: bytes | None, tokenizer: dict[str, Any], told: dict[str, Any], config: Mapping[str, Any], vocabulary: int
) -> dict[str, bytes]:
    """The key-values. model: tokenizer.model, None if there is none.  tokenizer, told, config: what tokenizer.json,
    tokenizer_config.json and config.json hold, {} where there is none.  vocabulary: how many tokens the model has.

    Raises: GgufUnsupported, GgufError.
    """
    if model is not None:
        tokens, pairs = _sentencepiece(model)
    else:
        tokens, pairs = _byte_level(tokenizer)
    for added in tokenizer.get("added_tokens") or ():
        tokens.add(int(added["id"]), str(added["content"]), bool(added.get("special")))
    for number, added in (told.get("added_tokens_decoder") or {}).items():
        tokens.add(int(number), str(added["content"]), bool(added.get("special")))
    if len(tokens.texts) > vocabulary:
        raise GgufUnsupported(f"the tokenizer has {len(tokens.texts)} tokens and the model {vocabulary}; {REMEDY}")
    tokens.pad(vocabulary)
    if model is not None:
        pairs["tokenizer.ggml.scores"] = f32s(tokens.scores)
    return {**pairs, **tokens.pairs(), **_special(tokens, told, config), **_around(tokenizer, told)}


def _sentencepiece(model: bytes) -> tuple[_Tokens, dict[str, bytes]]:
    found = sentencepiece.parse(model)
    tokens = _Tokens(
        [piece.text for piece in found.pieces],
        [piece.kind for piece in found.pieces],
        [piece.score for piece in found.pieces],
    )
    return tokens, {
        "tokenizer.ggml.model": text("llama"),
        "tokenizer.ggml.pre": text("default"),
        "tokenizer.ggml.add_space_prefix": boolean(found.adds_space),
    }


def _byte_level(tokenizer: dict[str, Any]) -> tuple[_Tokens, dict[str, bytes]]:
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise GgufUnsupported(
            f"the tokenizer can't be converted here: neither tokenizer.model nor a byte-level BPE is there; {REMEDY}"
        )
    steps = _steps(tokenizer.get("pre_tokenizer") or {})
    split = _SPLITS.get((", ".join(steps), bool(model.get("ignore_merges"))))
    if split is None:
        raise GgufUnsupported(f"the tokenizer splits text in a way that is not known here; {REMEDY}")
    tokens = _Tokens([], [], [])
    by_id = {int(number): str(content) for content, number in model["vocab"].items()}
    tokens.pad(max(by_id, default=-1) + 1)
    for number, content in by_id.items():
        tokens.texts[number], tokens.kinds[number] = content, _NORMAL
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    return tokens, {
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.pre": text(split),
        "tokenizer.ggml.merges": texts(merges),
    }


def _steps(pre: dict[str, Any]) -> list[str]:
    """What happens to a text before BPE: patterns by which it is split, `words` (as GPT-2 does), `digits`."""
    kind = pre.get("type")
    if kind == "Sequence":
        return [step for each in pre["pretokenizers"] for step in _steps(each)]
    if kind == "Split" and pre.get("behavior") == "Isolated" and not pre.get("invert"):
        return [str(pre["pattern"].get("Regex"))]
    if kind == "Digits" and pre.get("individual_digits"):
        return ["digits"]
    if kind == "ByteLevel" and not pre.get("add_prefix_space"):
        return ["words"] if pre.get("use_regex", True) else []
    return ["unknown"]


def _special(tokens: _Tokens, told: dict[str, Any], config: Mapping[str, Any]) -> dict[str, bytes]:
    """Which tokens begin, end and fill."""
    numbers = {content: number for number, content in enumerate(tokens.texts)}
    found: dict[str, bytes] = {}
    for name, key in _SPECIAL.items():
        said = told.get(f"{name}_token")
        content = said.get("content") if isinstance(said, dict) else said
        number: Any = numbers.get(content) if isinstance(content, str) else None
        if number is None:
            listed = config.get(f"{name}_token_id")
            number = listed[0] if isinstance(listed, list) and listed else listed
        if isinstance(number, int) and 0 <= number < len(tokens.texts):
            found[f"tokenizer.ggml.{key}_token_id"] = u32(number)
    return found


def _around(tokenizer: dict[str, Any], told: dict[str, Any]) -> dict[str, bytes]:
    """Which tokens are put around every text."""
    template = _template(tokenizer.get("post_processor") or {})
    sides = {"bos": bool(template) and "SpecialToken" in template[0]}
    sides["eos"] = bool(template) and "SpecialToken" in template[-1] and len(template) > 1
    found: dict[str, bytes] = {}
    for name, is_there in sides.items():
        said = told.get(f"add_{name}_token")
        if isinstance(said, bool) or template:
            found[f"tokenizer.ggml.add_{name}_token"] = boolean(said if isinstance(said, bool) else is_there)
    return found


def _template(post: dict[str, Any]) -> list[Any]:
    if post.get("type") == "Sequence":
        return next((found for each in post["processors"] if (found := _template(each))), [])
    return list(post.get("single") or []) if post.get("type") == "TemplateProcessing" else []
