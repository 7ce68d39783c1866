"""The Transformer: encoder and decoder with sinusoidal positions (Vaswani et al. 2017); Marian in transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmkit.backbones.base import Family
from llmkit.data.tokenizer_files import rows_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def _size(layers: int, width: int, heads: int, positions: int = 512) -> dict[str, Any]:
    return {"encoder_layers": layers, "decoder_layers": layers, "d_model": width, "encoder_attention_heads": heads,
            "decoder_attention_heads": heads, "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width,
            "max_position_embeddings": positions, "activation_function": "relu", "scale_embedding": True}


class Transformer(Family):
    """base and big are the paper's."""

    model_type = "marian"
    shape = "encoder-decoder"
    tokenizer = "unigram"
    special = "marian"
    sizes = {
        "tiny": _size(2, 128, 2, 256),
        "mini": _size(4, 256, 4),
        "small": _size(6, 384, 6),
        "base": _size(6, 512, 8, 1024),
        "big": _size(6, 1024, 16, 1024),
    }
    small = {"d_model": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 64,
             "decoder_ffn_dim": 64, "max_position_embeddings": 64}
    still = ("dropout", "attention_dropout", "activation_dropout")
    positions = "max_position_embeddings"
    layers = ("model.encoder.layers", "model.decoder.layers")
    projections = ("q_proj", "v_proj")
    feed_forward = ("fc1", "fc2")
    heads = {"AutoModelForSeq2SeqLM": "lm_head"}
    logits_bias = "final_logits_bias"
    mixes = "its positions count from the start of the row, not of each document"

    @classmethod
    def own_ids(cls, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """The decoder starts from the padding token."""
        return {"decoder_start_token_id": tokenizer.pad_token_id, "decoder_vocab_size": rows_for(tokenizer),
                "forced_eos_token_id": tokenizer.eos_token_id}
