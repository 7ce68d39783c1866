"""umT5: T5 for 107 languages, with relative positions of its own in every layer (Chung et al. 2023)."""

from __future__ import annotations

from llmkit.backbones import t5


def _size(layers: int, width: int, heads: int, inner: int) -> dict[str, object]:
    return {"num_layers": layers, "num_decoder_layers": layers, "d_model": width, "d_kv": 64 if width > 128 else 32,
            "num_heads": heads, "d_ff": inner, "feed_forward_proj": "gated-gelu"}


class UMT5(t5.T5):
    """small, base and large are the published ones."""

    model_type = "umt5"
    projections = ("q", "v")
    sizes = {
        "tiny": _size(2, 128, 4, 256),
        "mini": _size(4, 256, 4, 512),
        "small": _size(8, 512, 6, 1024),
        "base": _size(12, 768, 12, 2048),
        "large": _size(24, 1024, 16, 2816),
    }
