"""A student of fewer layers that starts from some of a pretrained model's (Sanh et al. 2019, §3: every second one)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING

from llmkit.backbones.base import stacks_of
from llmkit.models.files import LAYERS
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

    from llmkit.backbones.base import Family


def fewer(config: PretrainedConfig, family: type[Family], layers: Sequence[int]) -> PretrainedConfig:
    """A config of the layers that stay, counted from 0: of both stacks, where there are two.

    num_hidden_layers: 6 and [0, 2, 4]  ->  num_hidden_layers: 3. RequestError where there is no such layer.
    """
    if family.shares or not family.layers:
        why = "they share their weights" if family.shares else "llmkit has no file for this family"
        raise RequestError(f"backbone.layers: the layers of {config.model_type} can't be taken apart: {why}.")
    cut = deepcopy(config)
    counts = {name: count for name, count in vars(config).items() if name in LAYERS and isinstance(count, int)}
    for name, count in counts.items():
        if layers[-1] >= count:
            raise RequestError(f"backbone.layers: {layers[-1]} is no layer of this model, which has {count}, numbered "
                               "from 0.")
        setattr(cut, name, len(layers))
    kinds = getattr(config, "layer_types", None)
    if isinstance(kinds, list):
        cut.layer_types = [kinds[layer] for layer in layers]
    return cut


def cut_down(
    whole: PreTrainedModel, small: PreTrainedModel, family: type[Family], layers: Sequence[int],
) -> PreTrainedModel:
    """The smaller model with the weights of the layers that stay, and of all that is no layer."""
    lacking, strange = small.load_state_dict(moved(whole, family, layers), strict=False)
    if lacking or strange:
        raise RequestError(f"backbone.layers: {[*lacking, *strange][0]} of this model is of one layer "
                           "alone; keep the first layer, 0, first.")
    return small


def moved(whole: PreTrainedModel, family: type[Family], layers: Sequence[int]) -> dict[str, Tensor]:
    """A model's weights under the names that they have where only some layers stay.

    [0, 2]: layer.0.… stays, layer.2.… is layer.1.…, layer.1.… goes
    """
    places = {f"{name}.": number for stack in stacks_of(whole, family) for number, name in enumerate(stack)}
    found: dict[str, Tensor] = {}
    for name, weight in whole.state_dict().items():
        above = next((place for place in places if name.startswith(place)), None)
        if above is None:
            found[name] = weight
        elif places[above] in layers:
            stack = above.rstrip(".").rpartition(".")[0]
            found[f"{stack}.{layers.index(places[above])}.{name.removeprefix(above)}"] = weight
    return found
