"""How hidden states become one vector a text, as a folder's files for sentence-transformers say it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.models.files import read_json, read_value
from llmkit.system.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    from torch import Tensor

MODES = ("mean", "cls", "lasttoken", "max", "weightedmean", "mean_sqrt_len")
"""What `pooled` can do."""
MODULES = "modules.json"
CONFIG = "config.json"
"""Of a module, in its own folder."""


@dataclass(frozen=True)
class Pooling:
    """What is made of the last hidden states."""

    modes: tuple[str, ...] = ()
    """Of several, the vectors stand side by side; none where the files don't say."""
    normalized: bool = False
    """Whether vectors have length 1."""

    def vectors(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        """(rows, length, width), (rows, length) -> (rows, width times the number of modes)."""
        import torch
        from torch.nn.functional import normalize

        parts = [pooled(hidden, mask, mode) for mode in self.modes]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return normalize(whole, dim=1) if self.normalized else whole


def read(folder: Path, prompted: bool = False) -> Pooling:
    """What a folder's files say; RequestError for a module or a pooling that llmkit doesn't know.

    `prompted`: whether the model has texts that stand before others, which llmkit pools with them.
    """
    path = folder / MODULES
    if not path.is_file():
        return Pooling()
    modes, normalized = tuple[str, ...](), False
    for module in _modules(path):
        kind = module["type"].rpartition(".")[2]
        if kind == "Pooling":
            modes = _modes(_inside(folder, module["path"]) / CONFIG, prompted)
        elif kind == "Normalize":
            normalized = True
        elif kind != "Transformer":
            raise RequestError(f"{path}: llmkit doesn't know a module {kind!r}; it reads Transformer, Pooling and "
                               "Normalize.")
    return Pooling(modes, normalized)


def _modules(path: Path) -> list[dict[str, str]]:
    """[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}, …]; CheckpointError for anything else."""
    found: Any = read_value(path)
    if not isinstance(found, list) or not all(
            isinstance(one, dict) and all(isinstance(one.get(name, ""), str) for name in ("type", "path"))
            for one in found):
        raise CheckpointError(f'{path}: must be a list of modules, as [{{"type": "…Pooling", "path": "1_Pooling"}}].')
    return [{"type": one.get("type", ""), "path": one.get("path", "")} for one in found]


def _inside(folder: Path, name: str) -> Path:
    """A folder in a model's own; CheckpointError for any other."""
    place = folder / name
    if not place.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(f"{folder / MODULES}: names {name}, which isn't in the folder of the model.")
    return place


def _modes(path: Path, prompted: bool) -> tuple[str, ...]:
    about = read_json(path) if path.is_file() else {}
    modes = _named(about)
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown or not modes:
        raise RequestError(f"{path}: llmkit doesn't know this pooling: {', '.join(unknown) or 'none is named'}; it "
                           f"knows {', '.join(MODES)}.")
    if about.get("include_prompt") is False and prompted:
        raise RequestError(f"{path}: include_prompt is false: llmkit doesn't leave prompts out of the pooling.")
    return modes


def _named(about: Mapping[str, Any]) -> tuple[str, ...]:
    """The modes of a module's config, by the key of today or the many of before.

    {"pooling_mode": "mean"}  ->  ("mean",)
    {"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}  ->  ("cls",)
    """
    if isinstance(about.get("pooling_mode"), str):
        return (about["pooling_mode"],)
    on = [name for name, value in about.items() if name.startswith("pooling_mode_") and value]
    return tuple(name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token") for name in on)


def write(folder: Path, mode: str, width: int | None) -> None:
    """Leave the files by which sentence-transformers opens a saved model whose vectors have so many numbers."""
    module, place = "sentence_transformers.models.", "1_Pooling"
    modes = {"cls_token": mode == "cls", "mean_tokens": mode == "mean"}
    files: dict[str, Any] = {
        MODULES: [{"idx": 0, "name": "0", "path": "", "type": f"{module}Transformer"},
                  {"idx": 1, "name": "1", "path": place, "type": f"{module}Pooling"}],
        f"{place}/{CONFIG}": {
            "word_embedding_dimension": width, **{f"pooling_mode_{name}": on for name, on in modes.items()}}}
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2))


def pooled(hidden: Tensor, mask: Tensor | None, mode: str) -> Tensor:
    """One vector a row: (rows, length, width) -> (rows, width). `mask` (rows, length) is 0 where padding follows.

    The modes are sentence-transformers': the mean of the states, the sum of them over the root of their number
    (mean_sqrt_len), a mean that weighs the later more (weightedmean: 1, 2, 3, …), the highest number of each column
    (max), the first state (cls) or the last (lasttoken).
    """
    import torch

    if mask is None:
        mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    if mode == "cls":
        return hidden[:, 0]
    if mode == "lasttoken":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]
    if mode == "max":
        return hidden.masked_fill(mask[:, :, None] == 0, float("-inf")).amax(1)
    weights = mask.to(hidden.dtype)
    if mode == "weightedmean":
        weights = weights * torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
    total = weights.sum(1, keepdim=True)
    return (hidden * weights[:, :, None]).sum(1) / (total.sqrt() if mode == "mean_sqrt_len" else total)
