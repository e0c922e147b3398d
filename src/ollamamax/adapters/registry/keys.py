"""The key by which Ollama's registry knows a person: `~/.ollama/id_ed25519`, as `ollama serve` makes it.

It is only read. Pulling public models needs none; whoever has an account has made one.
"""

import base64
import hashlib
from pathlib import Path
from typing import Final

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

_LOG: Final = structlog.get_logger(__name__)
_NOTHING: Final = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
"""What stands for an empty body in what is signed."""


class KeyFile:
    """An OpenSSH private key without a password. All methods block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def authorization(self, url: str) -> str:
        """The Authorization header of a GET of that URL; "" without a usable key."""
        key = self._key()
        if key is None:
            return ""
        _, public, *_ = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode().split(" ")
        signature = base64.b64encode(key.sign(f"GET,{url},{_NOTHING}".encode())).decode()
        return f"{public}:{signature}"

    def _key(self) -> Ed25519PrivateKey | None:
        try:
            key = load_ssh_private_key(self._path.read_bytes(), password=None)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a password
            _LOG.warning("the key for registries can't be used", path=str(self._path), reason=str(error))
            return None
        if not isinstance(key, Ed25519PrivateKey):
            _LOG.warning("the key for registries is of another kind than ed25519", path=str(self._path))
            return None
        return key
