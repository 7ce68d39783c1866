"""How an encoder's states become one vector a text, as sentence-transformers' files say it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pooling:
    """The mean of all states or the first one; of length 1 where they are normalized."""

    mode: str
    """mean or cls."""
    normalized: bool

    def pooled(self, states: Tensor, mask: Tensor) -> Tensor:
        """(batch, length, width), (batch, length) -> (batch, width)."""
        from torch.nn.functional import normalize

        if self.mode == "cls":
            vectors = states[:, 0]
        else:
            weights = mask[..., None].to(states.dtype)
            vectors = (states * weights).sum(1) / weights.sum(1)
        return normalize(vectors, dim=-1) if self.normalized else vectors

    def in_torch(self) -> list[str]:
        """The same as lines for a reader: `states` and `inputs` to `vectors`."""
        norm = ["vectors = vectors / vectors.norm(dim=-1, keepdim=True)"] if self.normalized else []
        if self.mode == "cls":
            return ["vectors = states[:, 0]", *norm]
        return ['mask = inputs["attention_mask"][..., None]', "vectors = (states * mask).sum(1) / mask.sum(1)", *norm]


def read(folder: Path) -> Pooling | None:
    """What a folder says; None where it says nothing, or another way than those two."""
    if not (folder / "modules.json").is_file():
        return None
    modules = {module["type"].rpartition(".")[2]: folder / module["path"]
               for module in json.loads((folder / "modules.json").read_text(encoding="utf-8"))}
    if "Pooling" not in modules or modules.keys() - {"Transformer", "Pooling", "Normalize"}:
        return None
    said = json.loads((modules["Pooling"] / "config.json").read_text(encoding="utf-8"))
    on = [name for name, value in said.items() if name.startswith("pooling_mode") and value is True]
    mode = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}.get(on[0]) if len(on) == 1 else None
    return Pooling(mode, "Normalize" in modules) if mode else None
