"""`llmkit generate`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.cli import completion
from llmkit.system import terminal
from llmkit.system.addresses import at_home
from llmkit.system.plural import many
from llmkit.system.streams import as_json, stdin_lines, typed

if TYPE_CHECKING:
    from llmkit.inference.generate import Result
    from llmkit.prompting.base import Prompting


Dtype = Annotated[str | None, typer.Option(
    "--dtype", metavar="NAME", help="float32 (exact), bfloat16, or int8: on a CPU, weights of 8 bits; by default what "
    "is fast here.")]
ENDS = frozenset(".!?。！？…।؟۔\"'”’」』)）*`")
"""What may stand at the end of a text that ends with a sentence, or with code."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(generate)


def generate(
    prompt: Annotated[str | None, typer.Argument(
        metavar="PROMPT", help="What the model goes on with, answers or fills the holes of; - reads stdin.")] = None,
    model: Annotated[str, typer.Option(
        "--model", metavar="M", autocompletion=completion.models,
        help="A run, a folder, a hub id, or a name from `llmkit models list`.",
    )] = "smollm2-135m-instruct",
    input_: Annotated[str | None, typer.Option(
        "--input", metavar="FILE", help="Many prompts: a .txt file, one a line, or a .jsonl file with a field prompt, "
        "messages or text; - reads stdin.")] = None,
    output: Annotated[str, typer.Option(
        "--output", "-o", metavar="OUT.jsonl", help="Where the answers to --input go; stdout where nothing is said.",
    )] = "-",
    batch_size: Annotated[int, typer.Option(
        "--batch-size", metavar="N", help="Prompts of --input at once.", min=1)] = 16,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", metavar="N", help="Most tokens to write.")] = 300,
    num_return_sequences: Annotated[int, typer.Option(
        "--num-return-sequences", metavar="N", help="How many texts.")] = 1,
    temperature: Annotated[float | None, typer.Option(
        "--temperature", metavar="T", help="Above 1 bolder, below 1 safer; 0: the likeliest token.")] = None,
    top_p: Annotated[float | None, typer.Option(
        "--top-p", metavar="P", help="Draw from the likeliest tokens of this mass.")] = None,
    top_k: Annotated[int | None, typer.Option(
        "--top-k", metavar="K", help="Draw from this many likeliest tokens; of a mask, show so many.")] = None,
    min_p: Annotated[float | None, typer.Option(
        "--min-p", metavar="P", help="Draw from tokens at least this share as likely as the likeliest.")] = None,
    typical_p: Annotated[float | None, typer.Option(
        "--typical-p", metavar="P", help="Draw from the most typical tokens of this mass.")] = None,
    num_beams: Annotated[int, typer.Option("--num-beams", metavar="N", help="Beam search.")] = 1,
    length_penalty: Annotated[float | None, typer.Option(
        "--length-penalty", metavar="X", help="Of beam search: above 1 for longer texts, below for shorter.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(
        "--repetition-penalty", metavar="R", help="Above 1: less of the same.")] = None,
    stop: Annotated[list[str], typer.Option(
        "--stop", metavar="TEXT", help=r"End before this text; repeatable. \n is the end of a line.")] = [],  # noqa: B006
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="The same seed draws the same text.")] = None,
    assistant: Annotated[str | None, typer.Option(
        "--assistant", metavar="M", autocompletion=completion.models,
        help="A smaller model of the same vocabulary that guesses ahead.")] = None,
    system: Annotated[str | None, typer.Option(
        "--system", metavar="TEXT", help="A system message for chat models.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as it is, without a chat template.")] = False,
    mode: Annotated[str | None, typer.Option(
        "--prompt", metavar="MODE", autocompletion=completion.modes,
        help="Put PROMPT into another: 'example(k=4, file=examples.jsonl)'.")] = None,
    json_schema: Annotated[str | None, typer.Option(
        "--json-schema", metavar="FILE|object", help="Write JSON of the form of a JSON schema, or any object: "
        "llmkit-train[json].")] = None,
    dtype: Dtype = None,
    compile_: Annotated[bool | None, typer.Option(
        "--compile/--no-compile", help="On a GPU, compiled steps, each a CUDA graph; by default for large files.",
        show_default=False)] = None,
    logprobs: Annotated[int | None, typer.Option(
        "--logprobs", metavar="N", help="In JSON, the log probability of each token, and of the N likeliest.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """Write a text with a model: a story, an answer, a continuation; or fill the holes of one."""
    from llmkit.inference.writing.options import Options
    from llmkit.system import report
    from llmkit.system.errors import RequestError

    report.to_stderr()
    if (prompt is None) == (input_ is None):
        both = "a PROMPT and --input are two requests" if prompt is not None else "a PROMPT is needed"
        raise RequestError(f"{both}: give one of `llmkit generate 'Once upon a time'` and --input FILE.")
    if input_ is None and output != "-":
        raise RequestError(f"--output {output}: is for the answers to --input; of one PROMPT, print --json to a file.")
    if logprobs is not None and not json_ and input_ is None:
        raise RequestError(f"--logprobs {logprobs}: is told in JSON; add --json.")
    if input_ is not None and json_ and output == "-":
        raise RequestError("--json: the answers to --input are lines of JSON already; leave it out, or name a file for "
                           "them by -o.")
    options = Options(
        max_new_tokens=max_new_tokens, num_return_sequences=num_return_sequences, temperature=temperature, top_p=top_p,
        top_k=top_k, min_p=min_p, typical_p=typical_p, num_beams=num_beams, length_penalty=length_penalty,
        repetition_penalty=repetition_penalty, seed=seed, logprobs=logprobs, compile=compile_,
        json_schema=None if json_schema is None else _schema(json_schema),
        stop=tuple(one.replace("\\n", "\n").replace("\\t", "\t") for one in stop))
    report.opening(model)
    from llmkit.inference import generate as generation
    from llmkit.inference.comparing import inline as variants
    from llmkit.models.run import spare

    opening: dict[str, Any] = {"system": system, "raw": raw, "assistant": assistant, "dtype": dtype,
                               "mode": None if mode is None else variants.plugin(mode, "prompting", "--prompt")}
    if input_ is not None:
        if Path(output).is_file() and Path(input_).is_file() and Path(output).samefile(input_):
            raise RequestError(f"--output {output}: is the file that the prompts are in.")
        spare(output, model)
        _many(generation.generate_file(
            input_, model, options, batch_size=batch_size, shown=output != "-", **opening), output, json_,
            (input_, *_examples(opening["mode"])))
        return
    assert prompt is not None
    streamed: list[str] = []
    pieces = terminal.Stretches()

    def show(piece: str) -> None:
        streamed.append(piece)
        terminal.out(pieces(piece), end="")

    alone = options.num_return_sequences == options.num_beams == 1
    given = "".join(stdin_lines()) if prompt == "-" else typed(prompt, "PROMPT")
    result = generation.generate(
        given, model, options, stream=show if alone and not json_ else None,
        whole_sentences=json_schema is None, **opening)
    if json_:
        print(as_json(result.as_json()))
        return
    shown = ["".join(streamed)] if alone and streamed else [
        completion.text if result.fills or json_schema else completion.whole for completion in result.completions]
    if not alone or not streamed:
        terminal.out("\n\n".join(text if len(shown) == 1 else f"[{i}] {text}" for i, text in enumerate(shown, 1)))
    elif not streamed[-1].endswith("\n"):
        terminal.out(pieces.end())
    if (told := _cut(result, shown, max_new_tokens)) and not result.fills:
        report.log.info("%s", told)
    if result.fills:
        terminal.out()
        report.table(_holes(result))
    for note in result.notes:
        report.log.info("%s", note)


def _schema(given: str) -> str:
    """The schema of --json-schema: a file's, or that of any object."""
    from llmkit.inference.constraining.schema import OBJECT, checked
    from llmkit.system.errors import DataError

    if given == "object":
        return checked(OBJECT, "--json-schema object")
    try:
        text = at_home(given).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = "it isn't UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise DataError(f"--json-schema {given}: {why}; give a file with a JSON schema, or the word object.") from error
    return checked(text, given)


def _cut(result: Result, shown: Sequence[str], most: int) -> str | None:
    """What to say where the limit cut texts: what isn't shown of them, and how to have more; None where it cut none."""
    cut = [(completion, text) for completion, text in zip(result.completions, shown, strict=True)
           if completion.finish_reason == "length"]
    if not cut:
        return None
    first, text = cut[0]
    which = "the text was" if len(result.completions) == 1 else f"{len(cut)} of {len(shown)} texts were"
    if any(len(text) < len(completion.text.rstrip()) for completion, text in cut):
        left = ", and a sentence that isn't whole is left out (--json keeps it)"
    elif text.rstrip()[-1:] not in ENDS:
        left = ", within a sentence"
    else:
        left = ""
    more = f"--max-new-tokens {2 * most} lets the model write more" if first.tokens >= most else \
        "the model's context is full: a shorter prompt leaves it more"
    return f"{which} cut at {first.tokens:,} tokens{left}; {more}"


def _examples(mode: Prompting | None) -> list[str]:
    """The file that a prompt mode takes examples from, where it has one."""
    from llmkit.prompting.shared.examples import FewShot

    return [mode.file] if isinstance(mode, FewShot) and mode.file is not None else []


def _many(results: Iterator[Result], output: str, json_: bool, read: Sequence[str]) -> None:
    """Write the answers to many prompts, then say how fast it went."""
    from llmkit.data import jsonlines

    start, tokens = time.monotonic(), 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal tokens
        for result in results:
            tokens += sum(completion.tokens for completion in result.completions)
            yield result.as_json()

    prompts = jsonlines.write(rows(), output, read)
    if output != "-":
        seconds = time.monotonic() - start
        if json_:
            print(json.dumps({"output": output, "prompts": prompts, "tokens": tokens, "seconds": seconds}))
        else:
            terminal.err(f"{many(prompts, 'prompt')}, {many(tokens, 'token')} in {seconds:,.1f} s: {output}")


def _holes(result: Result) -> list[list[str]]:
    """A table of what may stand in each hole; numbered where several are called the same."""
    names = [fill.hole for fill in result.fills]
    rows = []
    for i, fill in enumerate(result.fills, 1):
        name = f"{fill.hole} {i}" if names.count(fill.hole) > 1 else fill.hole
        for one in fill.candidates or [None]:
            text, p = ("(nothing was written)", None) if one is None else (one.text, one.probability)
            rows.append([name, text, *([] if p is None else [f"{p:.4f}"])])
            name = ""
    return [["hole", "text", "probability"][:max(map(len, rows))], *rows]
