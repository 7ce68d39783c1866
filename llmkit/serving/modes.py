"""What goes around what was asked last: a prompt mode (`"prompting"`), or passages that were found (`"search"`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmkit import recipe
from llmkit.inference.answering import asking
from llmkit.inference.writing.reading import harmless
from llmkit.recipe import registry
from llmkit.system.errors import RequestError, nearest

if TYPE_CHECKING:
    from llmkit.inference.search import Searcher
    from llmkit.inference.writing.options import Options
    from llmkit.inference.writing.writer import Writer
    from llmkit.prompting.base import Prompting
    from llmkit.serving.protocol import SearchWish

HERE_ALONE = {"file": "a client's files aren't here; give examples: [{text: …, answer: …}]",
              "encoder": "the server opens no models for a request"}
"""Options that reach into the server's own machine, which a client has no say in."""
DEEPEST = 4
"""Modes around each other."""


def mode(block: Mapping[str, Any]) -> Prompting:
    """The mode that a block names. RequestError where it is wrong, or would read a file or import a module."""
    _check(block, "prompting")
    made: Prompting = recipe.plugin("prompting", dict(block), "prompting")
    if made.varies:
        raise RequestError("prompting: selection: nearest isn't served; use random, balanced or first.")
    return made


def _check(block: Any, where: str, depth: int = 1) -> None:
    if depth > DEEPEST:
        raise RequestError(f"prompting: of: at most {DEEPEST} modes around each other.")
    name = block.get("name") if isinstance(block, Mapping) else block
    names = registry.names("prompting")
    if name not in names:  # a dotted name would be imported
        raise RequestError(f"{where}: name: no prompt mode is called {name!r}.{nearest(str(name), names)}")
    for option, why in HERE_ALONE.items() if isinstance(block, Mapping) else ():
        if block.get(option) is not None:
            raise RequestError(f"{where}: {option}: {why}.")
    if isinstance(block, Mapping) and block.get("of") is not None:
        _check(block["of"], f"{where}: of", depth + 1)


def put(
    writer: Writer, block: Mapping[str, Any], messages: Sequence[Mapping[str, Any]], options: Options
) -> tuple[str | list[Mapping[str, Any]], list[str]]:
    """(messages, or a plain text, with the last message put into a mode; what was left out, in words).

    A system message of the mode joins the conversation's own; its examples stand just before the last message.
    """
    from llmkit.inference.generate import kit_of, put_in

    if messages[-1]["role"] != "user":
        raise RequestError("prompting: goes around the last message, which must be the user's.")
    asking = mode(block)
    messages = harmless(writer.opened.tokenizer, [dict(one) for one in messages])
    made = asking.prompt({"text": str(messages[-1]["content"])}, kit_of(writer, options))
    notes = []
    if made.examples < asking.wants:
        notes.append(f"{made.examples} of {asking.wants} examples are in the prompt: there are no more, or no more "
                     "fit into the model's context")
    before = list(messages[:-1])
    given, _ = put_in(writer, made)
    if isinstance(given, str):
        if before and writer.chats:
            raise RequestError("prompting: this mode makes a plain text, which has no conversation before it.")
        return "\n".join([*(str(one["content"]) for one in before), given]), notes
    told = list(given)
    if told[0]["role"] == "system" and before and before[0]["role"] == "system":
        own = before.pop(0)
        told[0] = {"role": "system", "content": f"{own['content']}\n\n{told[0]['content']}"}
    if told[0]["role"] == "system":
        return [told[0], *before, *told[1:]], notes
    return [*before, *told], notes


def searched(
    writer: Writer, searcher: Searcher | None, wish: SearchWish, messages: Sequence[Mapping[str, Any]], most: int,
) -> tuple[list[int], list[dict[str, Any]], list[str]]:
    """(the prompt's tokens, the passages in it, what to say of them) of a conversation that is answered by passages.

    Where nothing near enough is found, the conversation stays as it is, and that is said. RequestError where the server
    searches no files.
    """
    if searcher is None:
        raise RequestError("search: this server searches no files; start it with llmkit serve … --in FOLDER.")
    if messages[-1]["role"] != "user":
        raise RequestError("search: is for the last message, which must be the user's.")
    *before, last = messages
    question = str(last["content"])
    if not question.strip():
        raise RequestError("search: the last message is empty.")
    embedder = searcher.embedder
    notes = [f"search: the last message has more than the {embedder.max_length} tokens that {embedder.name} reads; "
             "passages were looked for by its beginning."] if embedder.ids([question], "query")[1] else []
    found = searcher.search([question], wish.top)[0]
    hits = [hit for hit in found if hit.score >= wish.least]
    if not hits:
        said = harmless(writer.opened.tokenizer, [str(message["content"]) for message in messages])
        ids = writer.ids(messages) if writer.chats else writer.ids("\n".join(said))
        return ids, [], [*notes, f"search: nothing near enough was found: the nearest passage has the cosine "
                         f"{max(hit.score for hit in found):.2f}, and least is {wish.least:g}; no passage was read."]
    asked = asking.read(writer, question, hits, most, before)
    passages = [{"number": number, **hit.as_json()} for number, hit in enumerate(asked.read, 1)]
    return asked.ids, passages, [*notes, *asked.notes]
