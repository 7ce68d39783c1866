"""BART: an encoder-decoder that learned to write a spoilt text whole again (Lewis et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmkit.backbones.base import Family

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def _size(layers: int, width: int, heads: int, positions: int = 1024) -> dict[str, int]:
    return {"encoder_layers": layers, "decoder_layers": layers, "d_model": width, "encoder_attention_heads": heads,
            "decoder_attention_heads": heads, "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width,
            "max_position_embeddings": positions}


class Bart(Family):
    """base and large are the paper's."""

    model_type = "bart"
    shape = "encoder-decoder"
    tokenizer = "bpe"
    special = "roberta"
    sizes = {
        "tiny": _size(2, 128, 2, 256),
        "mini": _size(4, 256, 4, 512),
        "small": _size(4, 512, 8),
        "base": _size(6, 768, 12),
        "large": _size(12, 1024, 16),
    }
    small = {"d_model": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64,
             "decoder_ffn_dim": 64, "max_position_embeddings": 64}
    still = ("dropout", "attention_dropout", "activation_dropout")
    positions = "max_position_embeddings"
    layers = ("model.encoder.layers", "model.decoder.layers")
    feed_forward = ("fc1", "fc2")
    heads = {
        "AutoModelForSeq2SeqLM": "lm_head",
        "AutoModelForSequenceClassification": "classification_head",
        "AutoModelForQuestionAnswering": "qa_outputs",
    }
    logits_bias = "final_logits_bias"
    mixes = "its positions count from the start of the row, not of each document"

    @classmethod
    def decoder_start(cls, tokenizer: PreTrainedTokenizerBase) -> int:
        """The end token, as in fairseq."""
        return int(tokenizer.eos_token_id)

    @classmethod
    def own_ids(cls, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Where the decoder starts and ends."""
        return {"decoder_start_token_id": tokenizer.eos_token_id, "forced_eos_token_id": tokenizer.eos_token_id}
