"""The head that says a text's label, by what it reads of the text: the first token, the last, or the mean of all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from llmkit.backbones.base import Family
from llmkit.models import pooling
from llmkit.objectives.shared.embedding import describe
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor, nn

Reads: TypeAlias = Literal["auto", "cls", "last", "mean"]
WHOLE, TOKENS = "AutoModelForSequenceClassification", "AutoModelForTokenClassification"
"""Auto classes: one answer a text, read where the family's own classifier reads; and one a token."""
TOLD = ("What it says of a text is the mean of its logits over the tokens, padding left out (`task.pooling: mean`). "
        f"`{WHOLE}` would open it with a head of random weights in the place of its own.")
"""What a model card says of a model that averages."""


def head_for(family: type[Family], reads: Reads) -> str:
    """The auto class that has what is read; RequestError where a family can't.

    A mean is of the answers of all tokens: of a linear layer it is the layer's answer to the mean of their states.
    """
    usual = "cls" if family.shape == "encoder" else "last"
    if reads in ("auto", usual) or (reads == "mean" and family.pooling):
        return WHOLE
    if reads != "mean":
        other = "" if TOKENS not in family.heads and not family.pooling else ", or mean"
        raise RequestError(f"pooling: {reads}: the classifier of a {family.model_type} reads the "
                           f"{'first' if usual == 'cls' else 'last'} token of a text; choose {usual}{other}.")
    if TOKENS not in family.heads:
        raise RequestError(f"pooling: mean: transformers has no head over the tokens of a {family.model_type}; "
                           f"choose {usual}, what its classifier reads.")
    return TOKENS


def check(family: type[Family], reads: Reads, config: Mapping[str, Any]) -> None:
    """RequestError where backbone.config says of the same thing something else."""
    said = config.get(family.pooling, reads)
    if reads != "auto" and family.pooling and said != reads:
        raise RequestError(f"task.pooling: {reads}, and backbone.config.{family.pooling}: {said} means the same field "
                           "of the model; leave one of them out.")


def facts(family: type[Family], reads: Reads) -> dict[str, Any]:
    """What the config of a ModernBERT says of it, whose own classifier reads either: {"pooling": {field: "mean"}}."""
    return {"pooling": {family.pooling: reads}} if family.pooling and reads != "auto" else {}


def of_text(logits: Tensor, mask: Tensor | None) -> Tensor:
    """One answer a text, (rows, labels): of answers a token (rows, length, labels) the mean; padding doesn't count."""
    return logits if logits.dim() == 2 else pooling.pooled(logits, mask, "mean")


def numbers_in_fp32(model: nn.Module) -> None:
    """Where a model answers by a number, the layer that makes it, of 1 output, answers in fp32 under autocast too.

    bf16 has 8 bits: between 2 and 4 it knows 128 numbers, and texts that differ would have one score.
    """
    from torch import nn

    for layer in model.modules() if model.config.problem_type == "regression" else ():  # type: ignore[union-attr]
        if isinstance(layer, nn.Linear) and layer.out_features == 1 and not hasattr(layer, "whole_number"):
            layer.register_forward_hook(_in_fp32)
            layer.whole_number = True  # type: ignore[assignment]


def _in_fp32(layer: nn.Module, given: tuple[Tensor, ...], _: Tensor) -> Tensor:
    """A linear layer's answer once more, without autocast."""
    import torch
    from torch.nn.functional import linear

    weight, bias = layer.get_parameter("weight"), getattr(layer, "bias", None)
    with torch.autocast(given[0].device.type, enabled=False):
        return linear(given[0].float(), weight.float(), None if bias is None else bias.float())


def leave(folder: Path, family: type[Family], reads: Reads) -> None:
    """Say beside a saved model that its answer is a mean over tokens, as sentence-transformers says it of vectors."""
    if reads == "mean" and head_for(family, reads) == TOKENS:
        describe(folder, "mean")


def averages(kind: str, folder: Path) -> bool:
    """Whether a model of an auto class answers for a text by the mean over its tokens: what `leave` said."""
    return kind == TOKENS and pooling.read(folder).modes == ("mean",)
