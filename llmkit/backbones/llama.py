"""Llama and what is built like it, SmolLM2 among them: a decoder with rotary positions (Touvron et al. 2023)."""

from llmkit.backbones.base import Family


class Llama(Family):
    """The published sizes start at 1 B parameters; these are shaped like SmolLM2 and its kin."""

    model_type = "llama"
    shape = "decoder"
    unpads = True
    tokenizer = "bpe"
    special = "gpt2"
    sizes = {
        "tiny": {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
                 "intermediate_size": 344, "max_position_embeddings": 512, "tie_word_embeddings": True},
        "mini": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2,
                 "intermediate_size": 688, "max_position_embeddings": 1024, "tie_word_embeddings": True},
        "small": {"num_hidden_layers": 8, "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4,
                  "intermediate_size": 1376, "max_position_embeddings": 2048, "tie_word_embeddings": True},
        "base": {"num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3,
                 "intermediate_size": 1536, "max_position_embeddings": 8192, "tie_word_embeddings": True},
    }
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_key_value_heads": 1,
             "max_position_embeddings": 64}
    positions = "max_position_embeddings"
    layers = ("model.layers",)
    feed_forward = ("mlp",)
    heads = {
        "AutoModelForCausalLM": "lm_head",
        "AutoModelForSequenceClassification": "score",
        "AutoModelForTokenClassification": "score",
    }  # not AutoModelForQuestionAnswering: transformers' own loads no weight of a causal model but keeps random ones
