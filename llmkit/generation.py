"""Generation: a prompt goes in, one or several texts come out, word by word where one is enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmkit.writing import Completion, Options, Writer

__all__ = ["Completion", "Options", "Result", "Writer", "generate"]


@dataclass(frozen=True)
class Result:
    """What a prompt gave."""

    prompt: str
    model: str
    completions: list[Completion]
    notes: tuple[str, ...] = ()
    """What was changed on the way, in words."""

    def as_json(self) -> dict[str, Any]:
        """`{"prompt": …, "model": …, "completions": [{"text": …, "tokens": …, "finish_reason": …, "score": …}]}`."""
        return {"prompt": self.prompt, "model": self.model, "completions": [one.as_json() for one in self.completions]}


def generate(
    prompt: str,
    model: str = "smollm2-135m-instruct",
    options: Options = Options(),  # noqa: B008
    *,
    stream: Callable[[str], None] | None = None,
    system: str | None = None,
    raw: bool = False,
    assistant: str | None = None,
) -> Result:
    """Let a model (a folder, a run, a catalogue name, a hub id) answer or go on with a prompt.

    A tokenizer with a chat template makes a conversation of it, with `system` before; `raw` goes on with the text as
    it stands. An encoder-decoder reads the prompt in its encoder. `stream` gets the text piece by piece, where one
    text without beams is asked for, else whole texts at the end. RequestError: the model writes no text, or the
    prompt is longer than its context.
    """
    writer = Writer.open(model, assistant)
    ids = writer.ids(prompt, system=system, raw=raw)
    _, note = writer.room(len(ids), options.max_new_tokens)
    live = stream if options.num_return_sequences == 1 and options.num_beams == 1 else None
    completions, = writer.write([ids], options, stream=None if live is None else lambda _, piece: live(piece))
    if stream is not None and live is None:
        for completion in completions:
            stream(completion.text + "\n")
    return Result(prompt, model, completions, (note,) if note else ())
