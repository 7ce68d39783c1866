"""Qwen3-MoE: Qwen3 with many feed-forward parts, of which a router chooses a few for each token (Yang et al. 2025)."""

from llmkit.backbones.base import Family


def _size(
    layers: int, width: int, heads: int, groups: int, head: int, positions: int, experts: int, chosen: int, inner: int,
) -> dict[str, object]:
    return {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads,
            "num_key_value_heads": groups, "head_dim": head, "max_position_embeddings": positions,
            "num_experts": experts, "num_experts_per_tok": chosen, "moe_intermediate_size": inner,
            "intermediate_size": 3 * width, "norm_topk_prob": True, "tie_word_embeddings": True}


class Qwen3Moe(Family):
    """30b-a3b is the published one: 30.5 B parameters, 3.3 B of them at work for a token."""

    model_type = "qwen3_moe"
    shape = "decoder"
    unpads = True
    tokenizer = "bpe"
    special = "gpt2"
    sizes = {
        "tiny": _size(2, 128, 4, 2, 32, 512, experts=4, chosen=2, inner=128),
        "mini": _size(4, 256, 4, 2, 64, 1024, experts=8, chosen=2, inner=256),
        "small": _size(8, 512, 8, 4, 64, 2048, experts=16, chosen=4, inner=384),
        "30b-a3b": {**_size(48, 2048, 32, 4, 128, 40960, experts=128, chosen=8, inner=768),
                    "tie_word_embeddings": False},
    }
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_key_value_heads": 1,
             "max_position_embeddings": 64, "head_dim": 16, "moe_intermediate_size": 32}
    positions = "max_position_embeddings"
    layers = ("model.layers",)
    projections = ("q_proj", "v_proj")
    feed_forward = ("mlp",)
    heads = {
        "AutoModelForCausalLM": "lm_head",
        "AutoModelForSequenceClassification": "score",
        "AutoModelForTokenClassification": "score",
    }  # not AutoModelForQuestionAnswering: transformers' own loads no weight of a causal model but keeps random ones
