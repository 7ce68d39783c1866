"""What each tuning method that saves the whole model says it trains of a tiny one (two layers), by names of parameters.

Written out from the names that transformers gives its parameters, not from the code under test.
"""

import re
from typing import Any

import torch
from conftest import FAMILIES, SMALL

from llmkit.recipe import registry
from llmkit.tuning.base import Setting

FEED_FORWARD = {
    "bert": r"\.layer\.\d\.(intermediate|output)\.",
    "roberta": r"\.layer\.\d\.(intermediate|output)\.",
    "electra": r"\.layer\.\d\.(intermediate|output)\.",
    "deberta": r"\.layer\.\d\.(intermediate|output)\.",
    "albert": r"\.albert_layers\.0\.ffn(_output)?\.",
    "modernbert": r"\.layers\.\d\.mlp\.(Wi|Wo)\.",
    "xlnet": r"\.layer\.\d\.ff\.",
    "gpt2": r"\.h\.\d\.mlp\.(c_fc|c_proj)\.",
    "llama": r"\.layers\.\d\.mlp\.(gate|up|down)_proj\.",
    "qwen3": r"\.layers\.\d\.mlp\.(gate|up|down)_proj\.",
    "qwen3_moe": r"\.layers\.\d\.mlp\.(experts\.(gate_up|down)_proj|gate\.weight)$",
    "t5": r"\.block\.\d\.layer\.\d\.DenseReluDense\.(wi|wo)\.",
    "umt5": r"\.block\.\d\.layer\.\d\.DenseReluDense\.(wi_0|wi_1|wo)\.",
    "bart": r"\.layers\.\d\.fc[12]\.",
    "transformer": r"\.layers\.\d\.fc[12]\.",
}
"""Parameters of feed-forward parts. A dot stands before the name, so that models that are their own base fit too."""


def feed_forward(family: str) -> str:
    """A family's pattern; of one that isn't written out above, by what its file says."""
    parts = "|".join(FAMILIES[family].feed_forward)
    return FEED_FORWARD.get(family, rf"\.\d\.(?:{parts})\.")


HEADS = ("cls", "lm_head", "head", "decoder.bias", "predictions", "sop_classifier", "generator_predictions",
         "generator_lm_head", "discriminator_predictions", "lm_loss", "classifier", "score", "classification_head",
         "qa_outputs", "pooler")
"""Where the names of an old head's parameters start."""



def heads(family: str) -> tuple[str, ...]:
    """Where they start in a family; in one that isn't written out above, also as its file says."""
    own = FAMILIES[family]
    return HEADS if family in FEED_FORWARD else (*HEADS, *own.heads.values(), *own.poolers)


def layer(family: str) -> str:
    """Where a parameter says of which layer it is."""
    stacks = {"layer", "layers", "h", "block", *(path.rpartition(".")[2] for path in FAMILIES[family].layers)}
    return rf"\.(?:{'|'.join(sorted(stacks))})\.(\d)\."


NORM = r"\.(LayerNorm|layernorm_embedding|ln_\w|\w*norm)\.(weight|bias)$"
"""GPT-2's, BART's of embeddings, and all that end in `norm`: `input_layernorm`, `q_norm`, `layer_norm`."""

TRAINS = {
    "full": lambda family, name, new: True,
    "feed_forward": lambda family, name, new: re.search(feed_forward(family), f".{name}"),
    "layers": lambda family, name, new: re.findall(layer(family), f".{name}")[:1] == ["1"],
    "head": lambda family, name, new: not new and name.startswith(heads(family)),
    "bias": lambda family, name, new: name.endswith(".bias"),
    "layer_norm": lambda family, name, new: re.search(NORM, f".{name}"),
}
"""By method, whether it says that it trains a parameter that isn't new; `new` tells whether others, a head's, are."""


def blank(family: str, head: str, new: tuple[str, ...] = (), **config: Any) -> tuple[Any, Setting]:
    """A tiny model without weights, and the setting it is tuned in."""
    import transformers

    kind = registry.find("backbones", family)
    fields = {**kind.sizes["tiny"], **SMALL[family], **config}
    with torch.device("meta"):
        model = getattr(transformers, head).from_config(transformers.AutoConfig.for_model(kind.model_type, **fields))
    return model, Setting(kind, head, new)


def trained(method: Any, family: str, head: str, new: tuple[str, ...] = (), **config: Any) -> list[str]:
    """The parameters that a method trains of a tiny model, a layer's in the order that they are in."""
    model, setting = blank(family, head, new, **config)
    return [name for name, parameter in method.apply(model, setting).named_parameters() if parameter.requires_grad]
