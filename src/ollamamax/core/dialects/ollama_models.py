"""Requests of Ollama's API that are about models: show, copy, delete, create, pull, push."""

from posixpath import isabs, normpath
from typing import Any, Final

from msgspec import Struct

from ollamamax.core.dialects.ollama import read_messages, read_options
from ollamamax.core.dialects.reading import Fields, decode_object
from ollamamax.core.errors import BadRequest, Unsupported
from ollamamax.core.options import parse_options
from ollamamax.core.types import CreateRequest, Options, TransferRequest

_CREATE: Final = frozenset(
    {
        "model",
        "name",
        "from",
        "remote_host",
        "files",
        "adapters",
        "draft_files",
        "template",
        "license",
        "system",
        "parameters",
        "messages",
        "renderer",
        "parser",
        "requires",
        "quantize",
        "quantization",
        "draft_quantize",
        "info",
        "stream",
    }
)
_UNSUPPORTED: Final = ("remote_host", "draft_files", "info")


class ShowRequest(Struct, frozen=True):
    """What /api/show asks. system and options only change the Modelfile that is shown."""

    model: str
    verbose: bool = False
    system: str | None = None
    options: Options = Options()


def show_request(body: bytes) -> ShowRequest:
    """A body of /api/show. Raises: BadRequest and its children."""
    known = frozenset({"model", "name", "verbose", "system", "options", "template"})
    fields = Fields(decode_object(body, "ShowRequest"), known, "ShowRequest.")
    return ShowRequest(
        model=_required_model(fields),
        verbose=bool(fields.flag("verbose")),
        system=fields.text("system") or None,
        options=read_options(fields),
    )


def copy_request(body: bytes) -> tuple[str, str]:
    """A body of /api/copy: source and destination as written. Raises: BadRequest."""
    fields = Fields(decode_object(body, "CopyRequest"), frozenset({"source", "destination"}), "CopyRequest.")
    return fields.text("source") or "", fields.text("destination") or ""


def delete_request(body: bytes) -> str:
    """A body of /api/delete: the model as written. Raises: BadRequest."""
    fields = Fields(decode_object(body, "DeleteRequest"), frozenset({"model", "name"}), "DeleteRequest.")
    return _required_model(fields)


def create_request(body: bytes) -> tuple[CreateRequest, bool]:
    """A body of /api/create, and whether progress is streamed. `requires`, a version of Ollama, is only kept.

    Raises: BadRequest and its children; Unsupported for what only Ollama's own engine code can do.
    """
    fields = Fields(decode_object(body, "CreateRequest"), _CREATE, "CreateRequest.")
    if fields.text("draft_quantize"):
        raise BadRequest("--draft-quantize requires a DRAFT model")
    for name in _UNSUPPORTED:
        if fields.any(name):
            raise Unsupported(f"creating a model with '{name}' is not supported")
    parameters = fields.object("parameters") or {}
    parse_options(parameters)
    request = CreateRequest(
        model=fields.text("model") or fields.text("name") or "",
        from_model=fields.text("from") or "",
        files=_files(fields, "files"),
        adapters=_files(fields, "adapters"),
        template=fields.text("template") or None,
        system=fields.text("system") or None,
        licenses=_licenses(fields.any("license"), fields),
        parameters=parameters,
        messages=read_messages(fields, "messages") or None,
        renderer=fields.text("renderer") or None,
        parser=fields.text("parser") or None,
        requires=fields.text("requires") or None,
        quantize=fields.text("quantize") or fields.text("quantization") or "",
    )
    return request, fields.flag("stream") is not False


def pull_request(body: bytes) -> tuple[TransferRequest, bool]:
    """A body of /api/pull, and whether progress is streamed. Raises: BadRequest."""
    return _transfer_request(body, "PullRequest")


def push_request(body: bytes) -> tuple[TransferRequest, bool]:
    """A body of /api/push, and whether progress is streamed. Raises: BadRequest."""
    request, streamed = _transfer_request(body, "PushRequest")
    if not request.model:
        raise BadRequest("model is required")
    return request, streamed


def _transfer_request(body: bytes, struct: str) -> tuple[TransferRequest, bool]:
    known = frozenset({"model", "name", "insecure", "username", "password", "stream"})
    fields = Fields(decode_object(body, struct), known, f"{struct}.")
    model = fields.text("model") or fields.text("name") or ""
    return TransferRequest(model, bool(fields.flag("insecure"))), fields.flag("stream") is not False


def _required_model(fields: Fields) -> str:
    model = fields.text("model") or fields.text("name")
    if not model:
        raise BadRequest("model is required")
    return model


def _files(fields: Fields, name: str) -> dict[str, str]:
    files = fields.object(name, "map[string]string") or {}
    for path, digest in files.items():
        if not isinstance(digest, str):
            raise fields.wrong(name, digest, "string")
        if not path or isabs(path) or "\\" in path or normpath(path) != path or path.split("/")[0] in ("..", "."):
            raise BadRequest("file path must be relative")
        if not digest:
            raise BadRequest("invalid digest format")
    return files


def _licenses(value: Any, fields: Fields) -> tuple[str, ...]:
    match value:
        case None | "":
            return ()
        case str():
            return (value,)
        case list() if all(isinstance(item, str) for item in value):
            return tuple(value)
    raise fields.wrong("license", value, "string")
