"""DeBERTa: attention that keeps content and relative position apart (He et al. 2021; version 3, 2023)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llmkit.backbones.base import Family

if TYPE_CHECKING:
    from torch import Tensor, nn


def _size(layers: int, width: int, heads: int) -> dict[str, Any]:
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
            "intermediate_size": 4 * width, "relative_attention": True, "position_buckets": 256,
            "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False, "max_relative_positions": -1, "max_position_embeddings": 512,
            "layer_norm_eps": 1e-7, "type_vocab_size": 0}


class Deberta(Family):
    """xsmall, small, base and large are version 3's."""

    model_type = "deberta-v2"
    shape = "encoder"
    tokenizer = "unigram"
    special = "bert"
    sizes = {
        "tiny": _size(2, 128, 2),
        "mini": _size(4, 256, 4),
        "xsmall": _size(12, 384, 6),
        "small": _size(6, 768, 12),
        "base": _size(12, 768, 12),
        "large": _size(24, 1024, 16),
    }
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}
    still = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    positions = "max_position_embeddings"
    layers = ("deberta.encoder.layer",)
    inputs = ("deberta.encoder.LayerNorm",)  # of the table of relative positions
    feed_forward = ("intermediate", "output")
    poolers = ("pooler.dense",)
    heads = {
        "AutoModelForMaskedLM": "cls",
        "AutoModelForSequenceClassification": "classifier",
        "AutoModelForTokenClassification": "classifier",
        "AutoModelForMultipleChoice": "classifier",
        "AutoModelForQuestionAnswering": "qa_outputs",
    }
    attention = "eager"
    mixes = "its attention takes no mask that differs from token to token"

    @classmethod
    def outputs(cls, model: nn.Module, batch: dict[str, Tensor]) -> Any:
        """Adapters that leave bf16 (VeRA's, IA3's products are fp32) are brought back to it.

        transformers masks scores by the least number of the queries' type, and bf16 has no such number as fp32's.
        """
        for part in model.modules():
            if hasattr(part, "transpose_for_scores") and "transpose_for_scores" not in vars(part):
                part.transpose_for_scores = _alike(part.transpose_for_scores)  # type: ignore[assignment, arg-type]
        return super().outputs(model, batch)


def _alike(split: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    """The split of a layer's answer into heads, in autocast's type where that is on."""
    import torch

    def in_one_type(answer: Tensor, heads: int) -> Tensor:
        kind = answer.device.type
        return split(answer.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else answer, heads)

    return in_one_type
