"""Files named in a prompt: pictures and sounds go along with it."""

import base64
import re
from pathlib import Path

from ollamamax.cli.errors import CliError

_NAMED = re.compile(
    r"(?:\"([^\"]+\.(?:{0}))\"|'([^']+\.(?:{0}))'|((?:\\ |\S)+\.(?:{0})))(?!\S)".format("jpe?g|png|webp|wav"),
    re.IGNORECASE,
)
_LIMIT_BYTES = 100 << 20


def extract(text: str) -> tuple[str, list[str]]:
    """(the text without the files that exist, their content in base64). Raises: CliError for one that can't be read."""
    found: list[str] = []

    def take(match: re.Match[str]) -> str:
        name = next(group for group in match.groups() if group is not None)
        path = Path(name.replace("\\ ", " ")).expanduser()
        if not path.is_file():
            return match.group()
        found.append(_encoded(path))
        return ""

    return _NAMED.sub(take, text).strip(), found


def _encoded(path: Path) -> str:
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            raise CliError(f"{path} is larger than 100 MB")
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise CliError(f"can't read {path}: {error.strerror}") from error
