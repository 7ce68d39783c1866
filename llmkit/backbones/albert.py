"""ALBERT: one layer's weights for all layers, and a narrow embedding (Lan et al. 2020)."""

from llmkit.backbones.base import Family


def _size(layers: int, width: int, heads: int, embedding: int = 128) -> dict[str, int]:
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
            "intermediate_size": 4 * width, "embedding_size": embedding}


class Albert(Family):
    """base, large, xlarge and xxlarge are the paper's."""

    model_type = "albert"
    shape = "encoder"
    unpads = True
    tokenizer = "unigram"
    special = "bert"
    sizes = {
        "tiny": _size(2, 128, 2, 64),
        "mini": _size(4, 256, 4),
        "small": _size(6, 512, 8),
        "base": _size(12, 768, 12),
        "large": _size(24, 1024, 16),
        "xlarge": _size(24, 2048, 16),
        "xxlarge": _size(12, 4096, 64),
    }
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "embedding_size": 16,
             "max_position_embeddings": 64}
    still = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob")
    positions = "max_position_embeddings"
    layers = ("albert.encoder.albert_layer_groups",)
    shares = True
    projections = ("query", "value")
    feed_forward = (r"albert_layers\.\d+\.ffn", r"albert_layers\.\d+\.ffn_output")
    poolers = ("albert.pooler",)
    heads = {
        "AutoModelForMaskedLM": "predictions",
        "AutoModelForPreTraining": "predictions",
        "AutoModelForSequenceClassification": "classifier",
        "AutoModelForTokenClassification": "classifier",
        "AutoModelForMultipleChoice": "classifier",
        "AutoModelForQuestionAnswering": "qa_outputs",
    }
    pairs = "AutoModelForPreTraining"
