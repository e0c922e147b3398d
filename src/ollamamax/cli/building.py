"""From a Modelfile to what /api/create wants: which files to send, and the request."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from ollamamax.cli.client import Client
from ollamamax.cli.errors import CliError
from ollamamax.cli.progress import ProgressView
from ollamamax.core.errors import OllamaMaxError
from ollamamax.core.modelspec import hf_model, split_gguf
from ollamamax.core.modelspec.modelfile import Modelfile, parse

_MAGIC: Final = b"GGUF"
_ADAPTER: Final = "adapter"
_CONVERT_ADAPTER: Final = "llama.cpp's convert_lora_to_gguf.py"
_PIECE_BYTES: Final = 1 << 20


@dataclass
class Plan:
    """What a Modelfile asks for. files, adapters: by the name under which the server gets to know them."""

    modelfile: Modelfile
    from_model: str = ""
    files: dict[str, Path] = field(default_factory=dict)
    adapters: dict[str, Path] = field(default_factory=dict)


def read_plan(path: Path | None) -> Plan:
    """Read a Modelfile and find its files. None: ./Modelfile, or without it the model files of this directory.

    Raises: CliError that names the Modelfile and what is wrong with it.
    """
    source = path or Path("Modelfile")
    if path is None and not source.exists():
        text: bytes | str = "FROM ."
    else:
        try:
            text = source.read_bytes()
        except OSError as error:
            raise CliError(f"can't read the Modelfile {source}: {error.strerror}") from error
    try:
        modelfile = parse(text)
    except OllamaMaxError as error:
        raise CliError(f"{source}: {error}") from error
    if modelfile.drafts:
        raise CliError(f"{source}: DRAFT models are not supported; remove the line")
    plan = Plan(modelfile)
    for value in modelfile.sources:
        found = _find(value, source.parent, "FROM")
        if not found:
            plan.from_model = value
        _add(plan.files, found)
    for value in modelfile.adapters:
        found = _find(value, source.parent, "ADAPTER")
        if not found:
            raise CliError(f"ADAPTER {value}: no such file")
        _add(plan.adapters, found)
    return plan


def _add(known: dict[str, Path], found: list[Path]) -> None:
    for path in found:
        if known.setdefault(path.name, path) != path:
            raise CliError(f"{known[path.name]} and {path} have the same name; rename one of them")


def _find(value: str, folder: Path, word: str) -> list[Path]:
    """The files that a value means; none if it is the name of a model. Relative paths start at the Modelfile.

    A directory means its GGUF files, or else all that describes a model in safetensors; a part of a GGUF means all.
    """
    path = folder / Path(value).expanduser()
    if path.is_dir():
        found = sorted(path.glob("*.gguf"))
        if not found and any(path.glob("*.safetensors")):
            return _safetensors(path, f"{word} {value}")
        if not found:
            raise CliError(f"{word} {value}: no .gguf or .safetensors file in {path.absolute()}")
    elif path.is_file():
        found = [path.with_name(name) for name in split_gguf.siblings(path.name)]
    elif value.startswith((".", "/", "~")) or value.lower().endswith(".gguf"):
        raise CliError(f"{word} {value}: no such file (looked for {path.absolute()})")
    else:
        found = []
    if absent := split_gguf.missing(file.name for file in found if file.exists()):
        raise CliError(f"{word} {value}: parts of it are missing in {path.absolute().parent}: {', '.join(absent)}")
    for file in found:
        _check(file)
    return found


def _safetensors(folder: Path, line: str) -> list[Path]:
    """The weights of a directory and what describes them. line: of the Modelfile. Raises: CliError."""
    weights = hf_model.weights_among(sorted(path.name for path in folder.glob("*.safetensors")))
    if any(name.startswith(_ADAPTER) for name in weights):
        raise CliError(f"{line}: an adapter in safetensors must be converted to GGUF first ({_CONVERT_ADAPTER})")
    texts = [name for name in hf_model.READ if (folder / name).is_file()]
    if hf_model.CONFIG not in texts:
        raise CliError(f"{line}: {hf_model.CONFIG} is missing beside the safetensors in {folder.absolute()}")
    return [folder / name for name in [*weights, *texts]]


def _check(path: Path) -> None:
    """Refuse what is plainly no GGUF before gigabytes of it are sent."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as error:
        raise CliError(f"can't read {path}: {error.strerror}") from error
    if start != _MAGIC:
        hint = "; name its directory, which describes the model" if path.suffix == ".safetensors" else ""
        raise CliError(f"{path} is not a GGUF file{hint}")


def create(client: Client, model: str, plan: Plan, *, quantize: str, view: ProgressView) -> dict[str, Any]:
    """Send the files that the server lacks, then create; the last progress object. Raises: CliError."""
    body = request(model, plan.modelfile, quantize)
    if plan.from_model:
        body["from"] = plan.from_model
    for key, paths in (("files", plan.files), ("adapters", plan.adapters)):
        if paths:
            body[key] = {name: _send(client, path, view) for name, path in paths.items()}
    last: dict[str, Any] = {}
    for last in client.stream("/api/create", body):
        view.report(last)
    if last.get("status") != "success":
        raise CliError("the node broke off before the model was made; nothing was changed")
    return last


def request(model: str, modelfile: Modelfile, quantize: str) -> dict[str, Any]:
    """The body of /api/create, without from and files."""
    said: dict[str, Any] = {
        "quantize": quantize,
        "parameters": modelfile.parameters,
        "license": list(modelfile.licenses),
        "messages": [{"role": message.role, "content": message.content} for message in modelfile.messages],
        "renderer": modelfile.renderer,
        "parser": modelfile.parser,
        "requires": modelfile.requires,
    }
    texts = {"template": modelfile.template, "system": modelfile.system}  # an empty one clears the base's
    return (
        {"model": model}
        | {key: value for key, value in said.items() if value}
        | {key: text for key, text in texts.items() if text is not None}
    )


def _send(client: Client, path: Path, view: ProgressView) -> str:
    """The digest of a file that the server then has."""
    try:
        size_bytes = path.stat().st_size
        state = sha256()
        for piece in _pieces(path, size_bytes, view.bar(f"hashing {path.name}", size_bytes)):
            state.update(piece)
        digest = f"sha256:{state.hexdigest()}"
        if not client.has_blob(digest):
            advance = view.bar(f"sending {path.name}", size_bytes)
            client.upload(digest, size_bytes, _pieces(path, size_bytes, advance))
    except OSError as error:
        raise CliError(f"can't read {path}: {error.strerror}") from error
    return digest


def _pieces(path: Path, size_bytes: int, advance: Callable[[int], None]) -> Iterator[bytes]:
    """A file's content; tells how much was taken. Raises: CliError if it is no longer of that size."""
    left = size_bytes
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            left -= len(piece)
            if left < 0:
                break
            yield piece
            advance(len(piece))
    if left:
        raise CliError(f"{path} changed while it was read; try again when it is complete")
