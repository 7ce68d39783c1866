"""RoBERTa: BERT trained longer, on byte-level BPE, by masked tokens alone (Liu et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmkit.backbones.base import Family

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig


def _size(layers: int, width: int, positions: int = 514) -> dict[str, Any]:
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": width // 64,
            "intermediate_size": 4 * width, "max_position_embeddings": positions, "type_vocab_size": 1,
            "layer_norm_eps": 1e-5}


class Roberta(Family):
    """base and large are the paper's."""

    model_type = "roberta"
    shape = "encoder"
    unpads = True
    tokenizer = "bpe"
    special = "roberta"
    sizes = {
        "tiny": _size(2, 128),
        "mini": _size(4, 256),
        "small": _size(4, 512),
        "medium": _size(8, 512),
        "base": _size(12, 768),
        "large": _size(24, 1024),
    }
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 66}
    still = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    positions = "max_position_embeddings"
    layers = ("roberta.encoder.layer",)
    feed_forward = ("intermediate", "output")
    heads = {
        "AutoModelForMaskedLM": "lm_head",
        "AutoModelForSequenceClassification": "classifier",
        "AutoModelForTokenClassification": "classifier",
        "AutoModelForMultipleChoice": "classifier",
        "AutoModelForQuestionAnswering": "qa_outputs",
    }

    @classmethod
    def position_limit(cls, config: PretrainedConfig) -> int | None:
        """Positions are counted from the one after the padding token's id, as fairseq did."""
        return int(config.max_position_embeddings) - int(config.pad_token_id or 0) - 1

    @classmethod
    def isolated(cls, model: nn.Module, inputs: dict[str, Any], seen: Any, positions: Tensor) -> Any:
        """Positions of each document are counted from after the padding token's id too."""
        first = model.config.pad_token_id + 1  # type: ignore[union-attr, operator]
        return super().isolated(model, inputs, seen, positions + first)
