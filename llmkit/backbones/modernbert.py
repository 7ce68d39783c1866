"""ModernBERT: an encoder with rotary positions and attention that is local in most layers (Warner et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmkit.backbones.base import Family

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase


def _size(layers: int, width: int, heads: int, inner: int, positions: int = 8192) -> dict[str, Any]:
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads, "intermediate_size": inner,
            "max_position_embeddings": positions}


class ModernBert(Family):
    """base and large are the paper's."""

    model_type = "modernbert"
    shape = "encoder"
    unpads = True
    tokenizer = "bpe"
    special = "bert"
    sizes = {
        "tiny": _size(2, 128, 2, 192, 1024),
        "mini": _size(4, 256, 4, 384, 2048),
        "small": _size(6, 512, 8, 768),
        "base": _size(22, 768, 12, 1152),
        "large": _size(28, 1024, 16, 2624),
    }
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}
    positions = "max_position_embeddings"
    layers = ("model.layers",)
    projections = ("Wqkv",)
    feed_forward = ("mlp",)
    pooling = "classifier_pooling"
    heads = {
        "AutoModelForMaskedLM": "head",
        "AutoModelForSequenceClassification": "classifier",
        "AutoModelForTokenClassification": "classifier",
        "AutoModelForMultipleChoice": "classifier",
        "AutoModelForQuestionAnswering": "classifier",
    }

    @classmethod
    def own_ids(cls, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Its config has these two as well."""
        return {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}

    @classmethod
    def isolated(cls, model: nn.Module, inputs: dict[str, Any], seen: Any, positions: Tensor) -> Any:
        """One mask for layers that see everything, one for those that see a window of 128 tokens."""
        from llmkit.backbones.kernels.apart import near

        if seen is None:
            return super().isolated(model, inputs, seen, positions)
        window: int = model.config.local_attention // 2  # type: ignore[union-attr, operator, assignment]
        return model(**inputs, attention_mask={"full_attention": seen, "sliding_attention": near(seen, window)},
                     position_ids=positions)
