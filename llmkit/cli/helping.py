"""The pages of --help in the language that is chosen: what typer writes of its own, and columns of wide letters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import typer

from llmkit.system import language
from llmkit.system.terminal import columns, folded

NOTE = re.compile(r"\[((?:default|env var): [^\]]*|required)\]$")
"""What typer puts behind the help of an option."""


def told(command: Any) -> Any:
    """A command whose help is in the language that is chosen, with all that is below it."""
    for name in ("help", "short_help", "epilog"):
        if text := getattr(command, name, None):
            paragraphs = (language.exactly(" ".join(paragraph.split())) for paragraph in text.split("\n\n"))
            setattr(command, name, "\n\n".join(paragraphs))
    for option in command.params:
        if getattr(option, "help", None):
            option.help = language.exactly(option.help)
    if language.chosen() != language.ENGLISH:
        command.context_class = type("Shown", (command.context_class,), {"formatter_class": page()})
    for below in getattr(command, "commands", {}).values():
        told(below)
    return command


def page() -> type[Any]:
    """How a page is written: typer's way, with its own words translated and lines cut by columns, not by letters."""
    usual: Any = typer.Context.formatter_class

    def write_usage(self: Any, prog: str, args: str = "", prefix: str | None = None) -> None:
        usual.write_usage(self, prog, args, language.exactly("Usage: ") if prefix is None else prefix)

    def write_heading(self: Any, heading: str) -> None:
        self.write(f"{'':>{self.current_indent}}{language.exactly(heading)}：\n")

    def write_text(self: Any, text: str) -> None:
        before = " " * self.current_indent
        for paragraph in text.split("\n\n"):
            self.write("".join(f"{before}{line}\n" for line in folded(paragraph, self.width - self.current_indent)))

    def write_dl(self: Any, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        first = min(max(columns(name) for name, _ in rows), col_max) + col_spacing
        for name, text in rows:
            self.write(f"{'':>{self.current_indent}}{name}")
            over = columns(name) > first - col_spacing
            room = max(self.width - first - self.current_indent, 10)
            after = f"\n{'':>{first + self.current_indent}}"
            text = after.join(folded(noted(text), room))
            self.write((after if over else " " * (first - columns(name))) + text + "\n")

    return type("Page", (usual,), {
        "write_usage": write_usage, "write_heading": write_heading, "write_text": write_text, "write_dl": write_dl})


def noted(text: str) -> str:
    """The help of an option, with what typer puts behind it translated: `[default: 1]`, `[required]`."""
    help_ = language.exactly(NOTE.sub("", text).strip())
    return "  ".join([help_, *(f"[{language.translate(found[1])}]" for found in NOTE.finditer(text))])
