"""Prompts as a model reads them: token ids, through a chat template or as they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmkit.models import templates
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


def templated(
    tokenizer: PreTrainedTokenizerBase, talk: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
) -> list[int]:
    """Messages in the chat template, with the tools that it can call; RequestError where it refuses them."""
    from jinja2 import TemplateError

    for i, message in enumerate(talk):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RequestError(f'messages: number {i + 1} must be {{"role": …, "content": …}}, not {message!r:.60}.')
    if not talk:
        raise RequestError("messages: there is none.")
    going_on = talk[-1]["role"] == "assistant"
    try:
        batch: Any = templates.apply(
            tokenizer, [dict(message) for message in talk],
            tools=None if tools is None else [dict(tool) for tool in tools],
            add_generation_prompt=not going_on, continue_final_message=going_on, return_dict=True)
    except (TemplateError, ValueError) as error:
        raise RequestError(f"messages: the chat template refuses them: {' '.join(str(error).split())}") from error
    return list(batch["input_ids"])


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
