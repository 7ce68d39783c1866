"""`llmkit evaluate`, `llmkit predict`, `llmkit inspect` and `llmkit export`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from llmkit.cli import completion, train
from llmkit.cli.looking import pictures
from llmkit.cli.train import Held, Model, Rows, Task
from llmkit.system import terminal
from llmkit.system.addresses import at_home
from llmkit.system.language import exactly, translate
from llmkit.system.plural import many
from llmkit.system.streams import as_json
from llmkit.system.terminal import padded, visible

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
BadRow = Annotated[str, typer.Option(
    "--on-bad-row", metavar="error|skip", help="What a bad row does: end it all, or be left out and counted.")]

How = Annotated[list[str], typer.Option(
    "--set", metavar="DATA.KEY=VALUE", help="How rows are read, as a recipe's data says it; repeatable.")]
Encoding = Annotated[str | None, typer.Option(
    "--encoding", metavar="NAME", help="How the file's bytes are read; as a run read its own rows, else utf-8.")]
Precision = Annotated[str, typer.Option(
    "--precision", metavar="NAME", help="fp32, bf16 or fp16; auto: what a run learned in, where that is fast here; "
    "int8: on a CPU, weights of 8 bits.")]
MOST_NAMED = 30
"""Columns that are named where there are more."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(evaluate)
    app.command()(predict)
    app.command()(inspect)
    app.command()(export)


def evaluate(
    model: Annotated[str, typer.Argument(
        metavar="RUN|MODEL", autocompletion=completion.models,
        help="A run, a folder, a hub id, or a catalogue name.")],
    data: Annotated[str, typer.Option("--data", metavar="FILE", help="Text, or rows of the run's task.")],
    target: Annotated[str | None, typer.Option(
        "--target", metavar="FILE", help="Of parallel text, the translations of the lines of --data.")] = None,
    task: Annotated[str | None, typer.Option(
        "--task", metavar="NAME", autocompletion=completion.tasks,
        help="The task, where the model isn't a run.")] = None,
    objective: Annotated[str | None, typer.Option(
        "--objective", metavar="NAME", autocompletion=completion.objectives,
        help="The objective, where the model isn't a run.")] = None,
    max_length: Annotated[int | None, typer.Option(
        "--max-length", metavar="N", help="Tokens the model sees at once.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Rows at once.")] = 16,
    precision: Precision = "auto",
    prompt: Annotated[str | None, typer.Option(
        "--prompt", metavar="MODE", autocompletion=completion.modes,
        help="A prompt mode around every text: 'cloze(k=4, file=examples.jsonl)'.")] = None,
    on_bad_row: BadRow = "error", encoding: Encoding = None, set_: How = [],  # noqa: B006
    json_: Json = False,
) -> None:
    """Measure a model on a file: perplexity on text, the task's metrics on rows."""
    from llmkit.system import report

    report.to_stderr()
    report.opening(model)
    from llmkit.inference import evaluate as evaluation
    from llmkit.inference.comparing import inline as variants
    from llmkit.tasks.shared.floors import in_words

    asked = reading(data, set_, on_bad_row, encoding, target)
    mode = None if prompt is None else variants.plugin(prompt, "prompting", "--prompt")
    result = evaluation.evaluate(
        model, data, task=task, objective=objective, max_length=max_length, batch_size=batch_size, prompt=mode,
        precision=precision, **asked)
    if json_:
        print(json.dumps(result))
    else:
        for name, value in result["metrics"].items():
            terminal.out(f"{visible(name):<20}{translate('not defined') if value is None else f'{value:.4f}':>12}")
        for what, floor in result["floors"].items():
            for name, value in floor.items():
                about = translate(f"a floor, {in_words(what, result['floors_from'] == 'training')}")
                terminal.out(f"{visible(name):<20}{value:>12.4f}   {about}")
        for note in result["notes"]:
            terminal.err(note)


def predict(
    model: Annotated[str, typer.Argument(
        metavar="RUN|MODEL", autocompletion=completion.models,
        help="A run, a folder, a hub id, or a catalogue name.")],
    data: Annotated[str, typer.Argument(metavar="FILE", help="The task's rows, answers aside; - reads stdin.")],
    output: Annotated[str, typer.Option(
        "--output", "-o", metavar="OUT.jsonl|.csv",
        help="Where the predictions go, else stdout. A .csv or .tsv keeps the columns of FILE.")] = "-",
    task: Annotated[str | None, typer.Option(
        "--task", metavar="NAME", autocompletion=completion.tasks,
        help="The task, where the model isn't a run.")] = None,
    max_length: Annotated[int | None, typer.Option(
        "--max-length", metavar="N", help="Tokens the model sees at once.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Rows at once.")] = 16,
    precision: Precision = "auto",
    on_bad_row: BadRow = "error", encoding: Encoding = None, set_: How = [],  # noqa: B006
) -> None:
    """Say what a model says of each row: one JSON object a line, in the order of the file."""
    from llmkit.system import report

    report.to_stderr()
    report.opening(model)
    from llmkit.data import jsonlines, tabled
    from llmkit.inference import predict as prediction
    from llmkit.models.run import spare

    spare(output, model)
    asked = reading(data, set_, on_bad_row, encoding)
    found = prediction.predict(model, data, task=task, max_length=max_length, batch_size=batch_size,
                               precision=precision, columns=tabled.is_table(output), **asked)
    count = jsonlines.write(found, output, (data,))
    if output != "-":
        terminal.err(f"{many(count, 'prediction')}: {output}")


def reading(
    data: str, settings: Sequence[str], on_bad_row: str, encoding: str | None, target: str | None = None,
) -> dict[str, Any]:
    """How rows are read, by the options and what `--set data.…` says beside them: on_bad_row, encoding, fields …"""
    if not settings:
        return {"on_bad_row": on_bad_row, "encoding": encoding, **({} if target is None else {"target": target})}
    from llmkit import recipe as recipes

    block = recipes.data_of(data, settings, target)
    (source,) = block.train
    return {"on_bad_row": "skip" if block.on_bad_row == "skip" else on_bad_row,
            "encoding": encoding if source.encoding == "utf-8" else source.encoding,
            "fields": source.fields or None, **({} if source.target is None else {"target": source.target})}


def inspect(
    recipe: Annotated[str | None, typer.Argument(
        metavar="[RECIPE|RUN]", autocompletion=completion.recipes,
        help="A path or a packaged name; the task's own example where none is given. Of a run's folder with a soft "
        "prompt, the words that this is nearest to.")] = None,
    task: Task = None, model: Model = None, data: Rows = None, validation: Held = None,
    row: Annotated[list[int], typer.Option("--row", metavar="N", help="Which row, from 0; repeatable.")] = [0],  # noqa: B006
    times: Annotated[int, typer.Option(
        "--times", metavar="N", help="Passes to draw each in: chance differs.", min=1)] = 1,
    set_: Annotated[list[str], typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Any field of the recipe; repeatable.")] = [],  # noqa: B006
    experts: Annotated[bool, typer.Option(
        "--experts", help="Also how a mixture of experts shares out the tokens of the first rows.")] = False,
    quality: Annotated[bool, typer.Option(
        "--quality", help="Instead of rows, what the text of a RECIPE or of a file is like: duplicates, scripts, "
        "lengths, unknown tokens.")] = False,
    what: Annotated[str | None, typer.Option(
        "--what", metavar="A,B,…", help="Of rows, lengths, mask, positions; or all. Pictures show all, the terminal "
        "rows, where nothing is said.")] = None,
    html: Annotated[str | None, typer.Option("--html", metavar="FILE.html", help="Write a page.")] = None,
    output: Annotated[str | None, typer.Option(
        "--output", "-o", metavar="FILE.png|.svg", help="Write a picture.")] = None,
    theme: Annotated[str, typer.Option(
        "--theme", metavar="light|dark", help="Of a picture; a page has both.")] = "light",
    json_: Json = False,
) -> None:
    """Show rows as the model would see them: what is hidden, what has to be predicted. Nothing is trained."""
    from llmkit import recipe as recipes
    from llmkit.planning import inspect as inspection
    from llmkit.system import report
    from llmkit.system.errors import RequestError

    report.to_stderr()
    report.quiet_libraries()
    if quality:
        if recipe is None or any((task, model, data, validation)):
            raise RequestError("--quality: name a RECIPE, or a file of text, and no options of finetune.")
        show_quality(recipe, set_, json_)
        return
    parts = pictures.parts_of(what, html is not None or output is not None)
    places = pictures.places(html, output, theme)
    if parts == ("positions",) and recipe is None:
        pictures.leave({}, parts, places, theme)
        if not places:
            pictures.show({}, parts)
        return
    if not any((recipe, task, model, data)):
        raise RequestError("RECIPE: which rows? Name a recipe; or a task and data of your own, as finetune takes them: "
                           "--task NAME --model M --data FILE.")
    if recipe is not None and at_home(recipe).is_dir():
        if experts:
            show_found(inspection.inspect(of_run(recipe, set_), row, times, experts), parts, json_)
            return
        if any((task, model, data, validation, set_)):
            raise RequestError(f"{recipe}: is a folder, of which the words of its soft prompt are shown; options say "
                               "which rows of a recipe are, so name one.")
        show_prompt(recipe, json_)
        return
    asked, blocks, fields = train.tuned(recipe, {}, None, task, model, data, validation)
    request = recipes.load(asked, set_, task=blocks["task"], fields=fields)
    with recipes.placed(asked, set_, task=blocks["task"], fields=fields):
        found = inspection.inspect(request, row, times, experts, parts)
    parts = pictures.possible(found, parts)
    pictures.leave(found, parts, places, theme)
    show_found(found, parts, json_)


def of_run(run: str, settings: Sequence[str]) -> Any:
    """The recipe of a run, with the model that it left in the place of the one that it started from."""
    from llmkit import recipe as recipes
    from llmkit.models.run import Run
    from llmkit.system.errors import RequestError

    there = Run.open(run)
    if there is None or not there.has_model:
        raise RequestError(f"{run}: --experts of a folder needs a run that has ended, with its model/; name a recipe "
                           "to see the experts before a run.")
    fields = {"backbone": {"pretrained": str(there.model)}, "tokenizer": None}
    return recipes.load(recipes.tree_of(there.recipe), settings, fields=fields)


def show_found(found: Mapping[str, Any], parts: Sequence[str], json_: bool) -> None:
    """Print what was found of a recipe's rows."""
    if json_:
        print(as_json(found))
        return
    terminal.say(
        f"{found['recipe']}: {found['learning']}, {many(found['rows'], 'row')} of at most {found['max_length']} "
        f"tokens, packing {found['packing']}, {found['tokenizer']:,} tokens in the vocabulary, "
        f"{found['optimizer']} at {found['learning_rate']:g}"
        + (f", taught by {found['teacher']}" if found["teacher"] else ""))
    for source in found["sources"]:
        terminal.out(visible(f"{source['source']}: {columns(source)}"))
    for note in found["notes"]:
        terminal.err(note)
    if swapped := found.get("swapped"):
        terminal.say(f"\nswapped, the first text of {visible(swapped['source'])}:")
        for side in around_change(swapped["before"], swapped["after"]):
            terminal.out(f"  {visible(side)}")
    for one in found["drawn"]:
        terminal.say(f"\nrow {one['row']}, pass {one['pass']}")
        for name, words in one["shown"].items():
            terminal.out(f"  {name}: {words}")
    pictures.show(found, parts)
    if "experts" in found:
        show_experts(found["experts"])


def show_quality(what: str, settings: Sequence[str], json_: bool) -> None:
    """What a text is like, as lines or as JSON."""
    from llmkit.planning import quality as qualities

    found = qualities.quality(what, settings)
    if json_:
        print(as_json(found))
        return
    sizes, exact, near, unknown = found["lengths"], found["exact"], found["near"], found["unknown"]
    scripts = ", ".join(f"{translate(name).lower()} {100 * share:.1f} %"
                        for name, share in list(found["scripts"].items())[:8])
    lines = [("documents", f"{found['documents']:,}, {found['characters']:,} characters"),
             ("lengths", f"{sizes['min']:,} to {sizes['max']:,} characters; half have {sizes['median']:,.0f} or fewer, "
                         f"99 of 100 {sizes['p99']:,.0f}"),
             ("scripts", f"{scripts or translate('no letters')} (letters by their script; languages aren't told "
                         "apart)"),
             ("duplicates", f"{exact['documents']:,} ({100 * exact['share']:.2f} %) repeat one that came before")]
    if near is not None:
        lines.append(("near ones", f"{near['documents']:,} of {near['compared']:,} ({100 * near['share']:.2f} %) share "
                                   f"{100 * near['similarity']:.0f} % of their words with one that came before, "
                                   "those above included"))
    if unknown is not None:
        such = f", such as {', '.join(unknown['examples'])}" if unknown["examples"] else ""
        share = f"{100 * unknown['share']:.2f} %"
        lines.append(("unknown", f"{unknown['count']:,} of {unknown['tokens']:,} tokens ({share}){such}; "
                                 f"{unknown['characters_per_token']:.2f} characters a token"))
    for name, said in lines:
        terminal.out(visible(f"{padded(translate(name), 12)}{translate(said)}"))
    for first, second, text in [*exact["examples"], *(near or {"examples": []})["examples"]]:
        pair = exactly("{second} repeats {first}").format(second=second, first=first)
        terminal.out(visible(f"  {pair}: {text}"))
    for note in found["notes"]:
        terminal.err(note)


def around_change(before: str, after: str, most: int = 160) -> tuple[str, str]:
    """Two texts in a line each, from a little before where they part, with at most so many characters."""
    first = next((i for i, (one, other) in enumerate(zip(before, after)) if one != other), min(len(before), len(after)))
    start = max(0, first - most // 4)
    return tuple(f"{'…' if start else ''}{' '.join(text[start : start + most].split())}"  # type: ignore[return-value]
                 f"{'…' if len(text) > start + most else ''}" for text in (before, after))


def show_experts(found: Mapping[str, Any]) -> None:
    """The share of each layer's choices that an expert got, in per cent; of more than 16, the most and the least."""
    terminal.say(f"\nexperts: {found['chosen']} of {found['experts']} a token, {many(found['tokens'], 'token')} of "
                 f"{many(found['rows'], 'row')}; an even share is {100 / found['experts']:.3g} %")
    for layer in found["layers"]:
        parts = [f"{100 * share:.1f}" for share in layer["shares"]]
        if len(parts) > 16:
            order = sorted(range(len(parts)), key=lambda i: -layer["shares"][i])
            parts = [*(f"{i}: {parts[i]}" for i in order[:4]), "…", *(f"{i}: {parts[i]}" for i in order[-4:])]
        terminal.out(f"  {layer['router']}: {' '.join(parts)}")
    terminal.out("  " + ", ".join(f"{name} {found[name]:.4f}" for name in (
        "router_loss", "expert_share_max", "expert_share_min", "expert_entropy")))


def columns(source: Mapping[str, Any]) -> str:
    """Which columns of a source were read, and which weren't: text from 'review'; not used: 'id'."""
    read = [exactly("{field} from {column!r}").format(field=field, column=column)
            for field, column in source["used"].items()]
    rest = ", ".join(map(repr, source["unused"][:MOST_NAMED])) + (
        f" and {len(source['unused']) - MOST_NAMED:,} more" if len(source["unused"]) > MOST_NAMED else "")
    return f"{', '.join(read)}; {translate(f'not used: {rest}' if rest else 'all columns are used')}"


def show_prompt(run: str, as_document: bool) -> None:
    """Print the words that each virtual token of a run's soft prompt is nearest to."""
    from llmkit.planning.soft_words import near_words, spelled

    found = near_words(run)
    if as_document:
        print(as_json(found))
        return
    terminal.say(f"{found['model']}: {len(found['virtual_tokens'])} virtual tokens, and the nearest words of each "
                 "(cosine, distance)")
    for one in found["virtual_tokens"]:
        words = "   ".join(f"{visible(spelled(word))} ({word['cosine']:.2f}, {word['distance']:.3g})"
                           for word in one["nearest"])
        terminal.out(f"{one['position']:>4}  {one['side']}  {words}")
    terminal.err(f"note: {found['note']}")


def export(
    model: Annotated[str, typer.Argument(
        metavar="RUN|MODEL", autocompletion=completion.models,
        help="A run, a folder, a hub id, or a catalogue name.")],
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="A new folder.")],
    format_: Annotated[str, typer.Option(
        "--format", metavar="NAME", help="safetensors (transformers), onnx (onnxruntime), gguf (llama.cpp) or word2vec "
        "(the embeddings alone, for gensim).")] = "safetensors",
    dtype: Annotated[str | None, typer.Option(
        "--dtype", metavar="NAME", help="float32, bfloat16, float16, for gguf also q8_0; else as it is.")] = None,
    push_to_hub: Annotated[str | None, typer.Option(
        "--push-to-hub", metavar="ID", help="Then upload the folder to the hub, as OWNER/NAME.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Of --push-to-hub: not for everyone.")] = False,
    json_: Json = False,
) -> None:
    """Write a model as a folder for others: an adapter merged into its base, a model card that says how to use it."""
    from llmkit.system import report

    report.to_stderr()
    report.opening(model)
    from llmkit import exporting
    from llmkit.models import layout

    report.quiet_libraries()
    done = exporting.export(model, to, format=format_, dtype=dtype, push_to_hub=push_to_hub, private=private)
    if json_:
        print(json.dumps(done))
        return
    how = f"{done['merged']} merged into {done['base']}" if done["merged"] else f"from {done['from']}"
    terminal.err(
        f"{done['folder']}: {done['format']}, {done['dtype']}, {how}; its {layout.CARD} says how to use it")
    if "pushed" in done:
        terminal.err(f"uploaded: {done['pushed']}")
    if "difference" in done:
        terminal.err(f"compared with torch: the outputs differ by {done['difference']:.1g} of the largest")
