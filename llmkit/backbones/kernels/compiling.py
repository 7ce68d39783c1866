"""torch.compile for a model's layers: one compilation serves them all, and no name of a weight changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmkit.backbones.base import Family, stacks_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def compile_layers(model: PreTrainedModel, family: type[Family]) -> None:
    """Compile each layer where it stands.

    Not the whole model: its head sees chosen positions only, through hooks that are other ones in each step, and
    compiled code would go on with the first. What tuning puts into the layers is compiled with them.
    """
    for stack in stacks_of(model, family):
        for name in stack:
            model.get_submodule(name).compile()  # in place: a wrapper would change the names of the weights
