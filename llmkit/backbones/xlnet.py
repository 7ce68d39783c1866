"""XLNet: predicts tokens in a random order, by attention in two streams (Yang et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmkit.backbones.base import Family

if TYPE_CHECKING:
    from torch import Tensor, nn


def _size(layers: int, width: int, heads: int) -> dict[str, int]:
    return {"n_layer": layers, "d_model": width, "n_head": heads, "d_inner": 4 * width}


class XLNet(Family):
    """base and large are the paper's; positions are relative."""

    model_type = "xlnet"
    shape = "permuted"
    tokenizer = "unigram"
    special = "xlnet"
    sizes = {
        "tiny": _size(2, 128, 2),
        "mini": _size(4, 256, 4),
        "small": _size(6, 512, 8),
        "base": _size(12, 768, 12),
        "large": _size(24, 1024, 16),
    }
    small = {"d_model": 32, "n_head": 2, "d_inner": 64}
    still = ("dropout", "summary_last_dropout")
    positions = None
    layers = ("transformer.layer",)
    projections = ("layer_1", "layer_2")  # its attention has no linear layers
    feed_forward = ("ff",)
    heads = {
        "AutoModelForCausalLM": "lm_loss",
        "AutoModelForSequenceClassification": "logits_proj",
        "AutoModelForTokenClassification": "classifier",
        "AutoModelForQuestionAnswering": "qa_outputs",
    }
    idle = True  # its embedding of what is hidden
    attention = "eager"

    @classmethod
    def outputs(cls, model: nn.Module, batch: dict[str, Tensor]) -> Any:
        """Documents that share a row are kept apart by the mask of the permutation; positions are relative anyway."""
        import torch

        from llmkit.backbones.kernels.relative_attention import quicken

        quicken(model)
        inputs = dict(batch)
        documents = inputs.pop("documents", None)
        if documents is not None:
            apart = (documents[:, :, None] != documents[:, None, :]).float()
            inputs["perm_mask"] = torch.maximum(apart, inputs.get("perm_mask", apart))
        return model(**inputs)
