"""Forms with files: `multipart/form-data`, as browsers and OpenAI's clients send it.

Source: RFC 7578; RFC 2046, section 5.1 (boundaries). Deliberate limits: no nested parts, no transfer encodings (both
are deprecated); of fields with the same name the last one counts.
"""

import re
from typing import Final

from ollamamax.core.errors import BadRequest

_TYPE: Final = re.compile(r"\s*multipart/form-data\s*;", re.IGNORECASE)
_BOUNDARY: Final = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_NAME: Final = re.compile(rb'^content-disposition:[^\r\n]*?;[ \t]*name="([^"\r\n]*)"', re.IGNORECASE | re.MULTILINE)


def form_fields(body: bytes, content_type: str) -> dict[str, bytes]:
    """The fields and files of a form by name. Raises: BadRequest."""
    boundary = _BOUNDARY.search(content_type)
    if not _TYPE.match(content_type):
        raise _broken("request Content-Type isn't multipart/form-data")
    if boundary is None:
        raise _broken("no multipart boundary param in Content-Type")
    mark = b"\r\n--" + (boundary[1] or boundary[2]).encode()
    _, *parts = (b"\r\n" + body).split(mark)
    if not parts or not parts[-1].startswith(b"--"):
        raise _broken("unexpected EOF")
    fields = {}
    for part in parts[:-1]:
        head, blank, content = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if not blank or name is None:
            raise _broken("a part has no name")
        fields[name[1].decode("utf-8", "replace")] = content
    return fields


def _broken(why: str) -> BadRequest:
    return BadRequest(f"failed to parse multipart form: {why}")
