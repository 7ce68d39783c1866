"""`llmkit summarize`, `llmkit translate`, `llmkit answer`, `llmkit classify` and `llmkit tag`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.cli import completion
from llmkit.cli.search import Mix
from llmkit.cli.use import Encoding, How, reading
from llmkit.system import terminal
from llmkit.system.plural import many
from llmkit.system.streams import as_json, stdin_lines, typed
from llmkit.system.terminal import visible

if TYPE_CHECKING:
    from llmkit.inference.verbs import Rows, Said

SUFFIXES = (".txt", ".md", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".gz", ".conll")
"""A single word that ends so is meant as a file, be it there or not."""

Text = Annotated[str, typer.Argument(
    metavar="TEXT|FILE", help="A text; a file, where one has that name: text, .jsonl, .csv …; - reads stdin.")]
Model = Annotated[str | None, typer.Option(
    "--model", metavar="M", autocompletion=completion.models,
    help="A run, a folder, a hub id, or a name from `llmkit models list`.")]
Output = Annotated[str | None, typer.Option(
    "--output", "-o", metavar="OUT.jsonl|.csv",
    help="Write what is said there, one JSON object a row; a .csv or .tsv has the text, too.")]
MaxLength = Annotated[int | None, typer.Option(
    "--max-length", metavar="N", help="Tokens the model sees at once.", min=1)]
BatchSize = Annotated[int, typer.Option("--batch-size", metavar="N", help="Rows at once.", min=1)]
MaxNewTokens = Annotated[int | None, typer.Option(
    "--max-new-tokens", metavar="N", help="Most tokens to write for a row.", min=1)]
Document = Annotated[str | None, typer.Option(
    "--document", metavar="line|paragraph|file", help="What a row is in a text file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (summarize, translate, answer, classify, tag):
        app.command()(command)


def summarize(
    text: Text, model: Model = None, output: Output = None, max_new_tokens: MaxNewTokens = None,
    document: Document = None, max_length: MaxLength = None, batch_size: BatchSize = 16, encoding: Encoding = None,
    set_: How = [], json_: Json = False,  # noqa: B006
) -> None:
    """Say a text in few words. A text file is one text, rows of a table are one each."""
    from llmkit.inference import verbs

    rows = given(text, "text")
    how = chosen(document=document, max_new_tokens=max_new_tokens, max_length=max_length, batch_size=batch_size,
                 **how_read(text, set_, encoding, "summarize"))
    tell(lambda: verbs.summarize(rows, model, **how), output, json_, model, (text,),
         lambda row, said: said["text"])


def translate(
    text: Text, model: Model = None,
    to: Annotated[str | None, typer.Option(
        "--to", metavar="LANGUAGE", help="The language to write: de, or German. A run knows its own.")] = None,
    from_: Annotated[str | None, typer.Option(
        "--from", metavar="LANGUAGE", help="The language of the text, where the model needs it; else en.")] = None,
    output: Output = None, max_new_tokens: MaxNewTokens = None, document: Document = None,
    max_length: MaxLength = None, batch_size: BatchSize = 16, encoding: Encoding = None,
    set_: How = [], json_: Json = False,  # noqa: B006
) -> None:
    """Say a text in another language. Of a text file, each line or paragraph."""
    from llmkit.inference import verbs

    rows = given(text, "source")
    how = chosen(document=document, max_new_tokens=max_new_tokens, max_length=max_length, batch_size=batch_size,
                 **how_read(text, set_, encoding, "translate"))
    tell(lambda: verbs.translate(rows, model, to, from_, **how), output, json_, model, (text,),
         lambda row, said: said["text"])


def answer(
    question: Annotated[str, typer.Argument(
        metavar="QUESTION|FILE", help="A question; a file of questions for --in; or rows with question and context, as "
                                      ".jsonl, .csv, SQuAD's .json; - reads stdin.")],
    more: Annotated[list[str], typer.Argument(
        metavar="FILE", help="More files, as --in docs/*.md gives them.")] = [],  # noqa: B006
    context: Annotated[str | None, typer.Option(
        "--context", metavar="TEXT|FILE", help="The text that holds the answer; - reads stdin.")] = None,
    in_: Annotated[list[str], typer.Option(
        "--in", metavar="FOLDER|FILE", help="Where to search for passages that hold the answer; repeatable.",
    )] = [],  # noqa: B006
    model: Model = None,
    embedder: Annotated[str | None, typer.Option(
        "--embedder", metavar="M", autocompletion=completion.models,
        help="Of --in, the sentence encoder that searches; minilm-l6.")] = None,
    top: Annotated[int | None, typer.Option(
        "--top", "--k", metavar="N", help="Of --in, how many passages are read at most; 4.", min=1)] = None,
    least: Annotated[float | None, typer.Option(
        "--least", metavar="COSINE", help="Of --in, how near a passage must be for an answer; 0.3.")] = None,
    mix: Mix = False,
    passage_tokens: Annotated[int | None, typer.Option(
        "--passage-tokens", metavar="N", help="Of --in, tokens of a passage at most.")] = None,
    approximate: Annotated[bool, typer.Option(
        "--approximate", help="Of --in, compare a part of a large index only: llmkit-train[search].")] = False,
    temperature: Annotated[float | None, typer.Option(
        "--temperature", metavar="T", help="Of --in, above 1 bolder, below 1 safer; 0: the likeliest token.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Of --in, for --temperature.")] = None,
    output: Output = None, max_new_tokens: MaxNewTokens = None, max_length: MaxLength = None,
    batch_size: BatchSize = 16, encoding: Encoding = None,
    set_: How = [], json_: Json = False,  # noqa: B006
) -> None:
    """Answer a question from a text, or from the files of a folder: by a part of a text, or in the model's words."""
    from llmkit.inference import verbs
    from llmkit.system.errors import RequestError

    searching = chosen(embedder=embedder, top=top, least=least, passage_tokens=passage_tokens,
                       approximate=approximate or None, mix=mix or None, temperature=temperature, seed=seed)
    if in_:
        if context is not None:
            raise RequestError("--context: the answer is to be found in --in; give one of the two.")
        if encoding is not None:
            raise RequestError(f"--encoding {encoding}: files that are searched are read as UTF-8; leave it out.")
        if set_:
            raise RequestError(f"--set {set_[0]}: files that are searched have no fields of their own; leave it out.")
        _from_files(question, [*in_, *more], model, searching,
                    chosen(max_new_tokens=max_new_tokens, max_length=max_length), output, json_, batch_size)
        return
    if more:
        raise RequestError(f"{more[0]}: further files are for --in, which searches them.")
    if searching:
        raise RequestError(f"--{next(iter(searching)).replace('_', '-')}: is for --in, which searches for passages.")
    rows: Rows
    if context is not None:
        if set_:
            raise RequestError(f"--set {set_[0]}: is for a file of rows, and --context is one text; leave it out.")
        read_as = chosen(encoding=encoding)
        rows = [{"question": typed(question, "question"), "context": whole(context, encoding)}]
    else:
        rows = given(question, "question")
        if not isinstance(rows, str):
            raise RequestError("--context: where is the answer to be found? Give a text, a file, or - for stdin; "
                               "search a folder by --in; or give a file of rows with question and context instead of "
                               "the question.")
        read_as = how_read(question, set_, encoding, "answer")
    how = chosen(max_new_tokens=max_new_tokens, max_length=max_length, batch_size=batch_size, **read_as)
    read = (question, *([] if context is None else [context]))
    tell(lambda: verbs.answer(rows, model, **how), output, json_, model, read, found)


def _from_files(
    question: str, where: Sequence[str], model: str | None, searching: dict[str, Any], writing: dict[str, Any],
    output: str | None, json_: bool, batch_size: int,
) -> None:
    """Search, answer, and say where the answer stands."""
    from llmkit.inference import verbs
    from llmkit.inference.answering import answer as answering
    from llmkit.inference.writing.options import Options
    from llmkit.system import report

    def ask() -> Said:
        report.quiet_libraries()
        several = question == "-" or is_file(question)
        if several and question != "-":
            terminal.err(f"reading the file {question}")
        asked = answering.questions_in(question) if several else iter([typed(question, "QUESTION")])
        options = Options(**{name: value for name, value in {**searching, **writing}.items()
                             if name in ("max_new_tokens", "temperature", "seed")})
        opening = {name: value for name, value in {**searching, **writing}.items()
                   if name in ("embedder", "top", "least", "mix", "passage_tokens", "approximate", "max_length")}
        first = list(islice(asked, 1))  # what is wrong with the file is told before a model is opened
        asker = answering.Answerer.open(where, model or verbs.WRITER, options=options, **opening)
        replies = asker.replies(chain(first, asked), batch_size)
        return verbs.Said(asker.model, (({"question": one.question}, one.as_json()) for one in replies),
                          asker.notes)

    tell(ask, output, json_, model, (question, *where), rests)


def rests(row: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    """The answer, and below it the passages that it rests on; `*` stands before those that it names."""
    from llmkit.cli.search import laid_out
    from llmkit.inference.search import Hit

    for note in said["notes"]:
        terminal.err(note)
    head = said["answer"] if said["answer"] is not None else "no answer: " + (
        "the passages don't hold it" if said["passages"] else "nothing near enough was found")
    if said.get("start") is not None:
        number = next(one["number"] for one in said["passages"] if one["cited"])
        head += f"\n  score {said['score']:.2f}, characters {said['start']}-{said['end']} of [{number}]"
    marks = [f"[{one['number']}]{'*' if one['cited'] else ' '} " for one in said["passages"]]
    hits = [Hit(**{name: value for name, value in one.items() if name not in ("number", "cited")})
            for one in said["passages"]]
    return "\n".join([head, "", *(line for line, _ in laid_out(hits, marks))])


def classify(
    text: Text, model: Model = None,
    labels: Annotated[str | None, typer.Option(
        "--labels", metavar="A,B,…", help="Labels to compare by meaning, without a trained classifier.")] = None,
    hypothesis: Annotated[str | None, typer.Option(
        "--hypothesis", metavar="TEXT", help="What stands for a label; 'This text is about {label}.'")] = None,
    output: Output = None, document: Document = None, max_length: MaxLength = None, batch_size: BatchSize = 16,
    encoding: Encoding = None, set_: How = [], json_: Json = False,  # noqa: B006
) -> None:
    """Say which label a text has, by a classifier; or which of --labels is closest to it in meaning."""
    from llmkit.inference import verbs

    rows = given(text, "text")
    some = [label.strip() for label in (labels or "").split(",") if label.strip()]
    how = chosen(document=document, max_length=max_length, batch_size=batch_size,
                 **how_read(text, set_, encoding, "classify"))
    tell(lambda: verbs.classify(rows, model, some, hypothesis, **how), output, json_, model, (text,), labelled)


def tag(
    text: Text, model: Model = None, output: Output = None, max_length: MaxLength = None, batch_size: BatchSize = 16,
    encoding: Encoding = None, set_: How = [], json_: Json = False,  # noqa: B006
) -> None:
    """Say of each word what it is: names and their kinds, or parts of speech."""
    from llmkit.inference import verbs

    rows = given(text, "tokens")
    how = chosen(max_length=max_length, batch_size=batch_size, **how_read(text, set_, encoding, "tag"))
    tell(lambda: verbs.tag(rows, model, **how), output, json_, model, (text,), marked)


# ---- what comes in ----

def given(text: str, field: str) -> Rows:
    """A file where one has that name, and that is said; else the text itself as a row."""
    if text == "-" or not is_file(text):
        return text if text == "-" else [{field: typed(text, field)}]
    terminal.err(f"reading the file {text}")
    return text


def how_read(text: str, settings: Sequence[str], encoding: str | None, verb: str) -> dict[str, Any]:
    """How the rows of a file are read, by the options: {"encoding": "gb18030", "fields": {"text": "review"}}.

    RequestError where there is no file, or where bad rows are to be left out.
    """
    from llmkit.system.errors import RequestError

    if settings and text != "-" and not is_file(text):
        raise RequestError(f"--set {settings[0]}: says how the rows of a file are read; there is no file {text!r}, so "
                           "that it is taken for a text.")
    asked = reading(text, settings, "error", encoding)
    if asked.pop("on_bad_row") != "error":
        raise RequestError(f"--set data.on_bad_row: {verb} leaves no row out; `llmkit predict` does, by "
                           "--on-bad-row skip.")
    if "target" in asked:
        raise RequestError(f"--set data.train: {verb} reads one file; target is for `llmkit evaluate`.")
    return chosen(**asked)


def whole(text: str, encoding: str | None = None) -> str:
    """The text; or all of a file or of stdin as one text."""
    if text == "-":
        return "".join(stdin_lines())
    if not text.strip():
        from llmkit.system.errors import RequestError

        raise RequestError("--context: is empty; give the text that holds the answer, a file with it, or - for stdin.")
    if not is_file(text):
        return typed(text, "--context")
    from llmkit.data.sources import open_source
    from llmkit.inference.evaluate import said_by_option
    from llmkit.recipe import Source

    terminal.err(f"reading the file {text}")
    with said_by_option():
        return "\n\n".join(
            part for part, _ in open_source(Source(text, encoding=encoding or "utf-8"), "file").documents())


def is_file(text: str) -> bool:
    """Whether a file has that name, or one word looks as if it should be: then what is missing is told."""
    return os.path.isfile(text) or (len(text.split()) == 1 and text.lower().endswith(SUFFIXES))


def chosen(**how: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in how.items() if value is not None}


# ---- what goes out ----

def tell(
    ask: Callable[[], Said], output: str | None, json_: bool, model: str | None, read: Sequence[str],
    show: Callable[[Mapping[str, Any], Mapping[str, Any]], str],
) -> None:
    """Ask a model, and print what it says of each row, or write it to a file; what to know of it goes to stderr.

    `read` is what may be files that the rows come from: the output is none of these.
    """
    from llmkit.data import jsonlines, tabled
    from llmkit.models.run import spare
    from llmkit.system import report

    report.to_stderr()
    files = [one for one in read if is_file(one)]
    if output not in (None, "-"):
        jsonlines.place(str(output), files)
        spare(str(output), model)
    said = ask()
    for note in said.notes if not json_ else ():
        terminal.err(note)
    beside = output is not None and tabled.is_table(output)
    predictions = (tabled.beside(row, one) if beside else one for row, one in said.predictions)
    if output is not None:
        count = jsonlines.write(predictions, output, files)
        if json_:
            print(json.dumps({"model": said.model, "output": output, "rows": count, "notes": said.notes}))
        else:
            terminal.err(f"{many(count, 'row')}: {output}")
    elif json_:
        print(as_json({"model": said.model, "predictions": list(predictions), "notes": said.notes}))
    else:
        for row, one in said.predictions:
            terminal.out(show(row, one))


def labelled(row: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    """A line a text: `positive  0.98  A lovely film.`"""
    if "cosines" in said:
        figures = ", ".join(f"{visible(label)} {cosine:.2f}" for label, cosine in said["cosines"].items())
        return f"{visible(said['label'])}  ({figures})  {_start(row['text'])}"
    if "labels" in said:
        figures = ", ".join(f"{visible(label)} {said['scores'][label]:.2f}" for label in said["labels"])
        return f"{figures or 'no label'}  {_start(row['text'])}"
    figure = f"{said['score']:.2f}"
    return "  ".join([*([visible(said["label"])] if "label" in said else []), figure, _start(row["text"])])


def found(row: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    """The answer; under it how sure it is, and where in its context it stands."""
    if "text" in said:
        return str(said["text"])
    if said["start"] is None:
        return f"no answer in this text\n  score {said['score']:.2f}"
    start, end, context = said["start"], said["end"], row["context"]
    before, after = context[max(0, start - 40):start], context[end:end + 40]
    around = " ".join(f"{'…' if start > 40 else ''}{before}[{said['answer']}]{after}"
                      f"{'…' if end + 40 < len(context) else ''}".split())
    return f"{said['answer']}\n  score {said['score']:.2f}, characters {start}-{end}: {around}"


def marked(row: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    """The text as `[the cat WHO] saw it`, and each entity with its score; where tags mark none, `the/DET cat/NOUN`."""
    from llmkit.tasks.shared.tagged.words import joined

    if "entities" not in said:
        return " ".join(f"{word}/{tag}" for word, tag in zip(said["tokens"], said["tags"], strict=True))
    words: list[str] = []
    at = 0
    for one in said["entities"]:
        words += [*said["tokens"][at : one["start"]], f"[{one['text']} {one['entity']}]"]
        at = one["end"]
    lines = [joined([*words, *said["tokens"][at:]])]
    wide = max((len(one["entity"]) for one in said["entities"]), default=0)
    return "\n".join([*lines, *(f"  {one['entity']:<{wide}}  {one['score']:.2f}  {one['text']}"
                                for one in said["entities"])])


def _start(text: str, most: int = 60) -> str:
    """The first words of a text."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"
