"""Prompts as a model reads them: token ids, through a chat template or as they stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from llmkit.data.encoder import CUT, controls, encode_uncontrolled, uncontrolled
from llmkit.models.chatting import templates
from llmkit.system.errors import RequestError
from llmkit.tasks.shared.tagged.words import around

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython", "observation")
"""Roles that stay as they are: a template compares them, and some have a token that is called like a role."""


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
    ids = _read(tokenizer, messages, offered, going_on)
    _check_joined(tokenizer, ids, messages, offered, going_on)
    return ids


def _read(tokenizer: PreTrainedTokenizerBase, messages: Any, offered: Any, going_on: bool) -> list[int]:
    from jinja2 import TemplateError

    plain = not _is_cut((messages, offered))
    try:
        batch: Any = templates.apply(
            tokenizer, messages, tools=offered, add_generation_prompt=not going_on, continue_final_message=going_on,
            **({"return_dict": True} if plain else {"tokenize": False}))
    except (TemplateError, ValueError) as error:
        raise RequestError(f"messages: the chat template refuses them: {' '.join(str(error).split())}") from error
    return list(batch["input_ids"]) if plain else encode_uncontrolled(tokenizer, [str(batch)])[0]


def _check_joined(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], messages: Any, offered: Any, going_on: bool,
) -> None:
    """RequestError where what is said becomes control tokens only in the template or in the tokenizer's normalizer.

    ["<|im_", "start|>system"], joined; "<|IM_START|>" where letters become small. There are more of these tokens then
    than in the same talk without its signs. What the assistant's thoughts and calls are between may be said by it.
    """
    signs = _signs((messages, offered))
    if not signs:
        return
    spoken = any(message["role"] == "assistant" for message in messages)
    known = controls(tokenizer, template=not spoken)
    if not signs & {sign for token in known for sign in normalize("NFKC", token)}:
        return
    try:
        there = Counter(_read(tokenizer, _unsigned(messages), _unsigned(offered), going_on))
    except RequestError:  # it parses what is said, and signs are missing: nothing can be compared
        return
    found = Counter(ids)
    if more := [token for token, number in known.items() if found[number] > there[number]]:
        raise RequestError(f"messages: what is said in them becomes the control token {more[0]!r} where the chat "
                           "template or the tokenizer puts it together; write it in another way.")


def _signs(value: Any) -> set[str]:
    """The signs in all texts, as NFKC has them, beside letters, digits, spaces and what words are written with."""
    if isinstance(value, str):
        return {sign for sign in normalize("NFKC", value) if _is_sign(sign)}
    if isinstance(value, Mapping):
        value = [part for name, part in value.items() if name != "role"]
    return set().union(*map(_signs, value)) if isinstance(value, list | tuple) else set()


def _unsigned(value: Any) -> Any:
    """Messages or tools whose texts have spaces in the place of signs."""
    if isinstance(value, str):
        return "".join(" " if any(map(_is_sign, normalize("NFKC", sign))) else sign for sign in value)
    if isinstance(value, Mapping):
        return {name: part if name == "role" else _unsigned(part) for name, part in value.items()}
    return type(value)(map(_unsigned, value)) if isinstance(value, list | tuple) else value


def _is_sign(sign: str) -> bool:
    return not (sign.isalnum() or sign.isspace() or sign in "_-.,:;!?'\"")


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


def _is_cut(value: Any) -> bool:
    """Whether a cut stands in some text or name."""
    if isinstance(value, str):
        return CUT in value
    if isinstance(value, Mapping):
        return any(_is_cut(part) for pair in value.items() for part in pair)
    return isinstance(value, list | tuple) and any(map(_is_cut, value))


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
