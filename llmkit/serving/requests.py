"""From what a client asks for to a prompt, read, and how its texts are to be written."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from llmkit.data.encoder import CUT, controls, uncontrolled
from llmkit.inference.writing.options import Options
from llmkit.inference.writing.reading import harmless
from llmkit.inference.writing.sampling import Choosing
from llmkit.serving import modes, tools
from llmkit.serving.engine import Engine
from llmkit.serving.jobs import Wish
from llmkit.serving.network.limits import Limits as Limits
from llmkit.serving.protocol import ChatRequest, CompletionRequest, NamedTool, SearchRequest, too_long
from llmkit.serving.served import EmbeddingModel, WritingModel
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from llmkit.inference.search import Hit, Searcher

CHANCE = ("top_p", "top_k", "min_p")
"""Options that only sampling has a use for."""


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
    passages: tuple[dict[str, Any], ...] | None = None
    """What was found for it; None: nothing was looked for."""


def of_chat(
    model: WritingModel, request: ChatRequest, limits: Limits, searcher: Searcher | None = None,
) -> TextRequest:
    """A conversation, through the model's template, with passages of the server's files where these are asked for.

    RequestError where it can't be written.
    """
    writer = model.writer
    messages = [message.plain() for message in request.messages]
    offered = [tool.model_dump() for tool in request.tools or []] if request.names else []
    most = request.most
    begun = ""
    notes: list[str] = []
    passages = None
    if request.search is not None:
        ids, passages, notes = modes.searched(
            writer, searcher, request.search, messages, min(most or limits.new_tokens, limits.new_tokens))
    elif request.prompting is not None:
        if offered:
            raise RequestError("prompting: goes with no tools; leave one of them out.")
        wanted = Options(min(most or limits.new_tokens, limits.new_tokens))
        given, notes = modes.put(writer, request.prompting, messages, wanted)
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
        said = harmless(writer.opened.tokenizer, [message["content"] for message in messages])
        ids = writer.ids("\n".join(said))
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    made = _checked(model, request, limits, ids, most, logprobs, begun, notes)
    return made if passages is None else replace(made, passages=tuple(passages))


def of_completion(
    model: WritingModel, request: CompletionRequest, prompt: str | list[int], limits: Limits
) -> TextRequest:
    """A text as it stands; RequestError where it can't be gone on with."""
    if isinstance(prompt, str):
        ids = model.writer.ids(prompt, raw=True)
    else:
        size = model.ids
        wrong = next((one for one in prompt if not 0 <= one < size), None)
        if wrong is not None or not prompt:
            raise RequestError(f"prompt: {'it is empty' if wrong is None else f'{wrong} is no token'}; "
                               f"{model.name} has the tokens 0 to {size - 1:,}.")
        ids = list(prompt)
    return _checked(model, request, limits, ids, request.most, request.logprobs)


def _checked(
    model: WritingModel, request: ChatRequest | CompletionRequest, limits: Limits, ids: list[int], most: int | None,
    logprobs: int | None, begun: str = "", notes: Sequence[str] = (),
) -> TextRequest:
    """A prompt, and how its texts are to be written; RequestError where it is more than a server or a model takes."""
    count = request.n or 1
    if count > limits.places:
        raise RequestError(f"n: {count} is more than the {limits.places} texts that this server writes at once.")
    if limits.prompt_tokens is not None and len(ids) > limits.prompt_tokens:
        raise too_long(f"the prompt's {len(ids):,} tokens are {len(ids) - limits.prompt_tokens:,} more than "
                       f"the {limits.prompt_tokens:,} that this server takes (--max-prompt-tokens).")
    room, cut = _room(model, limits, len(ids), most)
    schema = request.form if isinstance(request, ChatRequest) else None
    options = _options(request, max_new_tokens=room, num_return_sequences=count, stop=request.stops,
                       logprobs=logprobs, json_schema=schema)
    config, ends, stop = model.writer.settings(options)
    if config.do_sample and (off := request.off(model.ids)):
        options = replace(options, **off)
        config, ends, stop = model.writer.settings(options)
    rules = model.writer.rules(config, len(ids), room) if isinstance(model.engine, Engine) else None
    if options.json_schema is not None:
        model.writer.constraint(options, ends)  # what the tokenizer can't do is told now
    wish = Wish(options, Choosing.of(config), frozenset(ends), stop, rules,
                partial(model.writer.constraint, options, frozenset(ends)), isinstance(request, CompletionRequest))
    seed = secrets.randbits(62) if options.seed is None else options.seed
    return TextRequest(model, ids, wish, seed, count, begun, (*notes, *cut))


def _room(model: WritingModel, limits: Limits, prompt: int, most: int | None) -> tuple[int, list[str]]:
    """(tokens that can be written after a prompt of so many, a sentence where `most`, which was asked for, is more)."""
    notes = []
    if most is not None and most > limits.new_tokens:
        notes.append(f"max_tokens is {limits.new_tokens:,}, not {most:,}: this server writes no more "
                     "(--max-new-tokens).")
    wanted = limits.new_tokens if most is None else min(most, limits.new_tokens)
    try:
        room, said = model.writer.room(prompt, wanted)
    except RequestError as error:
        raise too_long(str(error)) from error
    if said and most is not None:
        notes = [said.replace("max_new_tokens", "max_tokens").replace(f"not {wanted}", f"not {most:,}")]
    return room, notes


def _options(request: ChatRequest | CompletionRequest, **given: Any) -> Options:
    """The options of a request; what it sends that says nothing is left out."""
    named = {name: getattr(request, name) for name in ("temperature", *CHANCE, "repetition_penalty")}
    if request.top_p == 0:  # nothing but the likeliest token
        named["temperature"] = 0.0
    if named["temperature"] == 0:  # clients send both
        named |= dict.fromkeys(CHANCE)
    for name in request.off(1):
        named[name] = None
    seed = request.seed
    if seed is not None and seed < 0:  # -1 is anybody's word for another one each time; the others are seeds
        seed = None if seed == -1 else seed & (2**63 - 1)
    return Options(**named, seed=seed, **given)


def looked_for(searcher: Searcher, request: SearchRequest) -> list[list[Hit]]:
    """The passages for each query of a request; an error where a query is longer than the encoder reads."""
    embedder = searcher.embedder
    for i, query in enumerate(request.queries):
        if query.strip() and embedder.ids([query], "query")[1]:
            raise too_long(f"query: text {i + 1} of {len(request.queries)} has more than the {embedder.max_length} "
                           f"tokens that {embedder.name} reads; shorten it.", "query")
    return searcher.search(request.queries, request.top)


def to_embed(model: EmbeddingModel, texts: Sequence[str | list[int]]) -> list[list[int]]:
    """The token ids of texts, with special ones; of ids of the model's own too. An error where one can't be embedded.

    It is empty or longer than the model reads, or an id is no token of the model.
    """
    found, embedder = [], model.embedder
    size = model.ids
    for i, text in enumerate(texts):
        where = f"input: text {i + 1} of {len(texts)}"
        if not text:
            raise RequestError(f"{where} is empty.")
        if isinstance(text, str):
            plain = uncontrolled(text, controls(embedder.opened.tokenizer)).replace(CUT, " ")
            (ids,), cut = embedder.ids([plain])
        else:
            if wrong := [one for one in text if not 0 <= one < size]:
                raise RequestError(f"{where}: {wrong[0]} is no token; {model.name} has the tokens 0 to {size - 1:,}. "
                                   "Ids of another model's tokenizer mean other words: send the text.")
            ids = embedder.framed(text)
            cut = len(ids) > embedder.max_length
        if cut:
            raise too_long(f"{where} has more than the {embedder.max_length} tokens that {model.name} reads; split it.",
                           "input")
        if not ids:
            raise RequestError(f"{where} is empty.")
        found.append(ids)
    return found
