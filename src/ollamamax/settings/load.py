"""Reading settings: defaults < file < environment < flags. Values that are overridden are checked too."""

import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import TypeAdapter, ValidationError

from ollamamax.core.errors import SettingsError
from ollamamax.settings.knobs import HIDDEN, Knob
from ollamamax.settings.tree import Settings, fields, knobs
from ollamamax.settings.values import ollama_flag, parse_endpoint, seconds_or_duration_ms

PREFIX: Final = "OLLAMAMAX_"
FILE_NAME: Final = "config.toml"
_PATHS: Final = ("home", "models")


@dataclass(frozen=True)
class Source:
    """A value that holds, and where it comes from: "default", a file's path, "environment X" or "flag --x"."""

    value: Any
    origin: str


@dataclass(frozen=True)
class Loaded:
    """The settings, and per dotted key its value and origin, in the order of the tree."""

    settings: Settings
    sources: Mapping[str, Source]


@dataclass(frozen=True)
class _Given:
    """One value as somebody wrote it. base: the directory that relative paths start from."""

    key: str
    raw: Any
    origin: str
    base: Path


def default_home(environ: Mapping[str, str]) -> Path:
    """The home where neither the file nor a flag says another: $OLLAMAMAX_HOME or ~/.ollamamax."""
    user_home = _user_home(environ)
    said = environ.get(PREFIX + "HOME", "").strip()
    return _path(said, Path.cwd(), user_home) if said else user_home / ".ollamamax"


def load(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    *,
    config: Path | None = None,
    terminal: bool | None = None,
) -> Loaded:
    """Read all sources and check all of them.

    flags: by dotted key; None is not given.  config: the file; without it $OLLAMAMAX_HOME/config.toml, if there is one.
    terminal: whether standard error is one (None: look), for the default of log.format.

    Raises: SettingsError that names every unknown key and bad value, its source and what is allowed.
    """
    user_home = _user_home(environ)
    problems: list[str] = []
    given = [
        *_from_file(flags, environ, config, problems),
        *_from_ollama(environ, problems),
        *_from_environment(environ, problems),
        *_from_flags(flags, problems),
    ]
    sources: dict[str, Source] = {}
    for item in given:
        try:
            sources[item.key] = Source(_checked(item, user_home), item.origin)
        except ValueError as error:
            problems.append(_bad_value(item.key, item.raw, item.origin, error))
    if problems:
        raise SettingsError("\n".join(problems))
    tty = sys.stderr.isatty() if terminal is None else terminal
    return _complete(sources, environ, tty)


def _complete(sources: dict[str, Source], environ: Mapping[str, str], terminal: bool) -> Loaded:
    """Add the defaults, those that depend on the machine first."""
    home = sources.setdefault("home", Source(default_home(environ), "default"))
    ollama = _user_home(environ) / ".ollama" / "models"
    sources.setdefault("models", Source(ollama if ollama.is_dir() else home.value / "models", "default"))
    sources.setdefault("log.format", Source("console" if terminal else "json", "default"))
    settings = Settings.of({key: source.value for key, source in sources.items()})
    complete = {key: sources.get(key) or Source(field.default, "default") for key, field in fields()}
    return Loaded(settings, MappingProxyType(complete))


def _from_file(
    flags: Mapping[str, Any], environ: Mapping[str, str], config: Path | None, problems: list[str]
) -> Iterator[_Given]:
    """The file's values; unknown keys become problems. Raises: SettingsError for a file that can't be read."""
    said = flags.get("home")
    home = _path(str(said), Path.cwd(), _user_home(environ)) if said else default_home(environ)
    path = config if config is not None else home / FILE_NAME
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if config is not None:
            raise SettingsError(f"the settings file {path} (flag --config) does not exist") from None
        return
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"can't read the settings file {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from error
    for key, raw in _leaves(table):
        if key in _sections():
            problems.append(f"{key} = {raw!r} ({path}): {key} is a section; write its keys below [{key}]")
        elif key not in knobs():
            problems.append(unknown_key("key", key, str(path), list(knobs())))
        elif key == "home" and config is None:
            problems.append(f"home can't be set in {path}, which lies in it; use OLLAMAMAX_HOME, --home or --config")
        else:
            yield _Given(key, raw, str(path), path.absolute().parent)


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of nested tables. What stands at a key of ours is a value, whatever its type."""
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and (value or key in _sections()) and key not in knobs():
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _sections() -> set[str]:
    return {key.partition(".")[0] for key in knobs() if "." in key}


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> Iterator[_Given]:
    """The OLLAMAMAX_ variables; empty ones are not given."""
    names = {knob.variable: key for key, knob in knobs().items()}
    for name in sorted(name for name in environ if name.startswith(PREFIX)):
        if name not in names:
            problems.append(unknown_key("variable", name, "the environment", list(names)))
        elif raw := environ[name].strip():
            yield _Given(names[name], raw, f"environment {name}", Path.cwd())


def _from_flags(flags: Mapping[str, Any], problems: list[str]) -> Iterator[_Given]:
    for key, raw in flags.items():
        if key not in knobs():
            problems.append(unknown_key("key", key, "flag --set", list(knobs())))
        elif raw is not None:
            yield _Given(key, raw, f"flag {_flag(knobs()[key])}", Path.cwd())


def _flag(knob: Knob) -> str:
    return knob.flag or f"--set {knob.key}"


def _from_ollama(environ: Mapping[str, str], problems: list[str]) -> Iterator[_Given]:
    """Ollama's variables that mean the same here; trimmed of spaces and quotes as Ollama does, empty ones not given."""
    for name, read in _OLLAMA.items():
        raw = environ.get(name, "").strip().strip("\"'").strip()
        if not raw:
            continue
        try:
            values = read(raw)
        except ValueError as error:
            keys = " and ".join(key for key, knob in knobs().items() if knob.ollama == name)
            problems.append(_bad_value(keys, raw, f"environment {name}", error))
            continue
        for key, value in values.items():
            yield _Given(key, value, f"environment {name}", Path.cwd())


def _host(raw: str) -> dict[str, Any]:
    endpoint = parse_endpoint(raw)
    return {"listen.host": endpoint.host, "listen.port": endpoint.port}


def _load_timeout(raw: str) -> dict[str, Any]:
    return {"engine.load_timeout_s": max(0.0, seconds_or_duration_ms(raw) / 1000)}  # nought and less: no limit


def _flash_attention(raw: str) -> dict[str, Any]:
    mode = raw if raw == "auto" else "on" if ollama_flag(raw) else "off"
    return {"engine.flash_attention": mode}


def _debug(raw: str) -> dict[str, Any]:
    return {"log.level": "debug"} if ollama_flag(raw) else {}


def _same(key: str) -> Callable[[str], dict[str, Any]]:
    return lambda raw: {key: raw}


_OLLAMA: Final[Mapping[str, Callable[[str], dict[str, Any]]]] = {
    "OLLAMA_HOST": _host,
    "OLLAMA_MODELS": _same("models"),
    "OLLAMA_KEEP_ALIVE": _same("engine.keep_alive"),
    "OLLAMA_MAX_LOADED_MODELS": _same("engine.max_loaded_models"),
    "OLLAMA_NUM_PARALLEL": _same("engine.num_parallel"),
    "OLLAMA_MAX_QUEUE": _same("queue.max_queue"),
    "OLLAMA_CONTEXT_LENGTH": _same("engine.context_length"),
    "OLLAMA_LOAD_TIMEOUT": _load_timeout,
    "OLLAMA_ORIGINS": _same("listen.origins"),
    "OLLAMA_NOPRUNE": lambda raw: {"engine.noprune": ollama_flag(raw)},
    "OLLAMA_KV_CACHE_TYPE": lambda raw: {"engine.kv_cache_type": raw.lower()},
    "OLLAMA_FLASH_ATTENTION": _flash_attention,
    "OLLAMA_GPU_OVERHEAD": _same("engine.gpu_overhead_bytes"),
    "OLLAMA_DEBUG": _debug,
}


@cache
def _adapters() -> dict[str, TypeAdapter[Any]]:
    """A checker per key, of the type and limits that the tree gives it."""
    shapes: dict[str, Any] = {key: Annotated[field.annotation, field] for key, field in fields()}
    return {key: TypeAdapter(shape) for key, shape in shapes.items()}


def _checked(item: _Given, user_home: Path) -> Any:
    """The value in its type. Raises: ValueError."""
    if item.key in _PATHS:
        if not isinstance(item.raw, str | os.PathLike) or not str(item.raw):
            raise ValueError("should be a path")
        return _path(str(item.raw), item.base, user_home)
    return _adapters()[item.key].validate_python(item.raw)


def checked_value(key: str, text: str, origin: str) -> Any:
    """The value of a known key, in its type, from how people write it. Raises: SettingsError."""
    try:
        return _checked(_Given(key, text, origin, Path.cwd()), Path.home())
    except ValueError as error:
        raise SettingsError(_bad_value(key, text, origin, error)) from None


def _user_home(environ: Mapping[str, str]) -> Path:
    said = environ.get("HOME", "")
    return Path(said) if said else Path.home()


def _path(text: str, base: Path, user_home: Path) -> Path:
    """Absolute; ~ is the user's home."""
    if text == "~" or text.startswith("~/"):
        return user_home / text[2:]
    return base / text


def _bad_value(key: str, raw: Any, origin: str, error: ValueError) -> str:
    known = knobs().get(key)
    shown = HIDDEN if known is not None and known.is_secret else repr(raw)
    if isinstance(error, ValidationError):
        reason = "; ".join(dict.fromkeys(detail["msg"] for detail in error.errors()))
        reason = reason.replace("Value error, ", "").replace("Input should", "should")
    else:
        reason = str(error)
    return f"{key} = {shown} ({origin}): {reason}"


def unknown_key(what: str, name: str, where: str, known: list[str]) -> str:
    """The message about a name that nobody knows, with the nearest that is known."""
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return f"unknown {what} {name} ({where}); {hint}"
