"""`llmkit explain`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.cli import completion
from llmkit.cli.tasks import how_read, is_file
from llmkit.cli.use import Encoding, How, show_prompt
from llmkit.system import terminal
from llmkit.system.language import translate
from llmkit.system.plural import many
from llmkit.system.streams import as_json, typed
from llmkit.system.terminal import padded, visible

if TYPE_CHECKING:
    from llmkit.inference.explaining.explanation import Explanation
    from llmkit.inference.explaining.rows import FileRow

MOST_HEADS = 24
"""Heads that have a line each in the terminal."""
ENDINGS = (".png", ".svg", ".html")
"""What a picture's name may end with."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(explain)


def explain(
    model: Annotated[str, typer.Argument(
        metavar="MODEL", autocompletion=completion.models,
        help="A run, a folder, a hub id, or a name of the catalogue; TEXT, where --model names it.")],
    text: Annotated[str | None, typer.Argument(
        metavar="[TEXT|FILE]", help="A text or a question; or a file of these, or of rows of the model's task; - reads "
                                    "stdin.")] = None,
    named: Annotated[str | None, typer.Option(
        "--model", metavar="M", autocompletion=completion.models, help="The model, where TEXT stands alone.")] = None,
    what: Annotated[str, typer.Option(
        "--what", metavar="A,B,…", help="Of attention, tokens, layers, prompt; or all.")] = "all",
    target: Annotated[str | None, typer.Option(
        "--target", metavar="LABEL|TOKEN|ANSWER", help="What is explained, where not the likeliest answer.")] = None,
    at: Annotated[str | None, typer.Option(
        "--at", metavar="WORD|N|start|end", help="The word whose tag is explained, or its number from 0; of an answer "
                                                 "in a text, one of its ends.")] = None,
    context: Annotated[str | None, typer.Option(
        "--context", metavar="TEXT", help="The text in which an answer is looked for.")] = None,
    choice: Annotated[list[str], typer.Option(
        "--choice", metavar="TEXT", help="One of the answers that are chosen among; repeatable.")] = [],  # noqa: B006
    layer: Annotated[int | None, typer.Option(
        "--layer", metavar="N", help="Only this layer's attention, from 1.", min=1)] = None,
    head: Annotated[int | None, typer.Option(
        "--head", metavar="N", help="Only this head's attention, from 1.", min=1)] = None,
    hide: Annotated[str | None, typer.Option(
        "--hide", metavar="mask|remove", help="What occlusion does to a token; mask where the model has one.")] = None,
    pair: Annotated[str | None, typer.Option(
        "--pair", metavar="TEXT", help="The second text, where a classifier reads two.")] = None,
    written: Annotated[str | None, typer.Option(
        "--written", metavar="TEXT", help="What an encoder-decoder has written so far.")] = None,
    row: Annotated[int, typer.Option("--row", metavar="N", help="Which text, or row, of a file, from 0.", min=0)] = 0,
    output: Annotated[str | None, typer.Option(
        "--output", "-o", metavar="FILE.png|.svg|.html", help="A picture, or a page to walk through.")] = None,
    theme: Annotated[str, typer.Option(
        "--theme", metavar="light|dark", help="Of a picture; a page has both.")] = "light",
    encoding: Encoding = None, set_: How = [],  # noqa: B006
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Show what an answer rests on: attention, what each token is worth, what each layer would say."""
    from llmkit.inference.explaining import explanation as explaining
    from llmkit.system import report
    from llmkit.system.errors import RequestError, nearest

    report.to_stderr()
    if named is not None:
        if text is not None:
            raise RequestError("--model: the model is named twice; leave out one of MODEL and --model.")
        model, text = named, model
    for value, known, option in ((hide, ("mask", "remove"), "--hide"), (theme, ("light", "dark"), "--theme")):
        if value not in (None, *known):
            raise RequestError(f"{option} {value}: is neither {known[0]} nor {known[1]}.{nearest(str(value), known)}")
    parts = parts_of(what)
    if text is None:
        if parts == ("prompt",) and output is None:
            report.quiet_libraries()
            show_prompt(model, json_)
            return
        raise RequestError("TEXT: what is to be explained? As in `llmkit explain MODEL \"A lovely film.\"`.")
    place = None if output is None else where(output, text, model)
    read_as = how_read(text, set_, encoding, "explain")
    with given(text, row, read_as, model) as read:
        report.opening(model)
        made = explaining.explain(model, read, what=parts, pair=pair, written=written, target=target, context=context,
                                  choices=choice, at=at, hide=hide,  # type: ignore[arg-type]
                                  layer=layer, head=head)
    if place is not None:
        leave(made, place, theme)
    if json_:
        print(as_json(made.as_json()))
    elif place is None:
        show(made)
    else:
        terminal.err(f"{made.title}: {output}")
        for note in made.notes:
            terminal.err(f"note: {note}")


def parts_of(what: str) -> tuple[str, ...]:
    """--what as parts: all, or some with commas between."""
    from llmkit.inference.explaining.explanation import PARTS
    from llmkit.system.errors import RequestError, nearest

    asked = [part.strip() for part in what.split(",") if part.strip()]
    for part in asked:
        if part not in (*PARTS, "all"):
            raise RequestError(f"--what {part}: can't be shown.{nearest(part, (*PARTS, 'all'))}")
    if not asked:
        raise RequestError(f"--what: say what is to be shown, of {', '.join(PARTS)}, or all.")
    return PARTS if "all" in asked else tuple(part for part in PARTS if part in asked)


def where(output: str, text: str, model: str) -> Path:
    """Where a picture goes; an error where that can't be, before a model is opened."""
    from llmkit.data import jsonlines
    from llmkit.figures.paper import check_free
    from llmkit.models.run import spare
    from llmkit.system.errors import RequestError

    if Path(output).suffix.lower() not in ENDINGS:
        raise RequestError(f"--output {output}: a picture's name ends with .png or .svg, a page's with .html.")
    found = jsonlines.place(output, [text] if is_file(text) else [])
    spare(output, model)
    check_free(found)
    return found


@contextmanager
def given(text: str, row: int, read_as: dict[str, Any], model: str) -> Iterator[str | FileRow]:
    """The text itself, one of a file, or a row of a file where the model's task reads more than a text."""
    from llmkit.data.jsonlines import kept
    from llmkit.inference.explaining.rows import FileRow, task_of

    if (text == "-" or is_file(text)) and task_of(model) is not None:
        if text != "-":
            terminal.err(f"reading the file {text}")
        with kept(text) as path:
            yield FileRow(path, row, read_as.get("encoding"), read_as.get("fields", {}))
    else:
        yield one_of(text, row, read_as)


def one_of(text: str, row: int, read_as: dict[str, Any]) -> str:
    """The text itself, or one of a file."""
    from llmkit.data.jsonlines import kept
    from llmkit.data.sources import open_source
    from llmkit.inference.evaluate import said_by_option
    from llmkit.recipe import Source
    from llmkit.system.errors import RequestError

    if text != "-" and not is_file(text):
        if row:
            raise RequestError(f"--row {row}: is for a file; there is no file {text!r}, so that it is taken for a "
                               "text.")
        return typed(text, "TEXT")
    if text != "-":
        terminal.err(f"reading the file {text}")
    with said_by_option(), kept(text) as path:
        reader = open_source(Source(path, encoding=read_as.get("encoding", "utf-8"), fields=read_as.get("fields", {})),
                             "line", tables=True)
        count = 0
        for found, _ in reader.documents():
            if count == row:
                return found
            count += 1
    raise RequestError(f"--row {row}: there are {count:,} texts in {text}, numbered from 0.")


def leave(made: Explanation, place: Path, theme: str) -> None:
    """Write the picture or the page."""
    from llmkit.figures import document, paper
    from llmkit.inference.explaining import picture

    if place.suffix.lower() == ".html":
        document.write(picture.page(made), place)
    else:
        picture.draw(made, place, paper.DARK if theme == "dark" else paper.LIGHT)


# ---- in the terminal ----

def show(made: Explanation) -> None:
    """All parts as text."""
    terminal.out(f"{made.subject.name}: {translate(made.title)}")
    if len(made.likeliest) > 1:
        answers = ", ".join(f"{visible(name)} {value:.4f}" for name, value in made.likeliest)
        terminal.out(f"{translate('likeliest')}: {answers}")
    show_worth(made)
    show_layers(made)
    show_attention(made)
    if made.prompt is not None:
        from llmkit.planning.soft_words import spelled

        terminal.say("\nthe nearest words of each virtual token (cosine)")
        for one in made.prompt["virtual_tokens"]:
            words = "   ".join(f"{visible(spelled(word))} ({word['cosine']:.2f})" for word in one["nearest"])
            terminal.out(f"{one['position']:>4}  {one['side']}  {words}")
    for note in made.notes:
        terminal.err(f"note: {note}")
    terminal.err("note: such figures are hints, no reasons: docs/explaining.md says what they can't show.")


def show_worth(made: Explanation) -> None:
    """The text in colours, or with signs, for each way of weighing its tokens; then the figures."""
    from llmkit.figures import tokens as drawn
    from llmkit.inference.explaining.picture import figure, marks, translated
    from llmkit.system import report

    worth, subject = made.worth, made.subject
    if not worth:
        return
    for name, values in worth.items():
        terminal.out(f"\n{translate(name)}: {translate(made.units[name])}")
        drawn.show(marks(subject.tokens, values))
    terminal.out()
    report.table([translated("token", *worth), *(
        [token.text, *(figure(row[i]) for row in worth.values())]
        for i, token in enumerate(subject.tokens))])
    if made.beside:
        terminal.say("\nthe tokens of the other choices")
        report.table([translated("choice", "token", *made.beside), *(
            [choice, token.text, *(figure(row[i]) for row in made.beside.values())]
            for i, (choice, token) in enumerate(subject.beside))])
    behind = [] if made.occlusion is None else list(zip(subject.written, made.occlusion.written, strict=True))
    if any(value is not None for _, value in behind):
        terminal.say("\nocclusion of what was written")
        report.table([translated("token", "occlusion"), *(
            [token.text, figure(value)] for token, value in behind if value is not None)])


def show_layers(made: Explanation) -> None:
    """What each layer would say where the answer is read, or at the last position; the highest layer first."""
    from llmkit.inference.explaining.picture import layer_name, says

    found = made.lens
    if found is None:
        return
    aim = made.subject.aim
    at = len(found.positions) - 1 if aim is None else aim.where
    terminal.say(f"\nwhat each layer would say at {visible(found.positions[at].text)!r}, {says(found)}")
    for layer in reversed(found.layers):
        words = ", ".join(f"{visible(word.text)} {word.probability:.3f}" for word in layer.words[at])
        rank = "" if aim is None else f"   ({visible(aim.name)}: {layer.aim:.4f}, {translate('rank')} {layer.rank:,})"
        terminal.out(f"  {padded(translate(layer_name(layer.layer)), 11)} {words}{rank}")


def show_attention(made: Explanation) -> None:
    """One head as shades; of several, the strongest links of each layer, or of each head of one."""
    from llmkit.inference.explaining.explanation import looks
    from llmkit.inference.explaining.picture import SIDES

    for maps in made.maps or ():
        layers, heads = maps.weights.shape[:2]
        side = f"\n{translate('attention')}, {translate(SIDES[maps.side])}"
        count = translate(f"{many(layers, 'layer')} of {heads} heads")
        terminal.out(side if layers * heads == 1 else f"{side}: {count}")
        if layers * heads == 1:
            terminal.out(f"{translate('each row looks at the columns')}: "
                         + " ".join(visible(token.text) for token in maps.keys))
            for line in shaded(maps.weights[0, 0].tolist(), [token.text for token in maps.queries]):
                terminal.out(line)
            continue
        if layers * heads > MOST_HEADS:
            terminal.say("  the mean of each layer's heads; --layer N shows each of one")
            means = replace(maps, weights=maps.mean[:, None])
            for i in range(layers):
                terminal.out(f"  {translate(f'layer {maps.layer + i}')}: {visible(looks(means, i, 0))}")
            continue
        for i in range(layers):
            for j in range(heads):
                head = translate(f"layer {maps.layer + i}, head {maps.head + j}")
                terminal.out(f"  {head}: {visible(looks(maps, i, j))}")


def shaded(weights: Sequence[Sequence[float]], names: Sequence[str]) -> list[str]:
    """A map as lines of shades, a row a token that looks: ` ·░▒▓█` from 0 to 1."""
    wide = min(16, max(len(visible(name)) for name in names))
    steps = " ·░▒▓█"
    return [f"{visible(name)[:wide]:>{wide}} " + "".join(
        steps[min(len(steps) - 1, round(value * (len(steps) - 1) + 0.3))] for value in row)
        for name, row in zip(names, weights, strict=True)]
