"""Other programs' settings files: ours merged into the text of theirs, which otherwise stays as it is.

Deliberate limits: JSON with comments is not merged, since its comments would be lost; of YAML only a list of blocks
below `models:` is understood. What is beyond that raises CannotMerge, and a person has to do it.
"""

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

Object = Mapping[str, Any]

_INDENT: Final = re.compile(r"^([ \t]+)\S", re.MULTILINE)
_HEADER: Final = re.compile(r"\s*\[")
_ITEM: Final = re.compile(r"( *)- ")
_MODELS: Final = re.compile(r"models:\s*(#.*)?")
_NOT_BLOCKS: Final = re.compile(r"(---|\.\.\.|[{\[&*!%\t]|[\"']models[\"']\s*:|models\s+:|models:\s*[^\s#])")
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")


class CannotMerge(Exception):
    """The file is in a form that can't be changed safely. The text says why."""


# --- JSON -------------------------------------------------------------------------------------------------------------


def merged_json(text: str, ours: Object) -> str:
    """An object with our values in it, also in objects within it. text: "" = no file. Raises: CannotMerge."""
    theirs = _read_json(text, {})
    if not isinstance(theirs, dict):
        raise CannotMerge("it holds something else than an object")
    return _write_json(text, _deep(theirs, ours))


def merged_json_list(text: str, entry: Object, key: str) -> str:
    """A list with that object in it, in the place of the one that has the same `key`. Raises: CannotMerge."""
    theirs = _read_json(text, [])
    if not isinstance(theirs, list):
        raise CannotMerge("it holds something else than a list")
    same = [isinstance(item, dict) and item.get(key) == entry[key] for item in theirs]
    merged = [_deep(item, entry) if is_ours else item for item, is_ours in zip(theirs, same, strict=True)]
    return _write_json(text, merged if any(same) else [*theirs, entry])


def _read_json(text: str, empty: Any) -> Any:
    if not text.strip():
        return empty
    try:
        return json.loads(text, object_pairs_hook=_no_doubles)
    except ValueError as error:
        raise CannotMerge(f"it is no plain JSON, perhaps because of comments ({error})") from error


def _no_doubles(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _write_json(former: str, value: Any) -> str:
    """With the former text's indentation."""
    found = _INDENT.search(former)
    return json.dumps(value, indent=found.group(1) if found else 2, ensure_ascii=False) + "\n"


def _deep(theirs: Object, ours: Object) -> dict[str, Any]:
    merged = dict(theirs)
    for key, value in ours.items():
        old = merged.get(key)
        merged[key] = _deep(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


# --- TOML -------------------------------------------------------------------------------------------------------------


def merged_toml(text: str, ours: Object) -> str:
    """Texts and whole numbers, also in tables. Raises: CannotMerge."""
    try:
        wanted = _deep(tomllib.loads(text), ours)
    except tomllib.TOMLDecodeError as error:
        raise CannotMerge(f"it is no TOML: {error}") from error
    lines, ending = _lines(text)
    for path, values in _tables(ours, ()):
        lines = _with_table(lines, path, values)
    merged = _joined(lines, ending)
    try:
        is_right = tomllib.loads(merged) == wanted
    except tomllib.TOMLDecodeError:
        is_right = False
    if not is_right:
        raise CannotMerge("its tables are written in a way that is not understood here")
    return merged


def _tables(ours: Object, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Each table's path and its own values, the outer ones first."""
    own = {key: value for key, value in ours.items() if not isinstance(value, dict)}
    inner = [found for key, value in ours.items() if isinstance(value, dict) for found in _tables(value, (*path, key))]
    return [(path, own), *inner] if own else inner


def _with_table(lines: list[str], path: tuple[str, ...], values: Object) -> list[str]:
    header = f"[{'.'.join(path)}]"
    if not path:
        start = 0
    elif header in (stripped := [line.strip() for line in lines]):
        start = stripped.index(header) + 1
    else:
        lines = [*lines, *([""] if lines else []), header]
        start = len(lines)
    end = next((at for at in range(start, len(lines)) if _HEADER.match(lines[at])), len(lines))
    body, rest = lines[start:end], lines[end:]
    added = []
    for key, value in values.items():
        line = f"{key} = {json.dumps(value, ensure_ascii=False)}"
        found = [at for at, old in enumerate(body) if re.match(rf"\s*{re.escape(key)}\s*=", old)]
        if found:
            body[found[0]] = line
        else:
            added.append(line)
    return [*lines[:start], *added, *body, *([""] if added and rest and not path and not body else []), *rest]


# --- YAML -------------------------------------------------------------------------------------------------------------


def merged_yaml_models(text: str, head: Mapping[str, str], entry: Mapping[str, str | Sequence[str]]) -> str:
    """The list `models:` with that entry in it, in the place of the one of the same `name`.

    head: what a new file begins with.  Raises: CannotMerge.
    """
    lines, ending = _lines(text)
    if not any(_significant(line) for line in lines):
        return _joined([*lines, *_yaml(head, ""), "models:", *_yaml_item(entry, "  ")], ending)
    if _is_list(lines) or any(_NOT_BLOCKS.match(line) for line in lines):
        raise CannotMerge("its YAML is written in a way that is not understood here")
    at = next((number for number, line in enumerate(lines) if _MODELS.fullmatch(line)), None)
    if at is None:
        return _joined([*lines, "models:", *_yaml_item(entry, "  ")], ending)
    first = next((line for line in lines[at + 1 :] if _significant(line)), "")
    dash = _ITEM.match(first)
    if dash is None and first.startswith(" "):
        raise CannotMerge("its `models` are no list of blocks")
    indent = dash.group(1) if dash else "  "
    start, end = _yaml_place(lines, at + 1, indent, str(entry["name"]))
    kept = _updated(lines[start:end], entry, indent) if end > start else _yaml_item(entry, indent)
    return _joined([*lines[:start], *kept, *lines[end:]], ending)


def _is_list(lines: list[str]) -> bool:
    return next(filter(_significant, lines)).startswith("- ")


def _significant(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _yaml_place(lines: list[str], at: int, indent: str, name: str) -> tuple[int, int]:
    """Where the item of that name stands; an empty place before the first where there is none."""
    starts: list[int] = []
    end = len(lines)
    for number in range(at, len(lines)):
        line = lines[number]
        if line.startswith(f"{indent}- "):
            starts.append(number)
        elif _significant(line) and len(line) - len(line.lstrip()) <= len(indent):
            end = number
            break
    ours = re.compile(rf"{indent}[- ] name:\s*[\"']?{re.escape(name)}[\"']?\s*(#.*)?")
    for start, stop in pairwise([*starts, end]):
        if any(ours.fullmatch(line) for line in lines[start:stop]):
            while not _significant(lines[stop - 1]):
                stop -= 1
            return start, stop
    return at, at


def _updated(item: list[str], entry: Mapping[str, str | Sequence[str]], indent: str) -> list[str]:
    """Our texts in the lines of an item; lists stay as they are, since they may have been chosen."""
    for key, value in entry.items():
        if not isinstance(value, str):
            continue
        at = next((at for at, line in enumerate(item) if re.match(rf"{indent}[- ] {key}:", line)), None)
        if at is None:
            item = [*item, f"{indent}  {key}: {_scalar(value)}"]
        else:
            item = [*item[:at], f"{item[at][: len(indent) + 2]}{key}: {_scalar(value)}", *item[at + 1 :]]
    return item


def _yaml_item(entry: Mapping[str, str | Sequence[str]], indent: str) -> list[str]:
    lines = _yaml(entry, f"{indent}  ")
    return [f"{indent}- {lines[0].lstrip()}", *lines[1:]]


def _yaml(values: Mapping[str, str | Sequence[str]], indent: str) -> list[str]:
    lines = []
    for key, value in values.items():
        if isinstance(value, str):
            lines.append(f"{indent}{key}: {_scalar(value)}")
        else:
            lines += [f"{indent}{key}:", *(f"{indent}  - {_scalar(one)}" for one in value)]
    return lines


def _scalar(text: str) -> str:
    """Quoted unless it can be nothing but a text."""
    is_plain = _PLAIN.fullmatch(text) and text.lower() not in ("true", "false", "null", "yes", "no", "on", "off")
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def _lines(text: str) -> tuple[list[str], str]:
    """The lines and what ends them."""
    ending = "\r\n" if "\r\n" in text else "\n"
    lines = text.split(ending)
    return lines if lines[-1] else lines[:-1], ending


def _joined(lines: list[str], ending: str) -> str:
    return ending.join(lines) + ending


# --- files ------------------------------------------------------------------------------------------------------------


def read(path: Path) -> str:
    """Its text, "" where there is none. Raises: CannotMerge for what is no text, OSError."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise CannotMerge("it is no UTF-8 text") from error


def write(path: Path, text: str) -> Path | None:
    """Put the text there, whole or not at all; the path of the former one, None if there was none. Raises: OSError."""
    path = path.resolve()  # a link, as people have them to files that they keep elsewhere, stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    backup = None
    mode = 0o644
    if path.exists():
        mode = path.stat().st_mode & 0o777
        backup = _free(path)
        _place(backup, path.read_bytes(), mode)
    _place(path, text.encode(), mode)
    return backup


def _free(path: Path) -> Path:
    count = 1
    while (backup := path.with_name(f"{path.name}.backup-{count}")).exists():
        count += 1
    return backup


def _place(path: Path, data: bytes, mode: int) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            file.write(data)
            file.flush()
            os.fsync(handle)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
