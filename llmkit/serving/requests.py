"""From what a client asks for to a prompt, read, and how its texts are to be written."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from llmkit.inference.writing.options import Options
from llmkit.inference.writing.sampling import Choosing
from llmkit.serving import modes, tools
from llmkit.serving.jobs import Wish
from llmkit.serving.protocol import ChatRequest, CompletionRequest, NamedTool
from llmkit.serving.served import EmbeddingModel, WritingModel
from llmkit.system.errors import RequestError


@dataclass(frozen=True)
class Limits:
    """What a server takes."""

    places: int = 16
    """Texts written at once."""
    queue: int = 32
    """Texts that may wait; more are answered with 429."""
    new_tokens: int = 1024
    """Tokens of a text."""
    prompt_tokens: int | None = None
    """Tokens of a prompt; none: what the model's context takes."""
    body_bytes: int = 4 << 20
    """Bytes of a request."""


@dataclass(frozen=True)
class TextRequest:
    """A prompt, read, and how its texts are to be written."""

    model: WritingModel
    ids: list[int]
    wish: Wish
    seed: int
    count: int
    begun: str = ""
    """What every text begins with: it was put in the model's mouth."""
    notes: tuple[str, ...] = ()
    """What was left out of the prompt."""


def of_chat(model: WritingModel, request: ChatRequest, limits: Limits) -> TextRequest:
    """A conversation, through the model's template; RequestError where it can't be written."""
    writer = model.writer
    messages = [message.plain() for message in request.messages]
    offered = [tool.model_dump() for tool in request.tools or []] if request.names else []
    most = request.max_completion_tokens if request.max_completion_tokens is not None else request.max_tokens
    begun = ""
    notes: list[str] = []
    if request.prompting is not None:
        if offered:
            raise RequestError("prompting: goes with no tools; leave one of them out.")
        given, notes = modes.put(writer, request.prompting, messages, Options(most or limits.new_tokens))
        ids = writer.ids(given, raw=isinstance(given, str))
    elif writer.chats:
        knows = tools.known(writer.opened.tokenizer)
        ids = writer.ids(messages if knows else tools.written_out(messages, offered),
                         tools=offered if knows and offered else None)
        if offered:
            choice = request.tool_choice
            begun = tools.beginning(choice.model_dump() if isinstance(choice, NamedTool) else choice or "auto")
            ids += writer.opened.tokenizer(begun, add_special_tokens=False)["input_ids"] if begun else []
    elif offered or any(message["role"] == "tool" for message in messages):
        raise RequestError(f"tools: {model.name} has no chat template, so it can't be told of tools.")
    else:  # it goes on with what was said, a line a message
        ids = writer.ids("\n".join(message["content"] for message in messages))
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return _checked(model, request, limits, ids, most, logprobs, begun, notes)


def of_completion(
    model: WritingModel, request: CompletionRequest, prompt: str | list[int], limits: Limits
) -> TextRequest:
    """A text as it stands; RequestError where it can't be gone on with."""
    if isinstance(prompt, str):
        ids = model.writer.ids(prompt, raw=True)
    else:
        size = len(model.writer.opened.tokenizer)
        wrong = next((one for one in prompt if not 0 <= one < size), None)
        if wrong is not None or not prompt:
            raise RequestError(f"prompt: {'it is empty' if wrong is None else f'{wrong} is no token'}; "
                               f"{model.name} has the tokens 0 to {size - 1:,}.")
        ids = list(prompt)
    return _checked(model, request, limits, ids, request.max_tokens, request.logprobs)


def _checked(
    model: WritingModel, request: ChatRequest | CompletionRequest, limits: Limits, ids: list[int], most: int | None,
    logprobs: int | None, begun: str = "", notes: Sequence[str] = (),
) -> TextRequest:
    """A prompt, and how its texts are to be written; RequestError where it is more than a server or a model takes."""
    count = request.n or 1
    if count > limits.places:
        raise RequestError(f"n: {count} is more than the {limits.places} texts that this server writes at once.")
    if most is not None and most > limits.new_tokens:
        raise RequestError(f"max_tokens: {most:,} is more than the {limits.new_tokens:,} that this server writes "
                           "(--max-new-tokens).")
    if limits.prompt_tokens is not None and len(ids) > limits.prompt_tokens:
        raise RequestError(f"the prompt's {len(ids):,} tokens are {len(ids) - limits.prompt_tokens:,} more than "
                           f"the {limits.prompt_tokens:,} that this server takes (--max-prompt-tokens).")
    room, _ = model.writer.room(len(ids), limits.new_tokens if most is None else most)
    chance = ("temperature", "top_p", "top_k", "min_p")
    given = {name: getattr(request, name) for name in (*chance, "repetition_penalty", "seed")}
    if request.temperature == 0:  # clients send both
        given |= dict.fromkeys(chance[1:])
    options = Options(
        max_new_tokens=room, num_return_sequences=count, stop=request.stops, logprobs=logprobs, **given)
    config, ends, stop = model.writer.settings(options)
    wish = Wish(options, Choosing.of(config), frozenset(ends), stop)
    seed = secrets.randbits(62) if request.seed is None else request.seed
    return TextRequest(model, ids, wish, seed, count, begun, tuple(notes))


def counted(model: EmbeddingModel, texts: Sequence[str]) -> int:
    """Tokens of texts to be embedded; RequestError where one is empty or too long."""
    total, most = 0, model.embedder.max_length
    for i, text in enumerate(texts):
        (ids,), cut = model.embedder.ids([text])
        if cut or not ids or not text:
            raise RequestError(f"input: text {i + 1} of {len(texts)} "
                               + (f"has more than the {most} tokens that {model.name} reads; split it." if cut else
                                  "is empty."))
        total += len(ids)
    return total
