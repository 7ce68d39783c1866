"""The command line. Only typer is imported here, so that `llmkit --help` answers at once."""

from __future__ import annotations

import errno
import inspect
import logging
import os
import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from copy import copy
from itertools import pairwise
from typing import Any

import typer
from typer.main import get_command
from typer.models import CommandInfo

from llmkit.cli import catalogue, chat, generate, score, search, serve, tasks, train, use
from llmkit.cli.helping import told
from llmkit.cli.looking import board, compare, explain, prompts, report, runs
from llmkit.cli.preparing import doctor, launch, plan, tokenize
from llmkit.system import language, machine, terminal
from llmkit.system.addresses import masked
from llmkit.system.devices import choose
from llmkit.system.environment import (
    USE_CPU,
    WORLD,
    forget_leftovers,
    is_first,
    is_first_here,
    name_files_in_utf8,
    prepare_torch,
)
from llmkit.system.errors import (
    DataError,
    LlmkitError,
    PlaceError,
    RequestError,
    Stopped,
    device_full,
    no_memory,
    no_room,
    not_open,
)
from llmkit.system.signals import leave_terminal, stopping
from llmkit.system.streams import show_what_can_be

UsageError: type[Any] = typer.BadParameter.__mro__[1]  # of click, or of the copy of it that typer carries

LONG = re.compile(r"[^\s/\\]{200,}")
"""A word that no message needs whole: a value of thousands of characters, not a path."""
FOR_SHELLS = ("--install-completion", "--show-completion")
"""typer's own options: they say on stdout why they can't, and end with 1."""
NO_UNKNOWN = re.compile(r"Missing \[UNK\] token|unk_id. is missing|[Uu]nknown token but")
"""What tokenizers says where a tokenizer has no token for what it doesn't know."""
MOST = 1500
"""Characters of a message; of a longer one, which shows what a file holds, the middle is left out."""
WIDEST = 120
"""Columns of a help page, on a terminal that has them."""

app = typer.Typer(
    name="llmkit", help="Pretrain, fine-tune and use language models from recipes.", rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST})
for group in (train, plan, tokenize, launch, compare, use, generate, chat, tasks, search, score, explain, prompts,
              report, runs, board, serve, doctor, catalogue):
    group.register(app)


@app.callback(invoke_without_command=True)
def everywhere(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and end."),
    debug: bool = typer.Option(False, "--debug", help="Show a traceback where something fails; may stand anywhere."),
    offline: bool = typer.Option(False, "--offline", help="Ask neither a hub nor a registry; may stand anywhere."),
    device: str = typer.Option(
        "", "--device", metavar="NAME", help="What computes: cpu, cuda, cuda:1, mps, npu or xpu; may stand anywhere."),
) -> None:
    """Options of every command."""
    if version:
        found = machine.installed("llmkit") or "from its sources, not installed"
        typer.echo(f"llmkit {found}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise RequestError("a command is needed, as `llmkit pretrain RECIPE`.")


def whole(command: Any) -> Any:
    """A command whose list of commands has each one's first paragraph, not the first 45 letters of it."""
    for below in getattr(command, "commands", {}).values():
        below.short_help = below.short_help or " ".join((below.help or "").partition("\n\n")[0].split())
        whole(below)
    return command


def _command(words: Sequence[str]) -> Any:
    """What runs the words: with its help in the language that is chosen, where that is to be shown."""
    first = next((word for word in words if not word.startswith("-")), "")
    asked_by_a_shell = "_LLMKIT_COMPLETE" in os.environ  # its words stand elsewhere
    command = whole(get_command(app if asked_by_a_shell else only(app, first)))
    return told(command) if not words or "--help" in words or "-h" in words else command


def only(group: typer.Typer, first: str) -> typer.Typer:
    """The group with the options of one of its commands: those of all take as long to build as typer to load."""
    slim = copy(group)
    slim.registered_commands = [
        info if _name(info) == first else _bare(info) for info in group.registered_commands]
    slim.registered_groups = [copy(below) for below in group.registered_groups]
    for below in slim.registered_groups:
        if below.name != first and below.typer_instance is not None:
            below.typer_instance = only(below.typer_instance, "")
    return slim


def _name(info: CommandInfo) -> str:
    return info.name or str(getattr(info.callback, "__name__", "")).replace("_", "-")


def _bare(info: CommandInfo) -> CommandInfo:
    """A command with its name and its help, and without its options."""
    bare = copy(info)
    bare.name, bare.help, bare.callback = _name(info), info.help or inspect.getdoc(info.callback), _nothing
    return bare


def _nothing() -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status. Whatever fails ends with one line: `llmkit: error: …`."""
    if arguments is None:
        name_files_in_utf8()
    prepare_torch()
    show_what_can_be()
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    debug = "--debug" in given[:end]
    if "--offline" in given[:end]:
        os.environ["LLMKIT_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    words = [word for word in given[:end] if word not in ("--debug", "--offline")]
    words, device = without_device(words)
    both = train.Words(without_device(given[:end])[0], given[end + 1:])  # who starts them says it by variables
    if not any(word in words for word in train.LAUNCHED):
        words += given[end:]  # here `--` only says that what follows is no option
    logging.captureWarnings(True)
    trains = any(word in words[:1] for word in train.LAUNCHED)
    if (trains or words[:1] == ["compare"]) and is_first() and (why := machine.untested()):
        terminal.err(f"llmkit: {why}")
    try:
        if said := language.unknown():
            terminal.err(f"llmkit: {said}")
        if left := forget_leftovers():
            terminal.err(f"llmkit: {left}")
        if device is not None:
            choose(device)
        with stopping() if trains else nullcontext():  # the libraries' imports take seconds
            status = _command(words)(words, prog_name="llmkit", standalone_mode=False, obj=both)
        if status == 1 and words[0] in FOR_SHELLS:
            return _fail(f"{words[0]}: which shell this is can't be seen; bash, zsh, fish and PowerShell are known.", 2,
                         debug)
        return status if isinstance(status, int) else 0
    except UsageError as error:
        return _fail(_usage(error, words), 2, debug)
    except LlmkitError as error:
        return _fail(str(error), error.status, debug, error.heard)
    except Stopped as error:
        return _fail(str(error), error.status, debug)
    except (KeyboardInterrupt, typer.Abort) as error:
        if isinstance(error.__cause__, EOFError):  # typer takes that of any file for somebody who ended his input
            return _fail(_unforeseen(error.__cause__), 1, debug)
        return _fail("stopped by SIGINT", 130, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the last place that can say it in one line
        if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return _fail(f"{error.filename}: {os.strerror(error.errno)}.", PlaceError.status, debug)
        if full := no_room(error):
            target = getattr(error, "filename2", None) or getattr(error, "filename", None)  # of a copy, what is written
            return _fail(f"{target or 'writing a file'}: {full}.", PlaceError.status, debug)
        if closed := not_open(error):
            return _fail(closed, PlaceError.status, debug)
        if type(error) is Exception and NO_UNKNOWN.search(str(error)):  # the class that tokenizers raises
            return _fail("a text holds something that the tokenizer has no token for, and it has none for what is "
                         f"unknown ({error}); give it an unk_token, or take another tokenizer.",
                         DataError.status, debug)
        if no_memory(error):
            return _fail(f"not enough memory: {_memory(error, words)}", 2, debug)
        from llmkit.models.checking.computing import not_computing
        from llmkit.recipe.watching import own_line

        if (theirs := not_computing(error)) is not None and not own_line(error):
            return _fail(f"{theirs} (--debug shows where)", theirs.status, debug)
        return _fail(_unforeseen(error), 1, debug)


def without_device(words: Sequence[str]) -> tuple[list[str], str | None]:
    """The words without `--device NAME`, wherever it stands, and that name: the last one where there are several."""
    left, name, rest = list[str](), None, iter(words)
    for word in rest:
        option, is_option, value = word.partition("=")
        if option != "--device":
            left.append(word)
        else:
            name = value if is_option else next(rest, "")
    return left, name


def _usage(error: Any, words: Sequence[str]) -> str:
    """What is wrong with a command's words: the option, its value, and where to read more."""
    message = str(error.format_message()).replace("Value error, ", "")
    if type(error) is typer.BadParameter and error.param is not None:
        for option in error.param.opts:
            values = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
            values += [value for word, value in pairwise(words) if word == option]
            if values:
                message = f"{option} {values[-1]}: {error.message.removeprefix('Input ')}"
    more = f" See {error.ctx.command_path} --help." if error.ctx is not None else ""
    return message + ("" if message.endswith((".", "?")) else ".") + more


def _unforeseen(error: BaseException) -> str:
    """The last line of an error that nobody foresaw."""
    from llmkit.recipe.watching import own_line

    said = " ".join(f"{type(error).__name__}: {error}".split())
    return f"unforeseen: {said[:500]}{own_line(error)} (--debug shows where)"


def _memory(error: Exception, words: Sequence[str]) -> str:
    """How much was asked for, and what to make smaller: of a run, fields of its recipe; elsewhere what options say."""
    asked = re.search(r"tried to allocate (\d+) bytes", str(error))
    size = f"{int(asked[1]) / 2**30:,.1f} GiB at once were asked for; " if asked else ""
    if there := re.search(r"Tried to allocate ([\d.]+ [GMK]iB).*?total capacity of ([\d.]+ [GMK]iB)", str(error), re.S):
        size = f"{there[1]} more were asked for on a GPU of {there[2]}; "
    where = f"; {USE_CPU}=1 computes on the CPU" if device_full(error) else ""
    if any(word in (*train.LAUNCHED, "compare") for word in words[:1]):
        return (f"{size}make the model, what the tuning method adds, training.micro_batch_size or data.max_length "
                f"smaller{where}")
    return f"{size}take a smaller model, fewer texts at once (--batch-size where there is one) or shorter ones{where}"


def _cut(word: re.Match[str]) -> str:
    return f"{word[0][:80]}…"


def _fail(message: str, status: int, debug: bool, heard: bool = False) -> int:
    """Say the last line, and return the status. What is `heard` from another process is said once on each machine."""
    if debug:
        import traceback

        terminal.err(traceback.format_exc(), end="")
    seen = heard and status > 128 and WORLD in os.environ  # of what was killed, who started the processes says it
    if not seen and (is_first() or (is_first_here() if heard else status not in (75, 130))):
        said = terminal.visible(masked(" ".join(message.split())))
        said = LONG.sub(_cut, said)
        if len(said) > MOST:
            said = f"{said[: MOST - 300]} … {said[-290:]}"
        leave_terminal()
        terminal.err(f"llmkit: error: {said}")
    return status
