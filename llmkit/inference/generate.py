"""Generation: prompts go in, texts come out, by what the model is: it goes on, answers, or fills holes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from llmkit.data import jsonlines
from llmkit.data.sources import Place, open_source
from llmkit.inference.labelling import embedder
from llmkit.inference.writing import filling
from llmkit.inference.writing.completion import Completion
from llmkit.inference.writing.context import positions
from llmkit.inference.writing.filling import FILLERS, Fill, Filler
from llmkit.inference.writing.opening import check_numbers, chosen_numbers, no_graphs, uncompiled
from llmkit.inference.writing.options import Options, check_assisted
from llmkit.inference.writing.writer import Writer
from llmkit.models import Opened
from llmkit.objectives.span_corruption import sentinels
from llmkit.prompting.base import Kit, Prompting
from llmkit.prompting.base import Prompt as Made
from llmkit.recipe import Source
from llmkit.system import devices, report
from llmkit.system.errors import DataError, RequestError

__all__ = ["Completion", "Filler", "Options", "Result", "Writer", "generate", "generate_file", "open_tool"]

Prompt = str | Sequence[Mapping[str, Any]]
"""A text, or the messages of a conversation."""

WORTH = 2_000
"""Steps of a file's batches that earn the time that compiling takes on a GPU."""
WINDOW = 16
"""Batches of a file that are held at once: sorted by length among themselves, written in the order of the file."""


@dataclass(frozen=True)
class Result:
    """What a prompt gave."""

    prompt: Prompt
    model: str
    completions: list[Completion]
    notes: tuple[str, ...] = ()
    """What was changed on the way, in words."""
    fills: tuple[Fill, ...] = ()
    """Of a prompt with holes: what may stand in each."""
    read: str | None = None
    """The whole prompt that a mode made of it."""

    def as_json(self) -> dict[str, Any]:
        """`{"prompt": …, "model": …, "completions": [{"text": …, "tokens": …, "finish_reason": …, "score": …}]}`.

        Of a prompt with holes, `"fills": [{"hole": …, "candidates": [{"text": …, …}]}]` too; and `"notes"`, if any.
        """
        made = {"prompt": self.prompt, "model": self.model, "completions": [one.as_json() for one in self.completions]}
        if self.fills:
            made["fills"] = [one.as_json() for one in self.fills]
        if self.read is not None:
            made["read"] = self.read
        return {**made, "notes": list(self.notes)} if self.notes else made


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt as a model reads it."""

    prompt: Prompt
    ids: list[int]
    number: int = 0
    """Which it is of all, for the seed."""
    notes: tuple[str, ...] = ()
    read: str | None = None
    """The whole prompt that a mode made of it."""
    goes_on: bool = False
    """Whether what is written goes on with it as it stands."""


def generate(
    prompt: Prompt,
    model: str | Path | Opened = "smollm2-135m-instruct",
    options: Options = Options(),  # noqa: B008
    *,
    stream: Callable[[str], None] | None = None,
    system: str | None = None,
    raw: bool = False,
    assistant: str | None = None,
    dtype: str | None = None,
    mode: Prompting | None = None,
    whole_sentences: bool = False,
) -> Result:
    """Let a model answer or go on with a prompt, or fill its holes.

    `model` is a folder, a run, a catalogue name, a hub id, or one that is open (`llmkit.models.open_model`).
    A tokenizer with a chat template makes a conversation of it, with `system` before; `raw` goes on with the text as
    it stands. An encoder-decoder reads the prompt in its encoder, and fills its sentinels (`<extra_id_0>`) where it has
    some. A masked language model fills its masks. `stream` gets the text piece by piece, where one text without beams
    or holes is asked for, else whole texts at the end; with `whole_sentences`, nothing behind the last whole sentence
    of one that `max_new_tokens` cuts (`Completion.whole`). `mode` puts the prompt, a text, into another.

    RequestError: the model writes no text, the prompt is longer than its context, or has no mask where one is needed.
    """
    if mode is not None:
        mode.check(Kit(None))
    tool = open_tool(model, options, assistant=assistant, dtype=dtype, system=system)
    kit = None if mode is None else kit_of(tool, options, raw)
    row = ask(tool, prompt, options, system=system, raw=raw, mode=mode, kit=kit)
    result, = answer(tool, [row], options, stream=stream, whole_sentences=whole_sentences)
    return result


def tool_of(opened: Opened, options: Options, dtype: str | None = None) -> Writer | Filler:
    """A model that a program opened, for what it can do with a prompt: on its device, in its numbers."""
    if dtype is not None:
        raise RequestError("dtype: the model is open already, in numbers of its own; leave it out.")
    name, device = str(opened.folder), str(opened.model.device)
    if opened.kind in FILLERS:
        filling.check(options, name)
        return Filler(name, opened, device)
    return Writer(name, opened, device)


def open_tool(
    model: str | Path | Opened, options: Options = Options(), *, assistant: str | None = None,  # noqa: B008
    dtype: str | None = None, system: str | None = None,
) -> Writer | Filler:
    """Open a model for what it can do with a prompt; RequestError where that is nothing, or an option has no use."""
    from llmkit.models import check_model, kind_of, open_model, resolve

    if isinstance(model, Opened):
        return tool_of(model, options, dtype)
    if options.compile and (why := no_graphs(devices.kind())):  # told before anything is fetched
        raise RequestError(f"compile: {why}; leave it out.")
    check_model(model)
    check_numbers(dtype)
    folder, model = resolve(model), str(model)
    if kind_of(folder) in FILLERS:
        filling.check(options, model)
        unused = next((name for name, value in (("assistant", assistant), ("system", system)) if value is not None), "")
        if unused:
            raise RequestError(f"{unused}: has no effect on {model}, which fills masks and writes no text.")
        # one pass over a text: exact numbers cost little
        chosen, device = chosen_numbers(folder, dtype, usual="float32")
        return Filler(model, open_model(folder, "AutoModelForMaskedLM", **chosen), device)
    if assistant is not None:
        check_assisted(options)
    return Writer.open(model, assistant, dtype)


def ask(
    tool: Writer | Filler, prompt: Prompt, options: Options, *, system: str | None = None, raw: bool = False,
    number: int = 0, mode: Prompting | None = None, kit: Kit | None = None,
) -> ReadPrompt:
    """A prompt's tokens; RequestError where the model can't do anything with it.

    `mode` puts it into another first, with what `kit_of` gives.
    """
    if mode is not None:
        if not isinstance(prompt, str):
            raise RequestError("messages: a prompt mode goes around a text; a conversation is a prompt already.")
        kit = kit or kit_of(tool, options, raw)
        made = mode.prompt({"text": prompt}, replace(kit, dropped=dict.fromkeys(kit.dropped, 0)))
        given, bare = put_in(tool, made)
        row = ask(tool, given, options, system=system, raw=bare, number=number)
        left = [f"{made.examples} of {mode.wants} examples fit into the model's context"] * (made.examples < mode.wants)
        return replace(row, prompt=prompt, read=made.text if made.messages else str(given),
                       notes=(*left, *row.notes))
    if isinstance(tool, Filler):
        if not isinstance(prompt, str):
            raise RequestError(f"messages: {tool.name} fills masks of a text and holds no conversation.")
        return ReadPrompt(prompt, tool.ids(prompt), number)
    if tool.reads and isinstance(prompt, str):
        filling.check_sentinels(prompt, tool.opened.tokenizer, tool.name)
    ids = tool.ids(prompt, system=system, raw=raw)
    _, note = tool.room(len(ids), options.max_new_tokens)
    return ReadPrompt(prompt, ids, number, (note,) if note else (), goes_on=raw or not tool.chats)


def kit_of(tool: Writer | Filler, options: Options, raw: bool = False) -> Kit:
    """What a prompt mode needs to know of a model; of its context, at most half is kept for the answer."""
    limit, shape, chat, kept = positions(tool.opened), "encoder", False, 0
    if isinstance(tool, Writer):
        shape, chat = "encoder-decoder" if tool.reads else "decoder", tool.chats and not raw
        kept = 0 if tool.reads else min(options.max_new_tokens, (limit or 0) // 2)
    room = None if limit is None else limit - tool.opened.virtual_tokens - kept
    return Kit(tool.opened.tokenizer, shape, chat=chat, room=room, embed=embedder)


def put_in(tool: Writer | Filler, made: Made) -> tuple[Prompt, bool]:
    """(what a model is given of a mode's prompt, whether that is plain text)"""
    tokenizer = tool.opened.tokenizer
    if made.messages is not None:
        return made.messages, False
    if isinstance(tool, Filler) and not made.gap:
        raise RequestError(f"--prompt: {tool.name} fills masks and doesn't go on with a text; use cloze.")
    if made.gap and (isinstance(tool, Filler) or tool.reads):
        holes = sentinels(tokenizer) if not isinstance(tool, Filler) else ()
        return made.filled(str(tokenizer.convert_ids_to_tokens(holes[0]) if holes else tokenizer.mask_token)), True
    return made.text.rstrip(" ") if made.gap else made.text, True


def answer(
    tool: Writer | Filler, rows: Sequence[ReadPrompt], options: Options, *,
    stream: Callable[[str], None] | None = None, whole_sentences: bool = False,
) -> list[Result]:
    """What a model makes of some prompts, all together; `stream`, in whole sentences or not, is for a single one."""
    if isinstance(tool, Filler):
        filled = tool.fill([one.ids for one in rows], options.num_return_sequences, options.top_k or filling.SHOWN)
        several = ("Each mask's table is of that mask alone, with the others standing; the text is filled jointly, the "
                   "surest mask first.",)
        return [Result(one.prompt, tool.name, completions,
                       (*one.notes, *(several if len(fills) > 1 else ())), tuple(fills), one.read)
                for one, (completions, fills) in zip(rows, filled, strict=True)]
    tokenizer = tool.opened.tokenizer
    holes = [filling.holes(one.ids, tokenizer) if tool.reads else [] for one in rows]
    live = stream is not None and options.num_return_sequences == options.num_beams == 1 and not any(holes)
    written = tool.write(
        [one.ids for one in rows], options, numbers=[one.number for one in rows],
        stream=(lambda _, piece: stream(piece)) if live and stream is not None else None,
        ends=[filling.behind(some, tokenizer) for some in holes], whole_sentences=whole_sentences,
        goes_on=[one.goes_on for one in rows])
    results = []
    for one, some, completions in zip(rows, holes, written, strict=True):
        fills: tuple[Fill, ...] = ()
        if some:
            completions, fills = filling.mended(one.ids, completions, tokenizer)
        results.append(Result(one.prompt, tool.name, completions, one.notes, fills, one.read))
    if stream is not None and not live:
        for completion in results[0].completions:
            stream((completion.whole if whole_sentences and not any(holes) else completion.text) + "\n")
    return results


# ---- many prompts ----


def prompts(path: str) -> Iterator[tuple[Prompt, Place]]:
    """The prompts of a file: of text, a line each; of rows, their field `prompt`, `messages` or `text`.

    DataError, with file and line, where a row has none, or it isn't what such a field holds.
    """
    for row, place in open_source(Source(path), "line", at="").rows():
        name = next((name for name in ("prompt", "messages", "text") if name in row), None)
        if name is None:
            raise DataError(f"{place}: a row needs a field prompt, messages or text; this one has "
                            f"{', '.join(map(str, row)) or 'none'}.")
        value = row[name]
        if not isinstance(value, str if name == "text" else list if name == "messages" else str | list):
            raise DataError(f"{place}: {name} must be {'a list of messages' if name == 'messages' else 'text'}, not "
                            f"{value!r:.60}.")
        yield value, place


def generate_file(
    path: str,
    model: str = "smollm2-135m-instruct",
    options: Options = Options(),  # noqa: B008
    *,
    system: str | None = None,
    raw: bool = False,
    assistant: str | None = None,
    dtype: str | None = None,
    batch_size: int = 16,
    shown: bool = False,
    mode: Prompting | None = None,
) -> Iterator[Result]:
    """What a model makes of each prompt of a file (`-`: of stdin), in its order; memory doesn't grow with the file.

    Every prompt is looked at before the first is answered: DataError, with file and line, where one is wrong. `shown`:
    say on stderr how far it is.
    """
    with jsonlines.kept(path) as file:
        for _ in prompts(file):  # what is wrong with the file is told before a model is opened
            pass
        if mode is not None:
            mode.check(Kit(None))
        tool = open_tool(model, options, assistant=assistant, dtype=dtype, system=system)

        kit = None if mode is None else kit_of(tool, options, raw)

        def rows() -> Iterator[ReadPrompt]:
            for number, (prompt, place) in enumerate(prompts(file)):
                try:
                    yield ask(tool, prompt, options, system=system, raw=raw, number=number, mode=mode, kit=kit)
                except RequestError as error:
                    raise DataError(f"{place}: {error}") from error

        count = sum(1 for _ in rows())
        options = settled(tool, options, -(-count // batch_size))
        start, done, tokens, room = time.monotonic(), 0, 0, devices.AtOnce("prompts")

        def answers(some: Sequence[ReadPrompt]) -> list[Result]:
            nonlocal done, tokens
            results = room.do(some, lambda part: answer(tool, part, options))
            done += len(some)
            tokens += sum(one.tokens for result in results for one in result.completions)
            seconds = time.monotonic() - start
            bar.update(done / count, done, {"tokens/s": tokens / seconds}, seconds * (count - done) / done)
            return results

        with report.progress(shown, "prompt") as bar:
            yield from in_batches(rows(), answers, batch_size)


def settled(tool: Writer | Filler, options: Options, batches: int) -> Options:
    """The options, and for so many batches whether their steps are compiled, where nothing is said of it."""
    steps = batches * options.max_new_tokens
    if options.compile is not None or steps < WORTH or isinstance(tool, Filler) or tool.device == "cpu":
        return options
    if tool.assistant is not None or options.num_beams > 1:
        return options
    why = uncompiled(tool.opened, tool.device)
    report.log.info("%s", f"steps aren't compiled: {why}" if why else
                    f"up to {steps:,} steps are compiled, which takes a while first (--no-compile goes without)")
    return replace(options, compile=not why)


def in_batches(
    rows: Iterable[ReadPrompt], answers: Callable[[Sequence[ReadPrompt]], Sequence[Result]], size: int
) -> Iterator[Result]:
    """Answer prompts in batches of like length, as long as they come; the order is kept.

    Of each window of `WINDOW` batches, the longest come first: what doesn't fit in memory shows at once.
    """
    stream = iter(rows)
    while window := list(islice(stream, size * WINDOW)):
        order = sorted(range(len(window)), key=lambda i: -len(window[i].ids))
        found: dict[int, Result] = {}
        for at in range(0, len(order), size):
            some = order[at:at + size]
            found |= zip(some, answers([window[i] for i in some]), strict=True)
        yield from (found[i] for i in range(len(window)))
