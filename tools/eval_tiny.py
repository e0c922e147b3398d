"""Asks `tiny` held-out questions through llama.cpp's server and prints the score of each category.

Exit code 1 when less than 90 % are right. Needs xllamacpp only. The server runs in a child process on a free
loopback port, and ends with this one.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny_heldout import CASES, JSON_CASES, TALKS, TOOL_CASES, ToolCase

HERE = Path(__file__).resolve().parent
MODEL = HERE.parent / "src" / "ollamamax" / "data" / "tiny" / "tiny.gguf"
QUESTIONS = HERE.parent / "tests" / "e2e" / "tiny_questions.json"
PASS_SHARE = 0.9

_SERVER = """
import sys, threading, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.port, p.hostnames = sys.argv[1], int(sys.argv[2]), ["127.0.0.1"]
p.n_ctx, p.n_parallel, p.cpuparams.n_threads, p.use_jinja = 2048, 1, 1, True
server = xllamacpp.Server(p)
sys.stdin.read()
"""


@contextmanager
def serving(model: Path) -> Iterator[str]:
    """Run llama.cpp's server with the model; yields its base URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", _SERVER, str(model), str(port)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet) as child:
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, child)
            yield url
        finally:
            child.kill()


def _wait(url: str, child: subprocess.Popen[bytes]) -> None:
    """Wait up to 30 s for the server to be healthy."""
    for _ in range(300):
        if child.poll() is not None:
            raise SystemExit(f"the server ended with code {child.returncode}")
        try:
            urllib.request.urlopen(f"{url}/health", timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not become healthy")


def post(url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Send one JSON request and return the JSON answer."""
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return {"error": error.read().decode(errors="replace")}


def chat(url: str, temperature: float, messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Return the message that answers a conversation; its content begins with ERROR where there is none."""
    body = {"messages": messages, "temperature": temperature, "max_tokens": 200, "seed": 1, **more}
    answer = post(url, "/v1/chat/completions", body)
    if "choices" not in answer:
        return {"content": f"ERROR {answer}", "finish": "error"}
    choice = answer["choices"][0]
    return {**choice["message"], "finish": choice["finish_reason"]}


def _plain(url: str, temperature: float) -> Iterator[tuple[str, str, str, bool]]:
    """Ask the single questions and the conversations. Yields category, question, answer, right or not."""
    talks = {
        name: [([("user", question)], accepted) for question, accepted in cases] for name, cases in CASES.items()
    } | TALKS
    for category, cases in talks.items():
        for turns, accepted in cases:
            messages = [{"role": role, "content": content} for role, content in turns]
            message = chat(url, temperature, messages)
            text = message["content"] or ""
            good = message["finish"] == "stop" and any(part in text for part in accepted)
            yield category, turns[-1][1], text, good


def _tools(url: str, temperature: float) -> Iterator[tuple[str, str, str, bool]]:
    """Offer functions: the right call, then the answer from its result, or words where no function fits."""
    for case in TOOL_CASES:
        messages = [{"role": "user", "content": case.question}]
        message = chat(url, temperature, messages, tools=case.tools)
        calls = message.get("tool_calls") or []
        shown = json.dumps([call["function"] for call in calls]) if calls else str(message["content"])
        yield "tool calls", case.question, shown, _right_call(case, message, calls)
        if case.name and case.result and calls:
            result = {"role": "tool", "tool_call_id": calls[0].get("id", "1"), "content": case.result}
            reply = {"role": "assistant", "content": None, "tool_calls": calls}
            said = chat(url, temperature, [*messages, reply, result], tools=case.tools)["content"] or ""
            yield "tool results", case.question, said, all(part in said for part in case.accepted)


def _right_call(case: ToolCase, message: dict[str, Any], calls: list[dict[str, Any]]) -> bool:
    """Compare the calls with the expected one; without an expected name, with words."""
    if case.name is None:
        return not calls and any(part in (message["content"] or "") for part in case.accepted)
    if len(calls) != 1 or calls[0]["function"]["name"] != case.name:
        return False
    try:
        return bool(json.loads(calls[0]["function"]["arguments"]) == case.arguments)
    except ValueError:  # cut off before the end of the call
        return False


def _json(url: str, temperature: float) -> Iterator[tuple[str, str, str, bool]]:
    """Ask for JSON, in words and by schema; right when it ends, parses and holds the value."""
    for question, schema, accepted in JSON_CASES:
        more: dict[str, Any] = {}
        if schema:
            more["response_format"] = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        message = chat(url, temperature, [{"role": "user", "content": question}], **more)
        text = message["content"] or ""
        try:
            good = message["finish"] == "stop" and isinstance(json.loads(text), dict)
        except ValueError:
            good = False
        yield "JSON", question, text, good and accepted in text


def evaluate(url: str, temperature: float, verbose: bool) -> float:
    """Print the score of each category and return the share of right answers."""
    scores: dict[str, list[bool]] = {}
    for kind in (_plain, _tools, _json):
        for category, question, answer, good in kind(url, temperature):
            scores.setdefault(category, []).append(good)
            if verbose or not good:
                print(f"{'ok ' if good else 'BAD'} [{category}] {question!r} -> {answer!r}")
    for category, results in scores.items():
        print(f"{category:20} {sum(results):3} of {len(results)}")
    every = [good for results in scores.values() for good in results]
    print(f"{'all':20} {sum(every):3} of {len(every)} = {sum(every) / len(every):.1%} at temperature {temperature}")
    return sum(every) / len(every)


def check_questions(url: str, path: Path) -> bool:
    """Ask the questions that the product's own tests use, at temperature 0; all have to be right."""
    wrong = 0
    for entry in json.loads(path.read_text(encoding="utf-8")):
        messages = entry.get("messages") or [{"role": "user", "content": entry["question"]}]
        text = chat(url, 0.0, messages)["content"] or ""
        if not any(part in text for part in entry["accept"]):
            wrong += 1
            print(f"BAD {entry} -> {text!r}")
    print(f"{path.name}: {wrong} wrong")
    return not wrong


def main() -> None:
    """Read the command line, measure, and exit with 1 below 90 %."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()
    with serving(args.model) as url:
        share = evaluate(url, args.temperature, args.verbose)
        good = check_questions(url, QUESTIONS) if QUESTIONS.exists() else True
    raise SystemExit(0 if share >= PASS_SHARE and good else 1)


if __name__ == "__main__":
    main()
