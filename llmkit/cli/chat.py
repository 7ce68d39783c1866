"""`llmkit chat`: a conversation in the terminal, or line by line through a pipe."""

from __future__ import annotations

import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.cli import completion
from llmkit.cli.generate import Dtype
from llmkit.system import language, terminal
from llmkit.system.streams import as_json, stdin_lines

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    from llmkit.inference.writing.chat import Chat
    from llmkit.inference.writing.completion import Completion

Answer = Callable[..., "Completion"]
"""Makes the next answer; takes `stream` and `stopped`."""
COMMANDS = {
    "/help": "what can be typed",
    "/reset": "start again; the system prompt stays",
    "/system": "/system TEXT tells the model who it is; /system alone shows it, /system none takes it away",
    "/set": "/set temperature 0.7 changes how answers are written; /set alone shows it, `default` is a value too",
    "/retry": "another answer to the last question",
    "/save": "/save FILE writes the conversation as JSON",
    "/load": "/load FILE goes on with one",
    "/exit": "end; so does Ctrl-D",
}
KEYS = (
    "Enter sends; Alt-Enter, or a \\ at the end of a line, begins a new line; what is pasted may have several.",
    "Ctrl-C stops an answer; up and down bring back what was typed. What begins with // is said, with one / less.")
ENGLISH, CHINESE = "Tell me a story about a cat", "讲一个关于猫的故事"
"""What a conversation may begin with."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(chat)


def chat(
    model: Annotated[str, typer.Option(
        "--model", metavar="M", autocompletion=completion.models,
        help="A run, a folder, a hub id, or a name from `llmkit models list`.",
    )] = "smollm2-135m-instruct",
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="Tell the model who it is.")] = None,
    load: Annotated[str | None, typer.Option(
        "--load", metavar="FILE", help="Go on with a conversation that /save wrote.")] = None,
    max_new_tokens: Annotated[int, typer.Option(
        "--max-new-tokens", metavar="N", help="Most tokens of an answer.")] = 512,
    temperature: Annotated[float | None, typer.Option(
        "--temperature", metavar="T", help="Above 1 bolder, below 1 safer; 0: the likeliest token.")] = None,
    top_p: Annotated[float | None, typer.Option(
        "--top-p", metavar="P", help="Draw from the likeliest tokens of this mass.")] = None,
    seed: Annotated[int | None, typer.Option(
        "--seed", metavar="N", help="The same seed draws the same answers.")] = None,
    dtype: Dtype = None,
    history: Annotated[bool, typer.Option(
        "--history/--no-history", help="Keep what is typed for the next time, in llmkit's cache folder.")] = True,
    json_: Annotated[bool, typer.Option(
        "--json", help="Without a terminal: print the conversation at its end, as one JSON document.")] = False,
) -> None:
    """Talk with a model. In a terminal, /help says what can be typed; through a pipe, each line is said in turn."""
    from llmkit.system import report

    report.to_stderr()
    report.opening(model)
    from llmkit.inference.writing import chat as chatting

    report.quiet_libraries()
    options = replace(chatting.USUAL, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    person = sys.stdin.isatty() and sys.stdout.isatty() and not json_
    talk = chatting.Chat.open(model, options, system, dtype)
    if load is not None:
        talk.load(load)
        if system is not None:
            talk.instruct(system)
    if person:
        in_terminal(talk, history)
    else:
        through_pipe(talk, json_)


# ---- a person at a terminal ----

def starter(chinese: bool, model: str) -> str:
    """Something to begin with: in Chinese where the person and the model know it; else what there is to know of it."""
    if not chinese and language.chosen() == "zh":
        return f"{model} hasn't learned Chinese: ask it in English, as {ENGLISH!r}."
    return f"To begin with: {(CHINESE if language.chosen() == 'zh' else ENGLISH)!r}"


def in_terminal(talk: Chat, history: bool) -> None:
    """Ask, answer, and go on after every mistake, until Ctrl-D, /exit or Ctrl-C twice."""
    from llmkit.system.errors import LlmkitError

    session = typing(history)
    note(f"{talk.writer.name}: /help says what can be typed, Ctrl-D ends.")
    note(starter(talk.writer.script.chinese, talk.writer.name))
    pressed = False
    while True:
        try:
            text = session.prompt([("bold", "> ")]).strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            if pressed:
                return
            pressed = True
            note("Ctrl-C again, or Ctrl-D, ends.")
            continue
        pressed = False
        try:
            if text:
                take(talk, text, show)
        except EOFError:
            return
        except LlmkitError as error:
            note(str(error))


def typing(history: bool) -> PromptSession[str]:
    """The line that a person types into: several lines, keys, and what was typed before."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.shortcuts import CompleteStyle

    from llmkit.system import cache
    from llmkit.system.errors import PlaceError

    kept: History = InMemoryHistory()
    if history:
        path = cache.root() / "chat-history"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        except OSError as error:
            raise PlaceError(f"{path}: {error.strerror}; --no-history does without it.") from error
        kept = FileHistory(path)
    return PromptSession(
        history=kept, multiline=True, key_bindings=keys(), prompt_continuation=". ",
        completer=WordCompleter(list(COMMANDS), sentence=True), complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE, reserve_space_for_menu=0)


def keys() -> KeyBindings:
    """Enter sends, Alt-Enter begins a line, Ctrl-C empties what is typed or, where nothing is, asks to end."""
    from prompt_toolkit.key_binding import KeyBindings

    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.current_line_before_cursor.endswith("\\") and buffer.document.is_cursor_at_the_end:
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @bindings.add("c-c")
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt, style="class:aborting")

    return bindings


def show(answer: Answer) -> Completion | None:
    """Print an answer while it is written; Ctrl-C stops it, and pressed again at once. None: there is no answer."""
    from prompt_toolkit.utils import get_cwidth

    page = _Page(shutil.get_terminal_size().columns, get_cwidth)
    made = None
    with unechoed(), stopping() as stopped:
        try:
            made = answer(stream=page, stopped=stopped)
        except KeyboardInterrupt:
            note("stopped before there was an answer")
        page.finish()
    terminal.out("\n" if page.begun else "")
    return made


@contextmanager
def unechoed() -> Iterator[None]:
    """Keep what is typed meanwhile for the next line, without showing it amid an answer."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    import termios

    before = termios.tcgetattr(sys.stdin)
    try:
        silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, silent)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C only be noted while the block runs."""
    pressed = 0

    def press(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed > 0
    finally:
        signal.signal(signal.SIGINT, before)


# ---- a program at the other end of a pipe ----

def through_pipe(talk: Chat, json_: bool) -> None:
    """Each line of stdin is said or done, each answer goes to stdout; the first mistake ends it."""

    def tell(answer: Answer) -> Completion:
        print_ = _Printer()
        made = answer(stream=None if json_ else print_)
        if not json_:
            print_.finish()
            terminal.out()
        return made

    text = ""
    for line in stdin_lines():
        text += line.removesuffix("\n")
        if text.endswith("\\"):
            text = text[:-1] + "\n"
            continue
        try:
            if text.strip():
                take(talk, text.strip(), tell)
        except EOFError:
            break
        text = ""
    if json_:
        print(as_json({"model": talk.writer.name, "messages": talk.messages}))


# ---- what both can say and do ----

def take(talk: Chat, text: str, tell: Callable[[Answer], Completion | None]) -> None:
    """Say a text, or do what a line that begins with / asks for. EOFError: that is to end."""
    if text.startswith("/") and not text.startswith("//"):
        obey(talk, text, tell)
    else:
        reply(talk, partial(talk.say, text[1:] if text.startswith("//") else text), tell)


def reply(talk: Chat, answer: Answer, tell: Callable[[Answer], Completion | None]) -> None:
    """Tell an answer, and what there is to know of it."""
    before = talk.start
    made = tell(answer)
    if talk.start > before:
        note(f"the model no longer sees the first {talk.start} messages: the conversation is longer than its context")
    if made is None:
        return
    if made.finish_reason == "stopped":
        note("stopped; /retry asks again")
    elif not made.text.strip():
        note("the model says nothing")
    if made.finish_reason == "length":
        most = talk.options.max_new_tokens
        note(f"cut at max_new_tokens {most}; /set max_new_tokens {2 * most} lets it say more" if made.tokens >= most
             else "cut: the model's context is full; /reset starts again")


def obey(talk: Chat, text: str, tell: Callable[[Answer], Completion | None]) -> None:
    """Do what a command asks for. RequestError where there is none of that name, or something is missing."""
    from llmkit.system.errors import RequestError, nearest

    command, _, rest = text.partition(" ")
    rest = rest.strip()
    if command not in COMMANDS:
        raise RequestError(f"no command is called {command}.{nearest(command, COMMANDS)} To say something that begins "
                           f"with /, begin with //.")
    if command in ("/save", "/load") and not rest:
        raise RequestError(f"{command} needs the name of a file.")
    if command == "/exit":
        raise EOFError
    if command == "/help":
        note("\n".join([*(f"{name:<9}{language.exactly(about)}" for name, about in COMMANDS.items()), "", *KEYS]))
    elif command == "/reset":
        talk.reset()
        note("a new conversation")
    elif command == "/retry":
        reply(talk, talk.retry, tell)
    elif command == "/save":
        talk.save(rest)
        note(f"{len(talk.messages)} messages: {rest}")
    elif command == "/load":
        talk.load(rest)
        note(f"{len(talk.messages)} messages; {_last(talk)}")
    elif command == "/system":
        if rest:
            talk.instruct(None if rest == "none" else rest)
        note(f"system prompt: {talk.system}" if talk.system else "no system prompt")
    else:
        name, _, value = rest.replace("=", " ", 1).partition(" ")
        if value.strip():
            talk.set(name, value.strip())
        elif name:
            raise RequestError(f"/set {name}: to what? As in /set temperature 0.7.")
        note(", ".join(f"{one} {value}" for one, value in talk.settings().items()))


def _last(talk: Chat) -> str:
    """Where a conversation stands."""
    if not talk.turns:
        return "nothing was said yet"
    last = talk.turns[-1]
    return f"the last, by the {last['role']}: {' '.join(last['content'].split())[:60]}"


def note(text: str) -> None:
    """Something that isn't part of the conversation: on stderr, pale where a person sees it."""
    terminal.pale(text)


class _Printer:
    """Prints pieces of an answer, without the space that it may begin with."""

    begun = False

    def __init__(self) -> None:
        self.pieces = terminal.Stretches()

    def __call__(self, piece: str) -> None:
        piece = self.pieces(piece if self.begun else piece.lstrip())
        self.begun = self.begun or bool(piece)
        self.put(piece)

    def finish(self) -> None:
        """Print what an answer ends with."""
        self.put(self.pieces.end())

    def put(self, piece: str) -> None:
        """Print it at once."""
        terminal.out(piece, end="")


class _Page(_Printer):
    """Prints pieces and breaks lines between words, where a terminal would break them anywhere."""

    def __init__(self, columns: int, width: Callable[[str], int]) -> None:
        super().__init__()
        self.columns, self.width = columns, width
        self.word, self.at = "", 0
        """What isn't printed yet, for it may go on; and how many columns the line has."""

    def put(self, piece: str) -> None:
        """Print words that are whole; of writing without spaces between them (Chinese) all."""
        for part in re.findall(r"\S+|\s", piece):
            if part.isspace():
                self.end()
                ends = part == "\n" or self.at >= self.columns
                self.at = 0 if ends else self.at + 1
                super().put("\n" if ends else part)
            else:
                self.word += part
                if self.width(self.word) > len(self.word):
                    self.end()

    def finish(self) -> None:
        """Print what an answer ends with, and the last word."""
        super().finish()
        self.end()

    def end(self) -> None:
        """Print what is left."""
        wide = self.width(self.word)
        if self.at and self.at + wide > self.columns:
            super().put("\n")
            self.at = 0
        super().put(self.word)
        self.at += wide
        if self.at > self.columns:
            self.at = (self.at - 1) % self.columns + 1
        self.word = ""
