"""The grammar of what the cluster's records hold: ids, names, addresses, labels.

::

    id        = 16 hex                                    of a node, a cluster, a join token
    hash      = 64 hex                                    a sha256
    hex       = "0".."9" | "a".."f"
    name      = alnum [ { alnum | "-" } alnum ]           1 to 63, a DNS label (RFC 1123); not of the form of an id
    alnum     = "a".."z" | "0".."9"
    address   = host ":" port | "[" v6 "]" ":" port       the port may be missing where a default is given
    host      = IPv4 | label { "." label }                1 to 253; kept in lower case; the last label is no number
    port      = 0 .. 65535
    key       = alnum [ { alnum | "." | "_" | "/" | "-" } alnum ]         1 to 63
    value     = "" | ALNUM [ { ALNUM | "." | "_" | "-" } ALNUM ]          up to 63; any case
    setting   = word { "." word }                         1 to 128; word = "a".."z" [ { alnum | "_" } ]
    line      = printable text, spaces too                up to 1024 the value of a setting, 128 who changed one

A name is never of the form of an id, so that what a person types means one node. An IPv6 address with a zone
("%eth0") means something on one machine only and is refused. Addresses are stored in one spelling: numbers without
leading zeros, IPv6 as RFC 5952 has it, an IPv4 address in IPv6's clothes as IPv4.
"""

import re
import unicodedata
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from ollamamax.core.errors import BadRequest

MAX_ADDRESSES: Final = 8
MAX_LABELS: Final = 64
MAX_NAME_CHARS: Final = 63
MAX_REPLICAS: Final = 1_000
"""Of one model; so there are no more pins either."""
MAX_IDLE_MS: Final = 30 * 86_400_000
MAX_WHY: Final = 64
MAX_WHY_CHARS: Final = 400
MAX_VOTERS: Final = 7
MAX_HOSTS: Final = 100
MAX_ENDPOINTS: Final = 16
MAX_SETTINGS_BYTES: Final = 64 << 10
"""Of one version, as it is stored."""
MAX_SETTING_CHARS: Final = 1_024
MAX_AUTHOR_CHARS: Final = 128
_SHOWN_CHARS: Final = 80

_ID: Final = re.compile(r"[0-9a-f]{16}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*")
_ADDRESS: Final = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<host>[^\[\]:]*))(?::(?P<port>[0-9]{1,5}))?")
_LABEL_KEY: Final = re.compile(r"[a-z0-9](?:[a-z0-9._/-]{0,61}[a-z0-9])?")
_LABEL_VALUE: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_SETTING: Final = re.compile(r"(?=.{1,128}\Z)[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*")
_VERSION: Final = re.compile(r"[0-9A-Za-z.+!_-]{1,64}")
_INSTANCE: Final = re.compile(r"[0-9A-Za-z._-]{1,64}")
_MODEL: Final = re.compile(r"[a-z0-9_][a-z0-9_.:/-]{0,596}:[a-z0-9_][a-z0-9_.-]{0,79}")


def shown(text: str) -> str:
    """A text of a stranger as an error may quote it: in quotes, escaped, cut after 80 characters."""
    return ascii(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")


def _matched(grammar: re.Pattern[str], text: str, thing: str, remedy: str) -> str:
    if grammar.fullmatch(text) is None:
        raise BadRequest(f"{shown(text)} is no {thing}: {remedy}")
    return text


def node_id(text: str) -> str:
    """The id of a node, checked. Raises: BadRequest."""
    return _matched(_ID, text, "node id", "16 hex digits (0-9, a-f)")


def cluster_id(text: str) -> str:
    """The id of a cluster, checked. Raises: BadRequest."""
    return _matched(_ID, text, "cluster id", "16 hex digits (0-9, a-f)")


def token_id(text: str) -> str:
    """The id of a join token, checked. Raises: BadRequest."""
    return _matched(_ID, text, "join token's id", "16 hex digits (0-9, a-f)")


def sha256_hex(text: str) -> str:
    """A sha256 in hex, checked. Raises: BadRequest."""
    return _matched(_HASH, text, "sha256", "64 hex digits (0-9, a-f)")


def node_name(text: str) -> str:
    """The name of a node, checked. Raises: BadRequest."""
    _matched(_NAME, text, "node name", "1 to 63 of a-z, 0-9 and -, first and last not a -")
    if _ID.fullmatch(text):
        raise BadRequest(f"{shown(text)} is no node name: 16 hex digits are a node's id; add another character")
    return text


def default_name(hostname: str) -> str:
    """A node name for a machine of that name, whatever it looks like: the first label, accents dropped; or "node"."""
    first = hostname[:255].partition(".")[0]
    ascii_only = unicodedata.normalize("NFKD", first).encode("ascii", "ignore").decode("ascii").lower()
    name = re.sub(r"[^a-z0-9]+", "-", ascii_only)[:MAX_NAME_CHARS].strip("-")
    return f"node-{name}" if _ID.fullmatch(name) else name or "node"


def cluster_name(text: str) -> str:
    """The name of a cluster, checked: 1 to 63 printable characters. Raises: BadRequest."""
    if not (0 < len(text) <= MAX_NAME_CHARS and text.isprintable()):
        raise BadRequest(f"{shown(text)} is no cluster name: 1 to 63 printable characters")
    return text


def version(text: str) -> str:
    """The version of a program, checked. Raises: BadRequest."""
    return _matched(_VERSION, text, "version", "1 to 64 letters, digits and .+!_-")


def instance(text: str) -> str:
    """What a node drew at its start, checked. Raises: BadRequest."""
    return _matched(_INSTANCE, text, "instance", "1 to 64 letters, digits and ._-")


def model_key(name: str) -> str:
    """What the catalog files a model under, from its short name with its tag: as ModelName.key has it.

    Raises: BadRequest.
    """
    return _matched(_MODEL, name.lower(), "name of a model in the catalog", "give its short name with its tag")


def label_key(text: str) -> str:
    """The key of a label, checked. Raises: BadRequest."""
    return _matched(_LABEL_KEY, text, "label key", "1 to 63 of a-z, 0-9 and ._/-, first and last of a-z, 0-9")


def label_value(text: str) -> str:
    """The value of a label, checked; it may be empty. Raises: BadRequest."""
    return _matched(
        _LABEL_VALUE, text, "label value", "up to 63 letters, digits and ._-, first and last a letter or digit"
    )


def labels(texts: dict[str, str]) -> dict[str, str]:
    """Labels by key, of a node or to choose nodes by, checked. Raises: BadRequest."""
    if len(texts) > MAX_LABELS:
        raise BadRequest(f"there are {MAX_LABELS} labels at most, not {len(texts)}")
    for key, value in texts.items():
        label_key(key)
        label_value(value)
    return texts


def setting(text: str) -> str:
    """The key of a setting, checked for its form; which ones there are, others know. Raises: BadRequest."""
    return _matched(_SETTING, text, "setting", "words of a-z, 0-9 and _ with dots between, as in routing.policy")


def setting_value(text: str) -> str:
    """The value of a setting as text, checked; it may be empty. Raises: BadRequest."""
    return _line(text, "value of a setting", MAX_SETTING_CHARS)


def author(text: str) -> str:
    """Who changed something, for people, checked; it may be empty. Raises: BadRequest."""
    return _line(text, "name of who changes settings", MAX_AUTHOR_CHARS)


def _line(text: str, thing: str, most: int) -> str:
    if len(text) > most or not text.isprintable():
        raise BadRequest(f"{shown(text)} is no {thing}: up to {most} printable characters on one line")
    return text


def address(text: str, default_port: int) -> str:
    """`host:port` or `[v6]:port` in its one spelling; a bare host gets the default port. Raises: BadRequest.

    For listening too: port 0 and the wildcards 0.0.0.0 and [::] are understood.
    """
    host, port = _parsed(text, default_port)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def peer_address(text: str) -> str:
    """An address under which others find a node, in its one spelling: no port 0, no wildcard. Raises: BadRequest."""
    host, port = split_address(text)
    if port == 0 or host in ("0.0.0.0", "::"):
        raise BadRequest(
            f"{shown(text)} can't be called by other nodes: give the host and the port where it is reached"
        )
    return address(text, port)


def split_address(text: str) -> tuple[str, int]:
    """Host (an IPv6 one without brackets) and port of an address. Raises: BadRequest, also if the port is missing."""
    return _parsed(text, None)


def _parsed(text: str, default_port: int | None) -> tuple[str, int]:
    if text.count(":") > 1 and "[" not in text:
        if default_port is None:
            raise _bad_address(text, "an IPv6 address with a port stands in brackets: [::1]:11435")
        return _v6(text, text), default_port
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise _bad_address(text, "write host:port or [v6]:port")
    port = int(match["port"]) if match["port"] else default_port
    if port is None:
        raise _bad_address(text, "the port is missing: write host:port")
    if port > 65_535:
        raise _bad_address(text, "a port is at most 65535")
    return (_host(match["host"], text) if match["v6"] is None else _v6(match["v6"], text)), port


def _v6(host: str, text: str) -> str:
    if "%" in host:
        raise _bad_address(text, "a zone (%) means something on one machine only; give an address that all can reach")
    try:
        parsed = IPv6Address(host)
    except AddressValueError:
        raise _bad_address(text, "that is no IPv6 address") from None
    return str(parsed.ipv4_mapped or parsed)


def _host(host: str, text: str) -> str:
    lower = host.lower()
    if len(lower) > 253 or _HOST.fullmatch(lower) is None:
        raise _bad_address(text, "a host is an IP address or a name of letters, digits, - and .")
    if not lower.rpartition(".")[2].isdigit():
        return lower
    try:
        return str(IPv4Address(lower))
    except AddressValueError:
        raise _bad_address(text, "that is no IPv4 address") from None


def _bad_address(text: str, cause: str) -> BadRequest:
    return BadRequest(f"{shown(text)} is no address: {cause}")
