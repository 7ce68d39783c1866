"""Qwen3: Llama's shape, with normalised queries and keys (Yang et al. 2025)."""

from llmkit.backbones.base import Family


def _size(layers: int, width: int, heads: int, groups: int, inner: int, head: int, positions: int) -> dict[str, object]:
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
            "num_key_value_heads": groups, "intermediate_size": inner, "head_dim": head,
            "max_position_embeddings": positions, "tie_word_embeddings": True}


class Qwen3(Family):
    """0.6b and 1.7b are the published ones."""

    model_type = "qwen3"
    shape = "decoder"
    unpads = True
    tokenizer = "bpe"
    special = "gpt2"
    sizes = {
        "tiny": _size(2, 128, 4, 2, 384, 32, 512),
        "mini": _size(4, 256, 4, 2, 768, 64, 1024),
        "small": _size(8, 512, 8, 4, 1536, 64, 2048),
        "0.6b": _size(28, 1024, 16, 8, 3072, 128, 40960),
        "1.7b": _size(28, 2048, 16, 8, 6144, 128, 40960),
    }
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_key_value_heads": 1,
             "max_position_embeddings": 64, "head_dim": 16}
    positions = "max_position_embeddings"
    layers = ("model.layers",)
    feed_forward = ("mlp",)
    heads = {
        "AutoModelForCausalLM": "lm_head",
        "AutoModelForSequenceClassification": "score",
        "AutoModelForTokenClassification": "score",
    }  # not AutoModelForQuestionAnswering: transformers' own loads no weight of a causal model but keeps random ones
