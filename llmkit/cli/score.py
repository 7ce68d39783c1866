"""`llmkit score`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.cli import completion
from llmkit.cli.tasks import how_read, is_file
from llmkit.cli.use import Encoding, How
from llmkit.system import terminal
from llmkit.system.language import exactly, translate
from llmkit.system.plural import many
from llmkit.system.streams import as_json, typed

if TYPE_CHECKING:
    from llmkit.data.sources import Reader
    from llmkit.inference.sentences import Sentences


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(score)


def score(
    text: Annotated[str, typer.Argument(
        metavar="TEXT|FILE", help="A sentence; a file with one a line or in a field text; or pairs of sentences, in "
        "the columns good and bad, or as BLiMP and CrowS-Pairs have them. - reads stdin.")],
    model: Annotated[str, typer.Option(
        "--model", metavar="M", autocompletion=completion.models,
        help="A causal, masked or encoder-decoder model: a run, a folder, a hub id, or a name of the catalogue.",
    )] = "smollm2-135m-instruct",
    given: Annotated[str, typer.Option(
        "--given", metavar="TEXT", help="What stands before and isn't counted; what an encoder reads.")] = "",
    floor: Annotated[str | None, typer.Option(
        "--floor", metavar="FILE", help="A text whose n-grams stand beside the model.")] = None,
    shared: Annotated[bool, typer.Option(
        "--shared", help="Of pairs, count only the tokens that both have: CrowS-Pairs' way with a masked model.",
    )] = False,
    output: Annotated[str, typer.Option(
        "--output", "-o", metavar="OUT.jsonl", help="Where the scores of a file's texts or pairs go.")] = "-",
    encoding: Encoding = None, set_: How = [],  # noqa: B006
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Say how likely a model finds a text, token by token, or which of two sentences it prefers: grammar, bias."""
    from llmkit.system import report

    report.to_stderr()
    report.opening(model)
    from llmkit.data import jsonlines
    from llmkit.data.jsonlines import kept
    from llmkit.data.sources import open_source
    from llmkit.inference import sentences as scoring
    from llmkit.inference.evaluate import said_by_option
    from llmkit.models.run import spare
    from llmkit.recipe import Source
    from llmkit.system.errors import RequestError

    read = [text, *([] if floor is None else [floor])]
    if output != "-":  # before a model is opened
        jsonlines.place(output, read)
        spare(output, model)
    own = how_read(text, set_, encoding, "score")
    if text != "-" and not is_file(text):
        if shared or output != "-":
            raise RequestError(f"{'--shared' if shared else '--output'}: is for a file; there is no file {text!r}, so "
                               "that it is taken for a text.")
        _one(scoring.opened(model, given, floor), typed(text, "TEXT"), json_)
        return
    with said_by_option(), kept(text) as path:
        source = Source(path, encoding=own.get("encoding", "utf-8"), fields=own.get("fields", {}))
        reader = open_source(source, "line")
        asked = scoring.opened(model, given, floor)
        found = scoring.pairs_in(reader)
        for note in reader.notes:
            report.log.info("%s", note)
        if found is not None:
            _pairs(asked, found, shared, output, read, json_)
        elif shared:
            raise RequestError("--shared: is for pairs of sentences, in columns good and bad.")
        else:
            _texts(asked, reader, output, read, json_)


def _one(asked: Sentences, text: str, json_: bool) -> None:
    """The tokens of a text, and the whole."""
    from llmkit.system import report

    (told,) = asked.score([text])
    if json_:
        terminal.out(as_json({**told.as_json(), "how": asked.how}))
        return
    report.table([["token", "logprob"], *([repr(token.text)[1:-1], f"{token.logprob:.4f}"] for token in told.tokens)])
    terminal.say(f"\n{told.logprob:.4f} in {many(len(told.tokens), 'token')}, perplexity {told.perplexity:,.2f}: "
                 f"{asked.how}")
    if told.floor is not None:
        terminal.say(f"{told.floor:.4f} by n-grams: a floor")


def _texts(asked: Sentences, reader: Reader, output: str, read: Sequence[str], json_: bool) -> None:
    """A line of JSON for each text of a file; then the whole in words."""
    from llmkit.data import jsonlines
    from llmkit.system import report

    total, tokens, floor = 0.0, 0, 0.0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal total, tokens, floor
        for told in asked.score(text for text, _ in reader.documents()):
            total, tokens, floor = total + told.logprob, tokens + len(told.tokens), floor + (told.floor or 0.0)
            yield told.as_json()

    if json_ and output == "-":
        terminal.out(json.dumps({"how": asked.how, "texts": list(rows())}))
        return
    count = jsonlines.write(rows(), output, read)
    beside = f"; {floor:,.2f} by n-grams, a floor" if asked.floor is not None else ""
    report.log.info("%s, %s: %.2f in all%s; %s", many(count, "text"), many(tokens, "token"), total, beside, asked.how)


def _pairs(
    asked: Sentences, found: Any, shared: bool, output: str, read: Sequence[str], json_: bool,
) -> None:
    """How often the first sentence of two is preferred, by group."""
    from llmkit.data import jsonlines
    from llmkit.inference import sentences as scoring
    from llmkit.system import report

    columns, pairs = found
    made: list[Any] = []

    def rows() -> Iterator[dict[str, Any]]:
        for pair in scoring.compared(asked, pairs, shared):
            made.append(pair)
            yield {"group": pair.group, "good": pair.good.text, "bad": pair.bad.text,
                   "good_logprob": pair.good.logprob, "bad_logprob": pair.bad.logprob, "preferred": pair.preferred}

    if output == "-":
        for _ in rows():
            pass
    else:
        jsonlines.write(rows(), output, read)
    groups = scoring.by_group(made)
    what = f"{columns['good']} over {columns['bad']}"
    if json_:
        terminal.out(as_json({"preferred": what, "how": asked.how, "shared": shared, "groups": groups}))
        return
    floors = any("floor" in group for group in groups)
    head = [*map(translate, ("group", "preferred", "95 %", "pairs")), *(["n-grams"] if floors else [])]
    report.table([head, *([
        group["group"], f"{group['preferred']:.4f}", f"{group['low']:.3f} to {group['high']:.3f}",
        f"{group['pairs']:,}", *([f"{group['floor']:.4f}"] if floors else [])] for group in groups)])
    preferred = exactly("{good} over {bad}: chance is 0.5.").format(**columns)
    terminal.out(f"\n{preferred} {translate(asked.how)}")
