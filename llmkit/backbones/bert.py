"""BERT: an encoder that sees both sides of every token (Devlin et al. 2019)."""

from llmkit.backbones.base import Family


def _size(layers: int, width: int) -> dict[str, int]:
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": width // 64,
            "intermediate_size": 4 * width}


class Bert(Family):
    """tiny to medium are the published miniatures (Turc et al. 2019); base and large are the paper's."""

    model_type = "bert"
    shape = "encoder"
    unpads = True
    tokenizer = "wordpiece"
    special = "bert"
    sizes = {
        "tiny": _size(2, 128),
        "mini": _size(4, 256),
        "small": _size(4, 512),
        "medium": _size(8, 512),
        "base": _size(12, 768),
        "large": _size(24, 1024),
    }
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}
    still = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    positions = "max_position_embeddings"
    layers = ("bert.encoder.layer",)
    feed_forward = ("intermediate", "output")
    poolers = ("bert.pooler.dense",)
    heads = {
        "AutoModelForMaskedLM": "cls",
        "AutoModelForNextSentencePrediction": "cls",
        "AutoModelForPreTraining": "cls.predictions",
        "AutoModelForSequenceClassification": "classifier",
        "AutoModelForTokenClassification": "classifier",
        "AutoModelForMultipleChoice": "classifier",
        "AutoModelForQuestionAnswering": "qa_outputs",
    }
    pairs = "AutoModelForNextSentencePrediction"
