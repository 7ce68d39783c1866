"""Where a text begins and ends, for models that write with a tokenizer that was made for one that doesn't (BERT's)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INSTEAD = {"bos": "cls", "eos": "sep"}
"""What marks the two ends of a text for BERT."""
MARK = re.compile(r"\[.+\]|<.+>")
"""How tokens look that stand for no text: [unused1], </s>."""
NO_END = ("the tokenizer has no token that ends a text, and the model's config names none: it writes on until a limit "
          "cuts it. Give the tokenizer an eos_token (tokenizer_config.json)")


def give_ends(tokenizer: PreTrainedTokenizerBase, said: Mapping[str, Any]) -> str:
    """Let a tokenizer's texts begin and end with the tokens that the config names, else with [CLS] and [SEP].

    Nothing changes where it has an end of its own. `said`: what config.json says, not a class's defaults. Returns what
    was chosen, in words.
    """
    if tokenizer.eos_token_id is not None:
        return ""
    chosen = []
    for role, other in INSTEAD.items():
        if getattr(tokenizer, f"{role}_token_id") is not None:
            continue
        number = said.get(f"{role}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        token, why = _token(tokenizer, number), f"the model's {role}_token_id"
        if token is None:
            token, why = getattr(tokenizer, f"{other}_token"), f"the tokenizer's {other} token"
        if token is not None:
            setattr(tokenizer, f"{role}_token", token)
            chosen.append(f"{'begin' if role == 'bos' else 'end'} with {token} ({why})")
    return f"the tokenizer has no eos token: texts {' and '.join(chosen)}" if chosen else ""


def _token(tokenizer: PreTrainedTokenizerBase, number: Any) -> str | None:
    """The token of an id; None where it has none, or an ordinary word: the id is then of another vocabulary."""
    if type(number) is not int:
        return None
    token = next((token for token, one in tokenizer.get_vocab().items() if one == number), "")
    return token if token in tokenizer.all_special_tokens or MARK.fullmatch(token) else None


def tell(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let a model's configs name the tokenizer's ends where they name none, or one that its table has no row for."""
    rows = model.get_input_embeddings().num_embeddings
    for config in (model.config.get_text_config(), vars(model).get("generation_config")):
        for role in INSTEAD:
            name, ours = f"{role}_token_id", getattr(tokenizer, f"{role}_token_id")
            theirs = getattr(config, name, None)
            if config is not None and ours is not None and (theirs is None or (type(theirs) is int and theirs >= rows)):
                setattr(config, name, ours)
