"""The API as the commands see it: a synchronous HTTP client whose errors are sentences."""

import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import httpx

from ollamamax.cli.errors import CliError, Unreachable
from ollamamax.core.errors import SettingsError
from ollamamax.settings import default_home, load
from ollamamax.settings.values import Endpoint, parse_endpoint

T = TypeVar("T")

_CONNECT_S = 5.0
_ANSWER_S = 60.0
_LOOPBACK = ("127.", "::1", "localhost")
_NO_SUCH_PAGE = "404 page not found"


def target(environ: Mapping[str, str]) -> str:
    """The server's base URL: OLLAMA_HOST, else where the settings say that a node of this user listens.

    Raises: CliError for an OLLAMA_HOST or settings that can't be used.
    """
    try:
        if said := environ.get("OLLAMA_HOST", "").strip():
            return parse_endpoint(said).url
        listen = load({}, environ).settings.listen
    except ValueError as error:
        raise CliError(f"OLLAMA_HOST={said!r}: {error}", exit_code=2) from error
    except SettingsError as error:
        raise CliError(str(error), exit_code=2) from error
    return Endpoint("http", listen.host, listen.port).url


def connect() -> "Client":
    """The client of this process's environment. Raises: CliError."""
    return Client(target(os.environ))


def ask_node(ask: Callable[["Client"], T]) -> T | None:
    """What the node says; None if none runs on this machine. Raises: CliError, also where OLLAMA_HOST names another."""
    with connect() as client:
        try:
            return ask(client)
        except Unreachable:
            if os.environ.get("OLLAMA_HOST", "").strip() and not _is_loopback(client.url):
                raise
            return None


def history_home() -> str:
    """Where the prompt's history is kept."""
    return str(default_home(os.environ))


class Client:
    """One server. All methods raise CliError with the server's own words, or with how to start one."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        # A proxy from the environment must not stand between a person and their own machine.
        local = _is_loopback(url)
        self._http = httpx.Client(
            base_url=self.url, timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S), trust_env=not local
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        """The decoded answer."""
        return self._decoded(self._send("GET", path))

    def data(self, path: str) -> bytes:
        """The bytes of a file."""
        return self._send("GET", path).content

    def text(self, path: str) -> str:
        """The answer as it came."""
        return self._send("GET", path).text

    def post(self, path: str, body: Mapping[str, Any], *, patient: bool = False) -> Any:
        """The decoded answer, None if it is empty. patient: no limit, for what may load a model first."""
        return self._decoded(self._send("POST", path, body, patient=patient))

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """The decoded answer."""
        return self._decoded(self._send("PATCH", path, body))

    def put(self, path: str, body: Mapping[str, Any]) -> Any:
        """The decoded answer."""
        return self._decoded(self._send("PUT", path, body))

    def delete(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The decoded answer, None if it is empty."""
        return self._decoded(self._send("DELETE", path, body))

    def stream(
        self, path: str, body: Mapping[str, Any] | None = None, *, method: str = ""
    ) -> Generator[dict[str, Any], None, None]:
        """The objects of an NDJSON answer as they come; an error line raises. Close it to cancel the request.

        body: of a POST; without it a GET, unless `method` says otherwise.
        """
        method, content = (method or "GET", None) if body is None else ("POST", dict(body))
        # No read limit: the server has deadlines of its own, and a person has Ctrl-C.
        with self._translated(), self._http.stream(method, path, json=content, timeout=_patient()) as response:
            if response.is_error:
                response.read()
                raise self._refused(response)
            for line in _lines(response.iter_bytes()):
                item = _object(line)
                if "error" in item:
                    raise CliError(str(item["error"]))
                yield item

    def has_blob(self, digest: str) -> bool:
        """Whether the server has it already."""
        with self._translated():
            response = self._http.head(f"/api/blobs/{digest}")
        if response.status_code not in (200, 404):
            raise self._refused(response)
        return response.status_code == 200

    def upload(self, digest: str, size_bytes: int, body: Iterator[bytes]) -> None:
        """Send a blob of that size."""
        with self._translated():
            response = self._http.post(
                f"/api/blobs/{digest}",
                content=body,
                headers={"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"},
                timeout=_patient(),
            )
        if response.is_error:
            raise self._refused(response)

    def look(self, path: str, api_key: str) -> tuple[int, dict[str, Any]]:
        """The status and the object that a GET gives; {} for an error or for anything but an object."""
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        with self._translated(f"nothing answers at {self.url}"):
            response = self._http.get(path, headers=headers)
        try:
            answer = response.json()
        except ValueError:
            answer = None
        return response.status_code, answer if response.is_success and isinstance(answer, dict) else {}

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, patient: bool = False
    ) -> httpx.Response:
        options: dict[str, Any] = {"timeout": _patient()} if patient else {}
        with self._translated():
            response = self._http.request(method, path, json=None if body is None else dict(body), **options)
        if response.is_error:
            raise self._refused(response)
        return response

    @contextmanager
    def _translated(self, unreachable: str = "") -> Iterator[None]:
        """httpx's errors as sentences. unreachable: what to say where nothing listens."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            advice = "Start one with `ollamamax serve`, or say with OLLAMA_HOST where it is."
            raise Unreachable(unreachable or f"no OllamaMax answers at {self.url} ({error}). {advice}") from error
        except httpx.TimeoutException as error:
            raise CliError(f"{self.url} did not answer in time; look at the node's log") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise CliError(f"the connection to {self.url} broke: {error or type(error).__name__}") from error

    def _refused(self, response: httpx.Response) -> CliError:
        """The server's error text, whatever form it came in."""
        try:
            error = response.json()["error"]
            text = error["message"] if isinstance(error, dict) else str(error)
        except (ValueError, KeyError, TypeError):
            text = response.text.strip() or f"{self.url} answered {response.status_code} {response.reason_phrase}"
        if text == _NO_SUCH_PAGE and response.url.path.startswith("/admin/"):
            text = f"what answers at {self.url} is no OllamaMax, or an older one; say with OLLAMA_HOST where it is"
        return CliError(text, status=response.status_code)

    def _decoded(self, response: httpx.Response) -> Any:
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise CliError(f"{self.url} does not speak Ollama's API; is OLLAMA_HOST right?") from error


def _is_loopback(url: str) -> bool:
    return httpx.URL(url).host.startswith(_LOOPBACK)


def _patient() -> httpx.Timeout:
    return httpx.Timeout(None, connect=_CONNECT_S)


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Split at newlines only: JSON texts may hold other line separators of Unicode."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line for line in whole if line.strip())
    if rest.strip():
        yield rest


def _object(line: bytes) -> dict[str, Any]:
    try:
        item = json.loads(line)
    except ValueError as error:
        raise CliError(f"the answer broke off: {line[:80]!r}") from error
    if not isinstance(item, dict):
        raise CliError(f"the answer can't be understood: {line[:80]!r}")
    return item


def probe_kind(url: str, api_key: str) -> str:
    """What stands behind a URL: "ollama" if it has /api/version, else "openai" if it has /v1/models.

    Raises: CliError if it is neither, or does not answer.
    """
    tried = []
    with Client(url.removesuffix("/v1")) as client:
        for path, kind, key in (("/api/version", "ollama", "version"), ("/v1/models", "openai", "data")):
            status, answer = client.look(path, api_key)
            if key in answer:
                return kind
            tried.append(f"{path} answered {status}")
    raise CliError(f"{url} is neither an Ollama nor an OpenAI-compatible server: {', '.join(tried)}. Say --kind.")
