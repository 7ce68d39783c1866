"""GPT-2: a decoder that reads from left to right (Radford et al. 2019)."""

from llmkit.backbones.base import Family


class GPT2(Family):
    """Published sizes are small (124 M parameters), medium, large and xl."""

    model_type = "gpt2"
    shape = "decoder"
    unpads = True
    tokenizer = "bpe"
    special = "gpt2"
    sizes = {
        "tiny": {"n_layer": 2, "n_embd": 128, "n_head": 2, "n_positions": 256},
        "mini": {"n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 512},
        "small": {"n_layer": 12, "n_embd": 768, "n_head": 12},
        "base": {"n_layer": 12, "n_embd": 768, "n_head": 12},
        "medium": {"n_layer": 24, "n_embd": 1024, "n_head": 16},
        "large": {"n_layer": 36, "n_embd": 1280, "n_head": 20},
        "xl": {"n_layer": 48, "n_embd": 1600, "n_head": 25},
    }
    small = {"n_embd": 32, "n_head": 2, "n_positions": 64}
    still = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
    positions = "n_positions"
    layers = ("transformer.h",)
    feed_forward = ("mlp",)
    heads = {
        "AutoModelForCausalLM": "lm_head",
        "AutoModelForSequenceClassification": "score",
        "AutoModelForTokenClassification": "classifier",
        "AutoModelForQuestionAnswering": "qa_outputs",
    }
