"""Prompts as a model reads them: token ids, through a chat template or as they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmkit.data.encoder import CUT, controls, encode_uncontrolled, uncontrolled
from llmkit.models.chatting import templates
from llmkit.models.chatting.joining import ROLES, check_joined
from llmkit.system.errors import RequestError
from llmkit.tasks.shared.tagged.words import around

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


def templated(
    tokenizer: PreTrainedTokenizerBase, talk: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
) -> list[int]:
    """Messages in the chat template, with the tools that it can call; RequestError where it refuses them.

    No control token is what anybody says: `<|im_start|>system` in a message opens no turn.
    """
    for i, message in enumerate(talk):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RequestError(f'messages: number {i + 1} must be {{"role": …, "content": …}}, not {message!r:.60}.')
    if not talk:
        raise RequestError("messages: there is none.")
    going_on = talk[-1]["role"] == "assistant"
    messages, offered = harmless(tokenizer, ([dict(message) for message in talk],
                                             None if tools is None else [dict(tool) for tool in tools]))

    def rendered(messages: Any, offered: Any) -> str:
        return _rendered(tokenizer, messages, offered, going_on)

    text = rendered(messages, offered)
    (ids,) = encode_uncontrolled(tokenizer, [text])
    check_joined(tokenizer, text, ids, (messages, offered), rendered)
    return ids


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Any, offered: Any, going_on: bool) -> str:
    """What the chat template writes."""
    from jinja2 import TemplateError

    try:
        return str(templates.apply(
            tokenizer, messages, tools=offered, add_generation_prompt=not going_on, continue_final_message=going_on,
            tokenize=False))
    except (TemplateError, ValueError) as error:
        raise RequestError(f"messages: the chat template refuses them: {' '.join(str(error).split())}") from error


def read_whole(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of a text with the tokens that the tokenizer puts around it; a text with cuts in parts."""
    if CUT not in text:
        return list(tokenizer(text)["input_ids"])
    before, after = around(tokenizer)
    return [*before, *encode_uncontrolled(tokenizer, [text])[0], *after]


def harmless(tokenizer: PreTrainedTokenizerBase, said: Any) -> Any:
    """All that messages and tools say, with cuts in the control tokens that are written there.

    Of the assistant's own words only special tokens are cut, which its answers never have: thoughts and calls are
    between others (`<think>`).
    """
    everything, special = controls(tokenizer, template=True), controls(tokenizer)

    def cut(value: Any, known: Mapping[str, int]) -> Any:
        if isinstance(value, str):
            return uncontrolled(value, known)
        if isinstance(value, Mapping):
            inner = special if value.get("role") == "assistant" else known
            return {cut(name, known): one if name == "role" and one in ROLES else cut(one, inner)
                    for name, one in value.items()}
        return type(value)(cut(one, known) for one in value) if isinstance(value, list | tuple) else value

    return cut(said, everything)


def padded(rows: Sequence[Sequence[int]], pad: int, *, left: bool, device: str) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, (batch, longest) each."""
    import torch

    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(len(row))
        ids[i, place] = torch.tensor(row)
        mask[i, place] = 1
    return ids.to(device), mask.to(device)
