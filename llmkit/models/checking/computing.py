"""A model that opened and can't compute: what its config says is told as the reason, not as a mistake of ours."""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING

from llmkit.models.files import UNREADABLE, in_one_line
from llmkit.models.layout import CONFIG
from llmkit.system.errors import CheckpointError, LlmkitError, RequestError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

OPENED: ContextVar[Path] = ContextVar("opened")
"""The folder whose weights were asked for last."""


def not_computing(error: BaseException) -> LlmkitError | None:
    """An error that a model's own code raised, told as one of its config; None where it is from anywhere else.

    {"rope_scaling": {"type": "longrope", "long_factor": [1, 1]}}  ->  my/model: its model can't compute …
    """
    if not isinstance(error, UNREADABLE) or not any(
            _is_modeling(Path(frame.f_code.co_filename)) for frame, _ in walk_tb(error.__traceback__)):
        return None
    said = f"{type(error).__name__}: {in_one_line(error)}"
    folder = OPENED.get(None)
    if folder is None:
        return RequestError(f"backbone.config: the model can't compute as it is asked for: {said}")
    return CheckpointError(f"{folder}: its model can't compute as {CONFIG} has it: {said}")


def _is_modeling(path: Path) -> bool:
    """Whether a file has the code of models: transformers/models/bert/modeling_bert.py, modeling_rope_utils.py."""
    return "transformers" in path.parts and path.name.startswith(("modeling_", "masking_utils"))


def not_made(folder: Path, config: PretrainedConfig, head: str, error: BaseException) -> CheckpointError:
    """Why a model couldn't be read: its config makes none, its weights are of other shapes, or what was said."""
    import torch
    import transformers
    from transformers.initialization import no_init_weights

    try:
        with torch.device("meta"), no_init_weights():
            made = getattr(transformers, head).from_config(config)
    except UNREADABLE as own:
        return CheckpointError(f"{folder / CONFIG}: no model can be made by what it says: {type(own).__name__}: "
                               f"{in_one_line(own)}")
    asked = {name: tuple(weight.shape) for name, weight in made.state_dict().items()}
    for name, shape in _held(folder):
        prefix = f"{made.base_model_prefix}."
        known = next((one for one in (name, prefix + name, name.removeprefix(prefix)) if one in asked), None)
        if known is not None and asked[known] != shape:
            return CheckpointError(f"{folder}: the weight {name} is of shape {shape}, and by {CONFIG} it would be "
                                   f"{asked[known]}: it isn't the config of these weights.")
    return CheckpointError(f"{folder}: its weights can't be read: {in_one_line(error)}")


def _held(folder: Path) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of each weight in a folder's files; those of a file that can't be read are left out."""
    from safetensors import SafetensorError, safe_open

    found: list[tuple[str, tuple[int, ...]]] = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "np") as file:
                found += [(name, tuple(file.get_slice(name).get_shape())) for name in file.keys()]  # noqa: SIM118
        except (SafetensorError, *UNREADABLE):
            continue
    return found
