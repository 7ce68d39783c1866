"""Pages of the commands, made from what `--help` says: for man (`make man`), and for the site (`make site`).

    python docs/manual.py dist/man          llmkit.1, llmkit-pretrain.1, llmkit-models-list.1 …
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECTION = "1"


def commands() -> Iterator[tuple[str, Any]]:
    """(`llmkit models list`, the command) of the program, its commands and the commands of these; hidden ones aside."""
    from typer.main import get_command

    from llmkit.cli import app, whole

    yield from _below("llmkit", whole(get_command(app)))


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for word, below in getattr(command, "commands", {}).items():
        if not below.hidden:
            yield from _below(f"{name} {word}", below)


def paragraphs(command: Any) -> list[str]:
    """What a command does, a paragraph each on one line."""
    return [" ".join(text.split()) for text in (command.help or "").split("\n\n")]


def usage(name: str, command: Any) -> str:
    """`llmkit models pull [OPTIONS] {NAME}`"""
    return " ".join([name, *command.collect_usage_pieces(_context(name, command))])


def rows(name: str, command: Any) -> list[tuple[str, str]]:
    """(`--seed N`, what it is for) of each argument and option that is shown."""
    context = _context(name, command)
    order = sorted(command.get_params(context), key=lambda one: one.param_type_name != "argument")
    shown = (one.get_help_record(context) for one in order)
    return [(one.removesuffix(" <str>"), " ".join((about or "").split()))
            for one, about in (row for row in shown if row)]


def _context(name: str, command: Any) -> Any:
    return command.context_class(command, info_name=name)


def man(name: str, command: Any, version: str) -> str:
    """A page for man: what is typed in bold, each option a tagged paragraph."""
    first, *rest = paragraphs(command)
    title = name.replace(" ", "-")
    below = [other for other in getattr(command, "commands", {}).items() if not other[1].hidden]
    lines = [f'.TH "{title.upper()}" "{SECTION}" "" "llmkit {version}" "llmkit"', ".SH NAME",
             rf"{troff(title)} \- {troff(first)}", ".SH SYNOPSIS", troff(usage(name, command))]
    if rest:
        lines += [".SH DESCRIPTION", *(line for text in rest for line in (".PP", troff(text)))]
    if options := rows(name, command):
        lines += [".SH OPTIONS", *(line for one, about in options
                                   for line in (".TP", rf"\fB{troff(one)}\fP", troff(about) or r"\ "))]
    if below:
        lines += [".SH COMMANDS", *(line for word, one in below for line in (
            ".TP", rf"\fB{troff(f'{title}-{word}')}\fP({SECTION})", troff(paragraphs(one)[0])))]
    lines += [".SH EXIT STATUS", troff(STATUS)]
    if name != "llmkit":
        lines += [".SH SEE ALSO", rf"\fBllmkit\fP({SECTION})"]
    return "\n".join(lines) + "\n"


STATUS = ("0 done, 2 the request is wrong, 3 the data, 4 the checkpoint, 5 a number stopped being finite, 6 the place, "
          "75 stopped by SIGTERM after a checkpoint, 130 by SIGINT, 1 unforeseen.")


def troff(text: str) -> str:
    """A line that troff shows as it is: its backslashes, hyphens, dots and quotes where a line begins, and … as a name.

    >>> troff(".csv - or …")
    '\\\\&.csv \\\\- or \\\\[u2026]'
    """
    shown = text.replace("\\", r"\e").replace("-", r"\-")
    shown = "".join(one if one.isascii() else rf"\[u{ord(one):04X}]" for one in shown)
    return rf"\&{shown}" if shown.startswith((".", "'")) else shown


def markdown(name: str, command: Any) -> str:
    """A page for the site."""
    first, *rest = paragraphs(command)
    lines = [f"# {name}", "", plain(first), "", *(line for text in rest for line in (plain(text), "")),
             "```", usage(name, command), "```", ""]
    if options := rows(name, command):
        lines += ["| | |", "|---|---|", *(
            f"| `{cell(one)}` | {cell(plain(about))} |" for one, about in options), ""]
    below = [other for other in getattr(command, "commands", {}).items() if not other[1].hidden]
    lines += [f"- [{name} {word}]({file_of(f'{name} {word}')}): {plain(paragraphs(one)[0])}" for word, one in below]
    return "\n".join(lines).rstrip() + "\n"


def file_of(name: str) -> str:
    """`llmkit-models-list.md`, the page of a command."""
    return f"{name.replace(' ', '-')}.md"


def plain(text: str) -> str:
    """Words of a help page as Markdown shows them; what stands between backticks is code already."""
    pieces = re.split("(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else re.sub(r"([\\*_<>\[\]])", r"\\\1", piece) for piece in pieces)


def cell(text: str) -> str:
    """A text that may stand in a table."""
    return text.replace("|", "\\|")


def main() -> int:
    from llmkit.system.machine import installed

    os.environ["LLMKIT_LANG"] = "en"
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "dist/man")
    folder.mkdir(parents=True, exist_ok=True)
    pages = list(commands())
    for name, command in pages:
        text = man(name, command, installed("llmkit") or "")
        (folder / f"{name.replace(' ', '-')}.{SECTION}").write_text(text, encoding="utf-8")
    print(f"{folder}: {len(pages)} pages; man -l {folder}/llmkit.{SECTION} shows one")
    return 0


if __name__ == "__main__":
    sys.exit(main())
