"""The grammar of model names.

::

    name      = [ [ [ scheme "://" ] host "/" ] namespace "/" ] model [ ":" tag ]
    scheme    = "http" | "https"                              any case; not kept
    host      = first { first | "-" | "." | ":" }             1 to 350 bytes; default registry.ollama.ai
    namespace = first { first | "-" }                         1 to 80 bytes;  default library
    model     = first { first | "-" | "." }                   1 to 80 bytes
    tag       = first { first | "-" | "." }                   1 to 80 bytes;  default latest
    first     = "A".."Z" | "a".."z" | "0".."9" | "_"

It is read from the right: the tag follows the last ":" if that stands behind the last "/". No part can be empty,
start with a dot or hold a "/", so the four parts are safe as a path. Casing is kept and never compared.
Source: Ollama `types/model/name.go`.
"""

import re
from typing import Final

from ollamamax.core.errors import InvalidName
from ollamamax.core.types import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName

_GRAMMAR: Final = re.compile(
    r"""(?: (?: (?P<host>[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}) / )?
            (?P<namespace>[A-Za-z0-9_][A-Za-z0-9_-]{0,79}) / )?
        (?P<model>[A-Za-z0-9_][A-Za-z0-9_.-]{0,79})
        (?: : (?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}) )?""",
    re.VERBOSE | re.ASCII,
)
_SCHEME: Final = re.compile(r"https?://", re.IGNORECASE | re.ASCII)


def parse(text: str) -> ModelName:
    """The four parts of a name, defaults filled in. Raises: InvalidName (`invalid model name`)."""
    scheme = _SCHEME.match(text)
    bare = text[scheme.end() :] if scheme else text
    match = _GRAMMAR.fullmatch(bare)
    if match is None or (scheme and match["host"] is None):
        raise InvalidName("invalid model name")
    return ModelName(
        host=match["host"] or DEFAULT_HOST,
        namespace=match["namespace"] or DEFAULT_NAMESPACE,
        model=match["model"],
        tag=match["tag"] or DEFAULT_TAG,
    )


def key(text: str) -> str:
    """What routing compares: the parsed short name in lower case.

    Other servers offer ids outside the grammar ("meta-llama/Llama 3"): those are their own lower-cased text.
    """
    try:
        return parse(text).key
    except InvalidName:
        return text.lower()


def manifest_parts(name: ModelName) -> tuple[str, str, str, str]:
    """Directories and file of the manifest below `manifests/`: host, namespace, model, tag."""
    return name.host, name.namespace, name.model, name.tag
