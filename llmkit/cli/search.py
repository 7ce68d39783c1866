"""`llmkit search`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from llmkit.cli import completion
from llmkit.system import terminal
from llmkit.system.streams import as_json, stdin_lines, typed
from llmkit.system.terminal import visible, visible_lines

if TYPE_CHECKING:
    from rich.console import Console

    from llmkit.inference.search import Hit

MARGIN = " " * 7
"""Before a passage's lines: as wide as a score and the space behind it."""

Precision = Annotated[str, typer.Option(
    "--precision", metavar="NAME", help="fp32, bf16 or fp16; auto: what a run learned in, where that is fast here.")]
Mix = Annotated[bool, typer.Option(
    "--mix", help="Rank by words too (BM25), and fuse both orders: llmkit-train[search].")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(search)


def search(
    query: Annotated[str, typer.Argument(
        metavar="QUERY", help="What is looked for, in words; - reads queries from stdin, one a line.")],
    in_: Annotated[list[str], typer.Option(
        "--in", metavar="FOLDER|FILE", help="Where: a folder, a file, a glob, builtin:python-docs; repeatable.")],
    more: Annotated[list[str], typer.Argument(
        metavar="FILE", help="More files, as --in docs/*.md gives them.")] = [],  # noqa: B006
    model: Annotated[str, typer.Option(
        "--model", metavar="M", autocompletion=completion.models,
        help="A sentence encoder: a run, a folder, a hub id, or a catalogue name.",
    )] = "minilm-l6",
    top: Annotated[int, typer.Option("--top", metavar="N", help="How many passages.", min=1)] = 5,
    passage_tokens: Annotated[int | None, typer.Option(
        "--passage-tokens", metavar="N", help="Tokens of a passage at most; 128, or what the model reads.")] = None,
    approximate: Annotated[bool, typer.Option(
        "--approximate", help="Compare a part of a large index only, by FAISS: llmkit-train[search].")] = False,
    mix: Mix = False,
    precision: Precision = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Find passages by meaning. The index is built once and kept; only what is new of the files is read again."""
    from llmkit.system import report

    report.to_stderr()
    report.opening(model)
    from llmkit.inference import search as searching

    report.quiet_libraries()
    searcher = searching.Searcher.open([*in_, *more], model, passage_tokens=passage_tokens,
                                       approximate=approximate, mix=mix, precision=precision)
    if json_:
        found = [{"query": one, "model": model, "results": [hit.as_json() for hit in hits],
                  "indexed": searcher.indexed} for one in _queries(query) for hits in searcher.search([one], top)]
        print(as_json(found if query == "-" else found[0]))
        return
    for one in _queries(query):
        if query == "-":
            terminal.out(f"\n{one}\n")
        for hits in searcher.search([one], top):
            show(hits)


def _queries(query: str) -> Iterator[str]:
    """The query, or those of stdin as they come."""
    if query != "-":
        yield typed(query, "QUERY")
        return
    if sys.stdin.isatty():
        terminal.err("A query a line; Ctrl-D ends.")
    there = False
    for line in stdin_lines():
        if line.strip():
            there = True
            yield line.strip()
    if not there:
        from llmkit.system.errors import DataError

        raise DataError("stdin: no query stands there; a line each is read.")


def show(hits: Sequence[Hit]) -> None:
    """Each passage below its score and its place."""
    from rich.text import Text

    console = _console()
    for line, heads in laid_out(hits):
        console.print(Text(line, style="bold" if heads else ""))


def laid_out(hits: Sequence[Hit], marks: Sequence[str] = ()) -> Iterator[tuple[str, bool]]:
    """(line, whether it is a passage's first) for stdout; a mark stands before each score, where there are some."""
    from textwrap import dedent

    from rich.text import Text

    console = _console()
    for mark, hit in zip(marks or [""] * len(hits), hits, strict=True):
        yield visible(f"{mark}{hit.score:.3f}  {hit.file}:{hit.line}  {hit.title}".rstrip()), True
        for line in Text(visible_lines(dedent(hit.text))).wrap(console, console.width - len(MARGIN)):
            yield f"{MARGIN}{line.plain.rstrip()}".rstrip(), False
        yield "", False


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 10_000, highlight=False)  # a pipe gets lines as they are
