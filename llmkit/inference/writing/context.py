"""A model's context: how many tokens it takes, and which tokens end a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

    from llmkit.models import Opened


def positions(opened: Opened) -> int | None:
    """How many tokens a model can tell apart by position; None: any number."""
    from torch import nn

    # Families with relative positions have no such field, XLNet's says -1.
    limit = getattr(opened.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None or limit <= 0:
        return None
    for name, part in opened.model.named_modules():  # RoBERTa and its kin count from behind the padding token's number
        if name.endswith("embeddings.position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx:
            return int(limit) - part.padding_idx - 1
    return int(limit)


def ids_of(opened: Opened) -> int:
    """How many ids a model reads, from 0 on: its tokenizer's, holes among them included, that it has a row for."""
    from llmkit.data.tokenizer_files import rows_for

    return min(rows_for(opened.tokenizer), int(opened.model.config.get_text_config().vocab_size))


def base_of(model: Any) -> Any:
    """The model that an adapter of peft's stands on; the model itself where there is none."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def defaults(model: Any) -> GenerationConfig:
    """A model's own generation config; where it brings none, what its config says."""
    from transformers import GenerationConfig

    return model.generation_config or GenerationConfig.from_model_config(model.config)


def listed(value: Any) -> list[Any]:
    """One, several or nothing, as a list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def ends_of(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str]) -> list[int]:
    """The tokens that end a text: the model's, else the tokenizer's, and stop strings that are tokens of no text."""
    special = {str(one): number for number, one in tokenizer.added_tokens_decoder.items() if one.special}
    ends = listed(config.eos_token_id) or listed(tokenizer.eos_token_id)
    return list(dict.fromkeys([*ends, *(special[one] for one in stop if one in special)]))
