"""T5: an encoder that reads and a decoder that writes (Raffel et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmkit.backbones.base import Family

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class T5(Family):
    """small, base and large are the paper's; positions are relative, so rows may be of any length."""

    model_type = "t5"
    shape = "encoder-decoder"
    tokenizer = "unigram"
    special = "t5"
    sizes = {
        "tiny": {"num_layers": 2, "d_model": 128, "d_kv": 32, "num_heads": 4, "d_ff": 512},
        "mini": {"num_layers": 4, "d_model": 256, "d_kv": 64, "num_heads": 4, "d_ff": 1024},
        "small": {"num_layers": 6, "d_model": 512, "d_kv": 64, "num_heads": 8, "d_ff": 2048},
        "base": {"num_layers": 12, "d_model": 768, "d_kv": 64, "num_heads": 12, "d_ff": 3072},
        "large": {"num_layers": 24, "d_model": 1024, "d_kv": 64, "num_heads": 16, "d_ff": 4096},
    }
    small = {"d_model": 32, "d_kv": 16, "num_heads": 2, "d_ff": 64}
    still = ("dropout_rate",)
    positions = None
    optimizer = "adamw_rms"
    layers = ("encoder.block", "decoder.block")
    feed_forward = (r"layer\.\d+\.DenseReluDense",)
    heads = {
        "AutoModelForSeq2SeqLM": "lm_head",
        "AutoModelForSequenceClassification": "classification_head",
        "AutoModelForTokenClassification": "classifier",
        "AutoModelForQuestionAnswering": "qa_outputs",
    }

    @classmethod
    def own_ids(cls, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """The decoder starts from the padding token; T5Config has no default for it."""
        return {"decoder_start_token_id": tokenizer.pad_token_id}
