"""The conversation at a terminal: in the test's process with scripted lines, and once for real on a pty."""

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_node import SHOWN, Asked, FakeNode, Reply, chat_answer, error, fake_node, stream
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from pty_child import Pty

from ollamamax.cli.client import Client
from ollamamax.cli.conversation import Conversation
from ollamamax.cli.reader import TerminalLines, read_input, unquoted
from ollamamax.cli.repl import loop
from ollamamax.cli.talk import Talk


class Script:
    """Lines that were written down before; an exception is raised, the end is Ctrl-D."""

    keep_history = True

    def __init__(self, *lines: str | type[BaseException]) -> None:
        self._lines = list(lines)
        self.prompts: list[str] = []

    def line(self, prompt: str) -> str:
        self.prompts.append(prompt)
        line = self._lines.pop(0) if self._lines else EOFError
        if isinstance(line, str):
            return line
        raise line


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with fake_node() as running:
        running.answers["POST /api/chat"] = chat_answer("Hel", "lo")
        running.answers["POST /api/generate"] = Reply(body={"done": True})
        yield running


@pytest.fixture
def client(node: FakeNode) -> Iterator[Client]:
    with Client(node.url) as client:
        yield client


def converse(client: Client, *lines: str | type[BaseException]) -> Conversation:
    """A conversation with `tiny` in which these lines are typed."""
    talk = Talk("tiny", capabilities=("completion", "thinking"))
    conversation = Conversation(client, talk, Script(*lines), dict(SHOWN))
    loop(conversation)
    return conversation


def bodies(node: FakeNode, path: str = "/api/chat") -> list[dict[str, object]]:
    return [request.json for request in node.to(path)]


def test_a_conversation_is_remembered(node: FakeNode, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    converse(client, "Hi", "", "   ", "And?")
    assert [body["messages"] for body in bodies(node)] == [
        [{"role": "user", "content": "Hi"}],
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "And?"},
        ],
    ]
    assert capsys.readouterr().out == "Hello\nHello\n"


def test_several_lines(node: FakeNode, client: Client) -> None:
    conversation = converse(client, '"""one', "two", '"""', '"""three"""', "/bye", "never read")
    assert [body["messages"][-1]["content"] for body in bodies(node)] == ["one\ntwo", "three"]  # type: ignore[index]
    assert conversation.lines.prompts == [">>> ", "... ", "... ", ">>> ", ">>> "]  # type: ignore[attr-defined]


def test_ctrl_c_at_the_prompt_stays(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    converse(client, KeyboardInterrupt, "Hi")
    assert capsys.readouterr().out == "\nUse Ctrl-D or /bye to leave.\nHello\n"


def test_settings_of_the_session_reach_the_request(node: FakeNode, client: Client) -> None:
    lines = ["/set parameter temperature 0.5", "/set parameter num_ctx 512", "/set parameter stop a b"]
    lines += ["/set system Be brief.", "/set format json", "/set think low", "Hi"]
    converse(client, *lines)
    (body,) = bodies(node)
    assert body == {
        "model": "tiny",
        "options": {"temperature": 0.5, "num_ctx": 512, "stop": ["a", "b"]},
        "format": "json",
        "think": "low",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    }


def test_settings_can_be_taken_back(node: FakeNode, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    conversation = converse(
        client, "/set format json", "/set noformat", "/set nothink", "/set verbose", "Hi", "/set quiet", "Hi",
        *("/set nowordwrap", "/set nohistory"),
    )  # fmt: skip
    assert bodies(node)[0] == {"model": "tiny", "think": False, "messages": [{"role": "user", "content": "Hi"}]}
    assert (conversation.talk.wrap, conversation.lines.keep_history) == (False, False)
    converse(client, "/set wordwrap", "/set history")
    assert "History is kept." in capsys.readouterr().out


def test_a_system_message_of_several_lines(node: FakeNode, client: Client) -> None:
    converse(client, '/set system """one', 'two"""', "Hi")
    assert bodies(node)[0]["messages"][0] == {"role": "system", "content": "one\ntwo"}  # type: ignore[index]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/set", "/set parameter <name> <value>"),
        ("/set nonsense", "/set parameter <name> <value>"),
        ("/set parameter", "Usage:"),
        ("/set parameter temperature", "Usage:"),
        ("/set parameter temperature hot", "Couldn't set parameter: invalid float value [hot]"),
        ("/set parameter heat 1", "Couldn't set parameter: unknown parameter 'heat'"),
        ("/set system", "Usage:"),
        ("/set format xml", "Usage:"),
        ("/set think", "Set 'think' mode."),
        ("/load", "Usage:"),
        ("/save", "Usage:"),
        ("/show", "/show info"),
        ("/show info", "  Model\n    architecture"),
        ("/show license", "one\n\ntwo"),
        ("/show modelfile", "FROM tiny"),
        ("/show system", "You are small."),
        ("/show template", "{{ .Prompt }}"),
        ("/show parameters", "temperature                    0.5"),
        ("/list", "tiny:latest"),
        ("/list TI", "tiny:latest"),
        ("/?", "Available commands:"),
        ("/help set", "/set wordwrap"),
        ("/? /show", "/show license"),
        ("/? shortcuts", "Ctrl-D"),
        ("/nonsense", "Unknown command '/nonsense'. Type /? for help"),
        ("/clear", "Cleared session context"),
    ],
)
def test_what_commands_say(
    node: FakeNode, client: Client, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    node.answers["GET /api/tags"] = Reply(body={"models": [{"name": "tiny:latest"}, {"name": "other:latest"}]})
    converse(client, line)
    out = capsys.readouterr().out
    assert said in out
    assert ("other:latest" in out) == (line == "/list")
    assert not bodies(node)


def test_show_tells_of_the_session(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    converse(client, "/set system Mine.", "/set parameter top_k 3", "/show system", "/show parameters")
    out = capsys.readouterr().out
    assert "\nMine.\n" in out
    assert "Set in this session:\ntop_k                          3" in out


def test_a_bad_think_level_is_told(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    conversation = converse(client, "/set think much")
    assert 'Error: invalid think value: "much"' in capsys.readouterr().err
    assert conversation.talk.think is None
    conversation.talk.capabilities = ()
    conversation.lines = Script("/set think")
    loop(conversation)
    assert "does not support thinking" in capsys.readouterr().out


def test_clear_forgets(node: FakeNode, client: Client) -> None:
    converse(client, "Hi", "/clear", "Again")
    assert bodies(node)[1]["messages"] == [{"role": "user", "content": "Again"}]


def test_load_switches_and_forgets(node: FakeNode, client: Client) -> None:
    conversation = converse(client, "Hi", "/load other", "Again")
    assert bodies(node, "/api/generate") == [{"model": "other", "prompt": "", "stream": False}]
    assert bodies(node)[1] == {"model": "other", "messages": [{"role": "user", "content": "Again"}]}
    node.answers["POST /api/show"] = error(404, "model 'nix' not found")
    node.answers["GET /api/tags"] = Reply(body={"models": []})
    conversation.lines = Script("/load nix", "Still?")
    loop(conversation)
    assert bodies(node)[2]["model"] == "other"


def test_save(node: FakeNode, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["POST /api/create"] = Reply(body={"status": "success"})
    converse(client, "/set system Mine.", "/set parameter top_k 3", "Hi", "/save mine")
    assert bodies(node, "/api/create") == [
        {
            "model": "mine",
            "from": "tiny",
            "stream": False,
            "system": "Mine.",
            "parameters": {"top_k": 3},
            "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        }
    ]
    assert "Created new model 'mine'" in capsys.readouterr().out


def test_an_error_does_not_end_the_conversation(
    node: FakeNode, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    replies = iter([error(500, "engine gone"), chat_answer("Back")])
    node.answers["POST /api/chat"] = lambda _: next(replies)
    conversation = converse(client, "Hi", "There?")
    captured = capsys.readouterr()
    assert captured.err == "Error: engine gone\n"
    assert captured.out == "Back\n"
    assert [message["content"] for message in conversation.messages] == ["There?", "Back"]


def test_thinking_is_sent_back(node: FakeNode, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["POST /api/chat"] = chat_answer("4", thinking="2+2")
    conversation = converse(client, "2+2?")
    assert conversation.messages[1] == {"role": "assistant", "content": "4", "thinking": "2+2"}
    assert capsys.readouterr().out == "Thinking...\n2+2\n...done thinking.\n\n4\n"


def test_a_path_is_no_command(node: FakeNode, client: Client, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("x")
    converse(client, f"{tmp_path}/notes is what?")
    assert len(bodies(node)) == 1


def test_unquoting() -> None:
    assert unquoted('"""a\nb"""') == "a\nb"
    assert unquoted('"a"') == "a"
    assert unquoted('"') == '"'
    assert unquoted(' say "a" ') == 'say "a"'


def test_the_line_editor_keeps_history(tmp_path: Path) -> None:
    path = tmp_path / "home" / "history"
    with create_pipe_input() as keys:
        lines = TerminalLines(path, input=keys, output=DummyOutput())
        keys.send_text("first\n")
        assert read_input(lines) == "first"
        lines.keep_history = False
        keys.send_text("secret\n")
        assert read_input(lines) == "secret"
        lines.keep_history = True
        keys.send_text('"""a\nb"""\n')
        assert read_input(lines) == '"""a\nb"""'
        keys.send_text("\x04")
        with pytest.raises(EOFError):
            read_input(lines)
        keys.send_text("\x03")
        with pytest.raises(KeyboardInterrupt):
            read_input(lines)
    assert path.stat().st_mode & 0o777 == 0o600
    assert "+first\n" in path.read_text()
    assert "secret" not in path.read_text()


def test_a_prompt_without_a_place_for_history(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (None, tmp_path / "file" / "history"):
        with create_pipe_input() as keys:
            lines = TerminalLines(path, input=keys, output=DummyOutput())
            keys.send_text("x\n")
            assert lines.line("> ") == "x"
            lines.keep_history = True
            assert not lines.keep_history


def test_for_real_on_a_terminal(node: FakeNode, tmp_path: Path) -> None:
    never = threading.Event()

    def answer(asked: Asked) -> Reply:
        question = asked.json["messages"][-1]["content"]
        if question == "slow":
            held = chat_answer("Beginning ", "never said")
            return stream(*(held.lines or []), hold=never)
        return chat_answer(f"You said {question}.")

    node.answers["POST /api/chat"] = answer
    terminal = Pty("run", "tiny", node=node.url, home=tmp_path)
    try:
        terminal.expect("Hello!")
        terminal.expect(">>>")
        terminal.type("one\r")
        terminal.expect("You said one.")
        terminal.expect(">>>")
        terminal.type("slow\r")
        terminal.expect("Beginning")
        terminal.type("\x03")
        assert node.gone.wait(10), "the request was not closed"
        terminal.expect(">>>")
        terminal.type("two\r")
        terminal.expect("You said two.")
        terminal.expect(">>>")
        terminal.type("\x03")
        terminal.expect("Use Ctrl-D or /bye to leave.")
        terminal.expect(">>>")
        terminal.type("\x04")
        assert terminal.close() == 0
    finally:
        terminal.end()
    assert "+slow\n" in (tmp_path / ".ollamamax" / "history").read_text()


def test_a_prompt_written_in_an_editor(node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "from the editor" > "$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    node.answers["POST /api/chat"] = chat_answer("Hm.")
    terminal = Pty("run", "tiny", node=node.url, home=tmp_path)
    try:
        terminal.expect(">>>")
        terminal.type("\x07")
        terminal.expect("from the editor")
        terminal.type("\r")
        terminal.expect("Hm.")
        terminal.expect(">>>")
        terminal.type("\x04")
        assert terminal.close() == 0
    finally:
        terminal.end()
    assert bodies(node)[0]["messages"] == [{"role": "user", "content": "from the editor"}]


def test_a_single_answer_on_a_terminal(node: FakeNode, tmp_path: Path) -> None:
    released = threading.Event()
    node.answers["POST /api/generate"] = stream(
        {"response": "Here it is.", "done": False}, {"response": "", "done": True}, hold=released, hold_before=0
    )
    terminal = Pty("run", "tiny", "x", node=node.url, home=tmp_path)
    try:
        terminal.expect("waiting for tiny")
        released.set()
        terminal.expect("Here it is.")
        assert terminal.close() == 0
    finally:
        terminal.end()


def test_a_prompt_with_a_picture(node: FakeNode, client: Client, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"PNG")
    lines = Script(f"What is in {tmp_path}/cat.png")
    loop(Conversation(client, Talk("v", capabilities=("completion", "vision")), lines, {}))
    assert bodies(node)[0]["messages"] == [{"role": "user", "content": "What is in", "images": ["UE5H"]}]


def test_ctrl_c_ends_a_single_answer(node: FakeNode) -> None:
    node.answers["POST /api/generate"] = stream({"response": "Beginning ", "done": False}, {}, hold=threading.Event())
    process = subprocess.Popen(
        [sys.executable, "-m", "ollamamax", "run", "tiny", "x"],
        env={**os.environ, "OLLAMA_HOST": node.url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.read(5) == b"Begin"
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=20)
    assert (process.returncode, words) == (130, b"")
    assert node.gone.wait(10)


def test_output_to_a_terminal_is_wrapped_and_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    from ollamamax.cli.answer import AnswerPrinter

    monkeypatch.setenv("COLUMNS", "30")
    screen = Screen()
    printer = AnswerPrinter(screen)
    printer.feed(thinking="Hm.\x1b[2J")
    for piece in ("some words that ", "go beyond \x1b]0;title\x07thirty columns"):
        printer.feed(text=piece)
    printer.finish()
    assert screen.getvalue() == (
        "\x1b[2mThinking...\nHm.[2J\n...done thinking.\n\n\x1b[0msome words that go beyond\n]0;titlethirty columns\n"
    )
    assert printer.text == "some words that go beyond \x1b]0;title\x07thirty columns"
