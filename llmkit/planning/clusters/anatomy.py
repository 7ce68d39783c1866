"""What of a model decides its memory, its work and its traffic: counted in one without weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmkit.backbones.base import Family, stacks_of
from llmkit.backbones.kernels.privates import answered
from llmkit.backbones.shared.routers import Routers
from llmkit.data.tokenizer_files import rows_for
from llmkit.models import quantizing
from llmkit.planning.settle import Settled, weightless
from llmkit.planning.vocabulary import speak
from llmkit.tuning.base import Setting

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

FOUND = 0.15
"""Of an encoder's positions, those that a loss over the vocabulary reads: as many as BERT hides."""
NATIVE, WRITTEN_OUT = 1, 2
"""Tensors in fp32 that a normalisation keeps: torch's own what comes in; one of many operations also what it makes."""


@dataclass(frozen=True)
class Anatomy:
    """Numbers of a model, none of them bytes but `held`. Llama 3 8B: 8.03e9 parameters in 32 layers of 218e6 …"""

    parameters: int
    """All of them, what is tied once, with what the tuning method adds."""
    trained: int
    """Those that train."""
    idle: int
    """Those that aren't at work for a token: of the experts that it doesn't go through."""
    held: int
    """Bytes of what doesn't train: fp32, or 4 or 8 bits where the base is quantised."""
    layers: int
    """Of all stacks together."""
    layer: int
    """Parameters of the largest layer."""
    multiplied: int
    """Numbers of the weights that are multiplied: those of which a 16-bit copy is made in a step."""
    width: int
    attention: int
    """Heads times their width, of a layer's attention."""
    linear: float
    """Numbers that go into a layer's linear layers and come out of them, for a token; of experts, for those chosen."""
    normed: float
    """Numbers that a layer's normalisations keep for a token, in fp32."""
    scores: int
    """Heads whose weights (one for each pair of tokens) are kept a layer; 0 where attention keeps none."""
    vocabulary: int
    """Tokens that the head tells apart; 0 where it makes no logits over words."""
    logits: float
    """Logits a token that are kept; 0 where the loss is made in chunks."""
    stacks: int = 1
    """2 in an encoder-decoder, whose tokens go through one of the two stacks."""

    @property
    def at_work(self) -> int:
        """Parameters that a token goes through: N of "6 N" (Kaplan et al. 2020, §2.1).

        As in PaLM's appendix B and the figures of torchtitan and llm-foundry, tables of embeddings count, so that
        published utilisations are in one measure. A token of an encoder-decoder goes through one of two stacks.
        """
        active = self.parameters - self.idle
        return active - self.layer * self.layers // 2 if self.stacks == 2 else active

    @property
    def root(self) -> int:
        """Parameters outside the layers: embeddings, the head."""
        return max(0, self.parameters - self.layer * self.layers)


def anatomy(settled: Settled) -> Anatomy:
    """Count the model of a recipe, tuned as the recipe says, without making its weights."""
    model, family = weightless(settled, elsewhere(settled)), settled.family
    routers = Routers.of(model)
    idle = 0 if routers is None else routers.idle(model)
    quantized = settled.recipe.backbone.quantization_config
    whole_bytes = None
    if quantized is not None:
        kept = {*quantizing.kept_whole(model, family), *(quantized.llm_int8_skip_modules or ())}
        whole_bytes = quantizing.held(model, kept, quantized)
    layers = [model.get_submodule(name) for stack in stacks_of(model, family) for name in stack]
    chunked = "chunked_loss" in settled.recipe.training.shortcuts and family.plain
    counted = of_layers(model, family, layers, 1 if routers is None else routers.k)
    vocabulary = words(model)
    before = sum(parameter.numel() for parameter in model.parameters())
    tuned = apply(settled, model)
    parameters = sum(parameter.numel() for parameter in tuned.parameters())
    trained = sum(parameter.numel() for parameter in tuned.parameters() if parameter.requires_grad)
    held = 4 * (parameters - trained)
    if whole_bytes is not None:  # what the method adds trains
        held = whole_bytes + 4 * max(0, parameters - before - trained)
    return Anatomy(
        parameters=parameters, trained=trained, idle=idle, held=held, vocabulary=vocabulary,
        logits=0.0 if chunked or not vocabulary else vocabulary * (FOUND if family.shape == "encoder" else 1.0),
        stacks=2 if family.shape == "encoder-decoder" else 1, **counted)


def elsewhere(settled: Settled) -> int | None:
    """Tokens of a tokenizer that a new model takes from elsewhere; None where it is trained, or the model's own."""
    named = settled.recipe.tokenizer
    if settled.base is not None or named is None or named.pretrained is None:
        return None
    return rows_for(speak(settled))


def words(model: PreTrainedModel) -> int:
    """How many tokens a head over words tells apart; 0 where it is none."""
    output: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return 0 if output is None else int(output.weight.shape[0])


def of_layers(
    model: PreTrainedModel, family: type[Family], layers: list[nn.Module], chosen: int,
) -> dict[str, Any]:
    """What of an `Anatomy` is in the layers; of a model whose layers aren't known, all of it is taken for one."""
    from torch import nn

    config: Any = model.config.get_text_config()
    count = config.num_hidden_layers * (2 if family.shape == "encoder-decoder" else 1)
    if not layers:
        layers = [model]
    table = model.get_input_embeddings()
    tables = {id(parameter) for part in (table, model.get_output_embeddings())  # type: ignore[no-untyped-call]
              if part is not None for parameter in part.parameters()}
    normed = sum(kept_by_norms(layer, config.hidden_size, config.num_attention_heads) for layer in layers) / len(layers)
    sizes = [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers]
    linear = sum(passing(layer, tables, chosen) for layer in layers) / len(layers)
    if len(layers) == 1 < count and not family.shares:  # all layers are in the one that was looked at
        sizes, linear = [sum(sizes) // count], linear / count
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    multiplied = sum(
        parameter.numel() for name, parameter in model.named_parameters() if parameter.dim() == 2
        and not isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Embedding))
    return {
        "layers": count, "layer": max(sizes) if not family.shares else max(sizes) // count, "multiplied": multiplied,
        "width": config.hidden_size, "attention": head * config.num_attention_heads, "linear": linear,
        "normed": normed / (count if len(layers) == 1 < count and not family.shares else 1),
        "scores": config.num_attention_heads if family.attention == "eager" else 0}


def passing(layer: nn.Module, tables: set[int], chosen: int) -> float:
    """Numbers that a token puts into the linear layers of a layer and gets out of them.

    GPT-2, 768 wide: 768 + 2,304 of c_attn, 768 + 768, 768 + 3,072, 3,072 + 768  ->  16 widths. Those of experts,
    (experts, out, in), count for each that is chosen, and twice: transformers' product of many experts isn't under
    autocast, and keeps fp32.
    """
    return float(sum(
        sum(parameter.shape[-2:]) * (2 * chosen if parameter.dim() == 3 else 1)
        for parameter in layer.parameters() if parameter.dim() in (2, 3) and id(parameter) not in tables
        and min(parameter.shape) > 1))


def kept_by_norms(layer: nn.Module, width: int, heads: int) -> float:
    """Numbers in fp32 that the normalisations of a layer keep for a token; those of a head's width are of each head."""
    from torch import nn

    kept = 0
    for part in layer.modules():
        own = dict(part.named_parameters(recurse=False))
        if own and all(parameter.dim() == 1 for parameter in own.values()):
            size = next(iter(own.values())).shape[0]
            kept += (NATIVE if isinstance(part, nn.LayerNorm) else WRITTEN_OUT) * size * (1 if size >= width else heads)
    return float(kept)


def apply(settled: Settled, model: PreTrainedModel) -> PreTrainedModel:
    """The tuned model, still without weights: what trains has `requires_grad`."""
    import torch

    recipe, family = settled.recipe, settled.family
    head = family.heads.get(settled.head)
    new = (head,) if recipe.task is not None and head is not None and settled.head != "AutoModelForCausalLM" else ()
    known = dict(model.named_modules())
    tokenizer = speak(settled) if recipe.tuning.virtual_tokens else None
    setting = Setting(
        family, settled.head, tuple(name for name in new if name in known), "", recipe.training.gradient_checkpointing,
        steps=recipe.training.max_steps or 1000, epoch=100.0, tokenizer=tokenizer,
        learning_rate=recipe.training.learning_rate or 0.0, model_learning_rate=recipe.training.learning_rate or 0.0)
    with torch.device("meta"), answered():
        return recipe.tuning.apply(model, setting)
