"""DeBERTa: attention that keeps content and relative position apart (He et al. 2021; version 3, 2023)."""

from typing import Any

from llmkit.backbones.base import Family


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
