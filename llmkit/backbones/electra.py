"""ELECTRA: an encoder that learned to tell real tokens from made-up ones (Clark et al. 2020)."""

from llmkit.backbones.base import Family


def _size(layers: int, width: int, heads: int, inner: int, embedding: int) -> dict[str, int]:
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads, "intermediate_size": inner,
            "embedding_size": embedding}


class Electra(Family):
    """small, base and large are the paper's discriminators."""

    model_type = "electra"
    shape = "encoder"
    unpads = True
    tokenizer = "wordpiece"
    special = "bert"
    sizes = {
        "tiny": _size(2, 128, 2, 512, 64),
        "mini": _size(4, 256, 4, 1024, 128),
        "small": _size(12, 256, 4, 1024, 128),
        "base": _size(12, 768, 12, 3072, 768),
        "large": _size(24, 1024, 16, 4096, 1024),
    }
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "embedding_size": 16,
             "max_position_embeddings": 64}
    still = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    positions = "max_position_embeddings"
    layers = ("electra.encoder.layer",)
    feed_forward = ("intermediate", "output")
    heads = {
        "AutoModelForMaskedLM": "generator_predictions",
        "AutoModelForPreTraining": "discriminator_predictions",
        "AutoModelForSequenceClassification": "classifier",
        "AutoModelForTokenClassification": "classifier",
        "AutoModelForMultipleChoice": "classifier",
        "AutoModelForQuestionAnswering": "qa_outputs",
    }
    detector = "AutoModelForPreTraining"
